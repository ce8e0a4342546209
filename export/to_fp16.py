"""FP32 ONNX file to a strongly typed FP16 or BF16 one that samples where the FP32 one does."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from onnx import ModelProto, helper

from posewarp.export.graphs.coordinates import CoordinateSlice, Walker, coordinate_slices, input_nodes
from posewarp.export.graphs.execution import open_model
from posewarp.export.graphs.graph import Index, inline_functions, load_model, read_graph, save_model
from posewarp.export.graphs.warps import SPELLINGS, find_warps, rewrite_warps
from posewarp.export.ladder.sample_data import describe, load_inputs, read_contract
from posewarp.export.precision.bounds import bounded_nodes
from posewarp.export.precision.gate import Gate, Verdict
from posewarp.export.precision.half import LOW_TYPES, PRECISION_KEY, convert, refuse_mixed
from posewarp.export.precision.heads import kept_heads
from posewarp.export.precision.ranges import measure_ranges
from posewarp.export.precision.report import Fp16Report, KeptNode, shares
from posewarp.export.precision.search import smallest_set
from posewarp.export.splitting.positions import nodes_behind
from posewarp.runtime import command
from posewarp.runtime.errors import BackendError, ExportError, ParityError
from posewarp.runtime.files import atomic_write, check_outputs, sha256

__all__ = ["convert", "to_fp16"]

# Ranges come from the first two runs, the gate from the last two: one that the ranges do not know.
_RUNS = 3
# Gates that --search may try.
_SEARCH_BUDGET = 40


def to_fp16(
    model_path: str | Path,
    output: str | Path | None = None,
    *,
    dtype: str = "fp16",
    warp: str | None = None,
    data: str | Path | None = None,
    search: bool = False,
    tolerance: float | None = None,
) -> Fp16Report:
    """Convert to mixed precision: features in 16 bits, all that computes where a warp samples in FP32.

    What stays FP32 besides: layers that give a position or too long a flow; keypoints up to their heat maps; and
    what 16 bits cannot hold on real inputs, by measured ranges. The file is written if its emulation on the CPU
    gives the FP32 file's results, within a tolerance.

    Args:
        model_path: an FP32 ONNX file, ours or any other.
        output: the file, replaced if it exists; by default ``model.fp16.onnx`` beside ``model.onnx``.
        dtype: ``fp16`` or ``bf16``.
        warp: spelling of the warps (see warps.py); by default ``portable``, our node with its body. ``plugin`` has
            no body, ``gridsample`` is FP32 with casts around it, ``gather`` takes FP32 positions.
        data: real inputs (see sample_data.py); by default the synthetic people, for our contracts only.
        search: if the gate fails, bisect which further nodes to hold in FP32 until it passes.
        tolerance: absolute, as a share of full scale, and relative (see ``measures.Tolerance``); by default 0.005,
            for bf16 0.04.

    Returns: the report.
    Raises: ExportError if the file cannot be converted; ParityError if the gate fails; then no file is written.
    """
    started = time.perf_counter()
    model_path = Path(model_path)
    if dtype not in LOW_TYPES:
        raise ExportError(f"no dtype {dtype!r}; there are {', '.join(LOW_TYPES)}")
    if warp is not None and warp not in SPELLINGS:
        raise ExportError(f"no warp spelling {warp!r}; there are {', '.join(SPELLINGS)}")
    output = _output(model_path, output, dtype)
    check_outputs({"output": output}, [model_path, data], ExportError)
    model = load_model(model_path)
    refuse_mixed(model)
    if not find_warps(model):
        spelling = "none"
    else:
        spelling = warp or "portable"
        model = rewrite_warps(model, "gridsample" if spelling == "gridsample" else "portable")
    model = inline_functions(model)
    del model.graph.value_info[:]
    contract = read_contract(model)
    runs = load_inputs(data, contract, count=_RUNS)
    gate = Gate(model, runs[-2:], dtype, tolerance)
    _check_reference(gate)

    walker, slices = Walker(model), coordinate_slices(model)
    ranges = measure_ranges(model, runs[:2])
    kept = {
        **bounded_nodes(walker, ranges, dtype),
        **{name: f"heat map or encoding of input {source}" for name, source in input_nodes(walker).items()},
        **kept_heads(model, walker, slices, runs[:1], dtype),
        **nodes_behind(walker, contract),
        **{name: f"computes where {each.warp.output} samples" for each in slices for name in each.nodes},
    }
    if spelling == "gridsample":
        kept |= {each.warp.output: "GridSample takes image and grid of one type" for each in slices}
    kept = {name: reason for name, reason in kept.items() if walker.computes_floats(name)}
    kept, verdict = _pass(model, kept, gate, slices, walker, search)
    mixed = convert(model, kept, dtype)
    _check(mixed)
    products, by_count, by_flops = shares(model, mixed, ranges)
    written = rewrite_warps(mixed, spelling) if spelling in ("plugin", "gather") else mixed
    _write_metadata(written, spelling, model_path)
    notes = (*_untested(gate), *_notes(written, spelling, dtype, products))
    save_model(written, output)
    index = Index(model)
    return Fp16Report(
        path=str(output),
        dtype=dtype,
        warp=spelling,
        mib=written.ByteSize() / 2**20,
        kept=tuple(
            KeptNode(name, index.nodes[name].name, index.nodes[name].op_type, reason)
            for name, reason in kept.items()
        ),
        products=products,
        share_by_count=by_count,
        share_by_flops=by_flops,
        parity=verdict.outputs,
        drifts=verdict.drifts,
        data=describe(data),
        notes=notes,
        seconds=time.perf_counter() - started,
    )


def _output(model: Path, output: str | Path | None, dtype: str) -> Path:
    path = Path(output) if output is not None else model.with_suffix(f".{dtype}.onnx")
    if path.suffix != ".onnx":
        raise ExportError(f"{path} is no name for an ONNX file; let it end in .onnx")
    return path


def _check_reference(gate: Gate) -> None:
    for run in gate.expected:
        for name, value in run.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ExportError(
                    f"the fp32 model gives NaN or infinity in {name} on these inputs; nothing can be compared with it"
                )


def _untested(gate: Gate) -> list[str]:
    """Notes on what these inputs cannot show."""
    notes = []
    if all(map(_is_constant, _joined(gate.runs).values())):
        notes.append("the inputs are constant, which tests little: give real ones by --data")
    still = [name for name, values in _joined(gate.expected).items() if _is_constant(values)]
    if still:
        notes.append(
            f"constant on these inputs, which tests nothing: {', '.join(still)}; give others by --data"
        )
    return notes


def _joined(runs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([run[name].ravel() for run in runs]) for name in runs[0]}


def _is_constant(values: np.ndarray) -> bool:
    return bool((values == values[:1]).all())


def _pass(
    model: ModelProto,
    kept: dict[str, str],
    gate: Gate,
    slices: list[CoordinateSlice],
    walker: Walker,
    search: bool,
) -> tuple[dict[str, str], Verdict]:
    """Keep more, until the gate passes: first what makes a flow that moved, then what a search finds."""
    drifts = gate.drifts(convert(model, kept, gate.dtype))
    depth, reached = 0, {}
    while moved := gate.moved(drifts):
        depth += max(depth // 2, 1)
        makers = _makers_of_flows([each for each in slices if each.warp.output in moved], depth, walker)
        if makers.keys() == reached.keys():  # down to the inputs
            break
        reached = makers
        if not makers.keys() <= kept.keys():
            kept = {**makers, **kept}
            drifts = gate.drifts(convert(model, kept, gate.dtype))
    verdict = gate.judge(convert(model, kept, gate.dtype), drifts)
    if not verdict.passed and search:
        held = smallest_set(
            [name for name in walker.index.nodes if name not in kept],
            lambda names: gate.judge(convert(model, {**kept, **dict.fromkeys(names, "")}, gate.dtype)).passed,
            _SEARCH_BUDGET,
        )
        if held is not None:
            kept = {**dict.fromkeys(sorted(held), "found by --search: the gate fails without it"), **kept}
            verdict = gate.judge(convert(model, kept, gate.dtype))
    if not verdict.passed:
        raise ParityError(
            f"{gate.dtype} differs from fp32 by too much: {verdict.failures()}; "
            + (
                "no set of nodes in fp32 helps"
                if search
                else "--search finds which nodes to hold in fp32, or give a --tolerance"
            )
        )
    return kept, verdict


def _makers_of_flows(slices: list[CoordinateSlice], depth: int, walker: Walker) -> dict[str, str]:
    """The layers that make a flow, down to ``depth`` layers from it, with what is between them."""
    found: dict[str, str] = {}
    for each in slices:
        reason = f"makes the flow of {each.warp.output}, which would move by more than its limit"
        tensors = each.heads
        for _ in range(depth):
            layers = [name for tensor in tensors for name in walker.layers_of(tensor)]
            nodes, tensors = walker.back(
                [name for layer in layers for name in walker.index.nodes[layer].input]
            )
            found.update(dict.fromkeys((*layers, *nodes), reason))
    return found


def _check(mixed: ModelProto) -> None:
    try:
        onnx.checker.check_model(mixed, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as exc:
        raise ExportError(f"the converted graph is not valid ONNX: {exc}") from exc


def _write_metadata(mixed: ModelProto, spelling: str, source: Path) -> None:
    properties = {entry.key: entry.value for entry in mixed.metadata_props}
    precision = {**json.loads(properties[PRECISION_KEY]), "source_sha256": sha256(source)}
    properties |= {PRECISION_KEY: json.dumps(precision), "posewarp.warp": spelling}
    helper.set_model_props(mixed, properties)


def _notes(written: ModelProto, spelling: str, dtype: str, products: int) -> tuple[str, ...]:
    notes = []
    if not products:
        notes.append("it has no Conv, ConvTranspose, Gemm or MatMul: there is little to win")
    if spelling == "plugin":
        notes.append(
            "ONNX Runtime cannot run the plugin node alone: it needs posewarp's CPU library (make plugins); emulated "
            "was the same graph with the node's body"
        )
        return tuple(notes)
    try:
        with open_model(written):
            pass
    except BackendError as exc:
        if dtype == "fp16":
            raise ExportError(f"ONNX Runtime refuses the converted file: {exc}") from exc
        notes.append("ONNX Runtime's CPU provider does not run this file: it lacks bf16 operators")
    return tuple(notes)


app = typer.Typer(add_completion=False)
_Dtype = Enum("_Dtype", [(name, name) for name in LOW_TYPES], type=str)
_Spelling = Enum("_Spelling", [(name, name) for name in SPELLINGS], type=str)


@app.command("fp16")
def _command(
    model: Annotated[Path, typer.Argument(help="An FP32 ONNX file, from posewarp export or any other.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Replaced if it exists; by default model.fp16.onnx.")
    ] = None,
    dtype: Annotated[_Dtype, typer.Option(help="What features become.")] = _Dtype.fp16,
    warp: Annotated[
        _Spelling | None, typer.Option(help="How warps are spelled; by default portable.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Real inputs: synthetic (default for our contracts), a folder of pictures and keypoints, .npz, "
            "Polygraphy's .json, or random."
        ),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="If the gate fails, bisect which nodes to hold in FP32.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="For 99.9 % of the values; both absolute, as a share of full scale, and relative: a value may "
            "be off by TOLERANCE * full scale + TOLERANCE * its own size.",
        ),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None,
) -> None:
    """Convert to FP16 or BF16 with every sampling coordinate in FP32, judged by emulation before it is written."""
    output = _output(model, output, dtype.value)
    check_outputs({"--output": output, "--json": json_path}, [model, data], ExportError)
    read_graph(model)  # whether it is there, and ONNX
    print(
        f"converting {model}; it is run in fp32 and in emulated {dtype.value}, which takes a while ...",
        flush=True,
    )
    report = to_fp16(
        model,
        output,
        dtype=dtype.value,
        warp=warp and warp.value,
        data=data,
        search=search,
        tolerance=tolerance,
    )
    print(report)
    if json_path:
        with atomic_write(json_path, ExportError) as temporary:
            temporary.write_text(report.to_json())


if __name__ == "__main__":
    command.main(app)
