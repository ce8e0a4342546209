"""How exactly the exported file computes what PyTorch computes, for every contract and spelling of the warp.

    python benchmarks/parity.py models/demo/small.safetensors --json parity.json

Inputs are held-out synthetic people. Beside the difference from PyTorch in FP32 stands the error of both against the
same network in float64: a runtime may round in another order, but not worse.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from posewarp.export.capture.difference import Parity, compare
from posewarp.export.generator_spec import generator_spec
from posewarp.export.to_onnx import to_onnx
from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.generator import Generator
from posewarp.models.heatmaps import to_heatmaps
from posewarp.runtime import command
from posewarp.runtime.errors import ParityError
from posewarp.runtime.files import atomic_write
from posewarp.runtime.session import Session

WARPS = ("portable", "gridsample", "gather")
BATCHES = (1, 2, 3, 8)
# The file's error against float64 may be this many times PyTorch's own.
FLOAT64_RATIO_LIMIT = 2.0


@dataclass(frozen=True)
class Row:
    """One exported file.

    Attributes:
        io, warp: contract and spelling.
        worst: of all batches, the one whose maximum is the largest.
        float64_ratio: mean error of the file over PyTorch's, both against float64, at the largest batch; None for
            pictures, which are rounded to 8 bits.
    """

    io: str
    warp: str
    worst: Parity
    float64_ratio: float | None

    @property
    def passed(self) -> bool:
        return self.worst.passed and (self.float64_ratio is None or self.float64_ratio <= FLOAT64_RATIO_LIMIT)


def people_inputs(config: GeneratorConfig, io: str, batch: int) -> tuple[torch.Tensor, ...]:
    """Inputs of a contract: ``batch`` different held-out synthetic people."""
    people = SyntheticPeople(config.height, config.width, split="test")
    pairs = [people[i] for i in range(batch)]
    image, *keypoints = (
        torch.from_numpy(np.stack([getattr(pair, name) for pair in pairs]))
        for name in ("source_image", "source_keypoints", "target_keypoints")
    )
    if io == "image":
        return image, *keypoints
    settings = (config.height, config.width, config.heatmap_sigma_px, config.heatmap_kind)
    return image.float().permute(0, 3, 1, 2) / 127.5 - 1.0, *(to_heatmaps(k, *settings) for k in keypoints)


@torch.no_grad()
def measure(generator: Generator, io: str, warp: str, model: Path) -> Row:
    """Export to ``model`` and compare it, in ONNX Runtime on the CPU, with PyTorch."""
    spec = generator_spec(generator, io=io)
    to_onnx(spec, model, warp=warp)
    with Session.open(model, plugins=()) as session:
        results = []
        for batch in BATCHES:
            inputs = people_inputs(generator.config, io, batch)
            feeds = {name: value.numpy() for name, value in zip(spec.input_names, inputs, strict=True)}
            got, expected = session.run(feeds)["generated"], spec.module(*inputs)[0].numpy()
            results.append(compare("generated", {"batch": batch}, got, expected))
    ratio = None
    if io == "tensors":
        exact = _to_float64(generator)(*(value.double() for value in inputs)).numpy()
        ratio = float(np.abs(got - exact).mean() / np.abs(expected - exact).mean())
    return Row(io, warp, max(results, key=lambda parity: parity.max), ratio)


def _to_float64(generator: Generator) -> nn.Module:
    twin = Generator(generator.config).double().eval()
    twin.load_state_dict(generator.state_dict())
    return twin


def parity(
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Of our generator.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Compare every contract and spelling with PyTorch; exit with 1 if one is beyond its limit."""
    generator = checkpoint.load(path).generator
    table = Table("contract", "warp", "p99.9", "max", "limits", "error to float64 / PyTorch's")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for io in ("tensors", "image"):
            for warp in WARPS:
                row = measure(generator, io, warp, Path(folder) / "model.onnx")
                rows.append(row)
                worst = row.worst
                unit = " of 255" if io == "image" else ""
                table.add_row(
                    io,
                    warp,
                    f"{worst.p999:.1e}" if io == "tensors" else f"{worst.p999:.0f}{unit}",
                    f"{worst.max:.1e}" if io == "tensors" else f"{worst.max:.0f}{unit}",
                    f"{worst.p999_limit:.1e}, {worst.max_limit:.1e}" if io == "tensors" else f"1{unit}",
                    "-"
                    if row.float64_ratio is None
                    else f"{row.float64_ratio:.2f} (limit {FLOAT64_RATIO_LIMIT:.0f})",
                )
    Console().print(table)
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if failed := [f"{row.io}, {row.warp}" for row in rows if not row.passed]:
        raise ParityError(f"beyond the limits: {'; '.join(failed)}")


app = typer.Typer(add_completion=False)
app.command()(parity)

if __name__ == "__main__":
    command.main(app)
