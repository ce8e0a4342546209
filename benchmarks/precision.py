"""What FP16 does to a network's pixels: everything in FP16, by a common converter, and by ``posewarp fp16``.

    python benchmarks/precision.py                                      demo, deepfashion and deepfashion-512x352
    python benchmarks/precision.py demo mine.onnx=inputs.npz --json precision.json

Our networks run on held-out synthetic people; deepfashion has random weights that move features by up to 8 px. Any
other FP32 file comes with real inputs (arrays by input name, samples along the first axis). FP16 is emulated on the
CPU, which is a model of an engine's arithmetic, no bound on it.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import onnx
import typer
from onnx import ModelProto
from onnxconverter_common.float16 import convert_float_to_float16
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from posewarp.benchmarks.random_generator import make_random_generator
from posewarp.export.generator_spec import generator_spec
from posewarp.export.graphs.graph import inline_functions, load_model
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.ladder.drift import WarpDrift
from posewarp.export.ladder.measures import TOLERANCES, OutputMeasures
from posewarp.export.ladder.sample_data import load_inputs, read_contract
from posewarp.export.precision.gate import Gate
from posewarp.export.precision.half import convert
from posewarp.export.to_fp16 import to_fp16
from posewarp.export.to_onnx import to_onnx
from posewarp.models.config import GeneratorConfig
from posewarp.runtime import command
from posewarp.runtime.errors import ParityError
from posewarp.runtime.files import atomic_write, check_writable

OURS = ("demo", "deepfashion", "deepfashion-512x352")
# As many as to_fp16 judges itself by.
RUNS = 3


@dataclass(frozen=True)
class Row:
    """One network, converted in one way.

    Attributes:
        network: its name.
        conversion: ``all fp16`` (our converter, nothing kept), ``common`` (onnxconverter-common, nothing blocked) or
            ``posewarp``.
        warps: how many there are.
        same_flow_max_px: shift of the worst warp's positions where both graphs are fed the same FP16 flow.
        own_flow_p999_px: 99.9th percentile of the worst warp's shift inside the frame, both graphs whole.
        psnr_db: from FP32, of the worst output.
        share_by_count, share_by_flops: of Conv, ConvTranspose, Gemm and MatMul in FP16.
        kept: nodes that stay FP32; None where no one decided.
        failure: why there are no figures.
    """

    network: str
    conversion: str
    warps: int | None = None
    same_flow_max_px: float | None = None
    own_flow_p999_px: float | None = None
    psnr_db: float | None = None
    share_by_count: float | None = None
    share_by_flops: float | None = None
    kept: int | None = None
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether its positions stay where FP32's are."""
        limits = TOLERANCES["fp16"]
        return not self.failure and (
            (self.same_flow_max_px or 0) <= limits.same_flow_px
            and (self.own_flow_p999_px or 0) <= limits.own_flow_px
        )


def measure(network: str, path: Path, data: str | None = None) -> Iterator[Row]:
    """Convert an FP32 file in three ways, ours last; see ``Row``.

    Args:
        network: what the rows call it.
        path: the ONNX file.
        data: inputs (see sample_data.py); synthetic people by default, for our contracts.
    """
    reference = inline_functions(rewrite_warps(load_model(path), "gridsample"))
    gate = Gate(reference, load_inputs(data, read_contract(reference), count=RUNS), "fp16")
    verdict = gate.judge(convert(reference, {}))
    yield Row(network, "all fp16", **_figures(verdict.outputs, verdict.drifts))
    row = Row(network, "common")
    try:
        verdict = gate.judge(_by_common_converter(reference))
        yield dataclasses.replace(row, **_figures(verdict.outputs, verdict.drifts))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        yield dataclasses.replace(row, failure=f"not valid ONNX: {' '.join(str(exc).split())}")
    row = Row(network, "posewarp")
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = to_fp16(path, Path(folder) / "model.fp16.onnx", data=data)
        yield dataclasses.replace(
            row,
            **_figures(report.parity, report.drifts),
            share_by_count=report.share_by_count,
            share_by_flops=report.share_by_flops,
            kept=len(report.kept),
        )
    except ParityError as exc:
        yield dataclasses.replace(row, failure=str(exc))


def _by_common_converter(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each constant that it clips
        converted = convert_float_to_float16(copy, keep_io_types=True)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def _figures(outputs: Sequence[OutputMeasures], drifts: Sequence[WarpDrift]) -> dict[str, float | int | None]:
    def worst(name: str) -> float | None:
        return max((px for drift in drifts if (px := getattr(drift, name)) is not None), default=None)

    return {
        "warps": len(drifts),
        "same_flow_max_px": worst("same_flow_max_px"),
        "own_flow_p999_px": worst("own_flow_p999_px"),
        "psnr_db": min(output.psnr_db for output in outputs),
    }


def export_ours(name: str, path: Path) -> None:
    """Write one of ``OURS``, in the contract of pictures and keypoints."""
    if name == "demo":
        to_onnx(resources.files("posewarp.models") / "demo/small.safetensors", path)
        return
    config = GeneratorConfig.preset("deepfashion")
    if name == "deepfashion-512x352":
        config = dataclasses.replace(config, height=512, width=352)
    to_onnx(generator_spec(make_random_generator(config), io="image"), path)


def precision(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NETWORK...]",
            help=f"{', '.join(OURS)} (all three by default), or MODEL.onnx=INPUTS.npz.",
        ),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Compare conversions to FP16; exit with 1 if ours moves a warp's positions."""
    if json_path is not None:
        check_writable(json_path)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for entry in track(networks or OURS, "measuring", transient=True):
            name, _, data = entry.partition("=")
            path = Path(name)
            if name in OURS:
                path = Path(folder) / f"{name}.onnx"
                export_ours(name, path)
            rows += measure(path.stem, path, data or None)
    console = Console()
    console.print(_table(rows))
    for row in rows:
        if row.failure:
            console.print(f"{row.network}, {row.conversion}: {row.failure}", highlight=False, markup=False)
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if failed := [row for row in rows if row.conversion == "posewarp" and not row.passed]:
        raise ParityError(
            "; ".join(f"{row.network}: {row.failure or 'its positions moved'}" for row in failed)
        )


def _table(rows: Sequence[Row]) -> Table:
    """As wide as 80 columns hold: nothing is cut off."""
    table = Table(
        title="FP16 against FP32: the worst warp, the worst output",
        box=box.SIMPLE,
        collapse_padding=True,
        pad_edge=False,
    )
    for head in ("network", "by"):
        table.add_column(head, no_wrap=True)
    for head in ("same flow\npx", "own flow\npx", "PSNR\ndB", "in\nFP16", "of the\nFLOPs", "kept"):
        table.add_column(head, justify="right", no_wrap=True)
    previous = None
    for row in rows:
        if row.network != previous:
            table.add_section()
        name = row.network if row.network != previous else ""
        previous = row.network
        if row.failure:
            table.add_row(name, row.conversion, "-", "-", "-")
            continue
        pixels = (row.same_flow_max_px, row.own_flow_p999_px)
        shares = (row.share_by_count, row.share_by_flops)
        table.add_row(
            name,
            row.conversion,
            *("-" if px is None else f"{px:.4f}" for px in pixels),
            f"{row.psnr_db:.1f}",
            *("" if share is None else f"{share:.1%}" for share in shares),
            "" if row.kept is None else str(row.kept),
        )
    return table


app = typer.Typer(add_completion=False)
app.command()(precision)

if __name__ == "__main__":
    command.main(app)
