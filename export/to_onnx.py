"""Checkpoint or torch module to a proven ONNX file."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import tempfile
import time
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import onnx
import torch
import typer
from onnx import ModelProto, helper

from posewarp.export.capture.check_graph import check_file
from posewarp.export.capture.prepare import TensorModule, detached_copy, fold_norms
from posewarp.export.capture.proof import prove_parity
from posewarp.export.capture.report import ExportReport
from posewarp.export.capture.trace import capture
from posewarp.export.generator_spec import IO, checkpoint_spec
from posewarp.export.graphs.warps import FIRST_OPSET, SPELLINGS, find_warps, rewrite_warps
from posewarp.export.spec import ExportSpec, load_spec
from posewarp.models.config import GeneratorConfig
from posewarp.runtime import command
from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.errors import ContractError, ExportError
from posewarp.runtime.files import atomic_write, check_outputs

# GridSample's "linear" of opset 20 is read as nearest by TensorRT's parsers before 11.2.
DEFAULT_OPSET = 18
# A protobuf message can be no larger.
_MAX_BYTES = 2**31 - 1


def to_onnx(
    source: ExportSpec | str | Path,
    output: str | Path | None = None,
    *,
    opset: int = DEFAULT_OPSET,
    warp: str = "portable",
    **options: object,
) -> ExportReport:
    """Export to one ONNX file, which proves itself before it gets its name.

    The proof: checker and strict shape inference; dynamic axes are dynamic, on inputs and outputs; no
    float64; GridSample's words are the opset's; and in ONNX Runtime the outputs are the torch module's in
    eval mode, at batches 1 and 3 and at a second size where that is dynamic (limits in difference.py).

    Args:
        source: an ExportSpec, or a checkpoint of our generator.
        output: the file, replaced if it exists; by default the checkpoint's name with ``.onnx``.
        opset: version of the standard operators, 16 or later.
        warp: spelling of the warps: ``portable``, ``plugin``, ``gridsample`` or ``gather`` (see warps.py).
            ONNX Runtime cannot run ``plugin`` alone: it needs posewarp's CPU library (``make plugins``); its proof is
            that of the same graph with the body put back.
        options: for a checkpoint: ``io``, ``dynamic_size``, ``weights``, ``trust``, ``config``, ``key``
            (see ``generator_spec.checkpoint_spec``).

    Returns: the report. The source's module is left as it was, its training flag included.
    Raises: ExportError if it cannot be exported or fails its proof, and then no file is left; CheckpointError
        if the checkpoint cannot be loaded.
    """
    started = time.perf_counter()
    if warp not in SPELLINGS:
        raise ExportError(f"no warp spelling {warp!r}; there are {', '.join(SPELLINGS)}")
    if opset < FIRST_OPSET:
        raise ExportError(f"opset is {opset}, expected at least {FIRST_OPSET}, the first one with GridSample")
    if options and isinstance(source, ExportSpec):
        raise ExportError(f"{', '.join(options)}: for a checkpoint only, not with an ExportSpec")
    if output is None:
        if isinstance(source, ExportSpec):
            raise ExportError("an ExportSpec has no name for its file; give an output")
        output = Path(source).with_suffix(".onnx")
    if Path(output).suffix != ".onnx":  # by which runtimes know it, and which no checkpoint has
        raise ExportError(f"{output} is no name for an ONNX file; let it end in .onnx")
    read = [] if isinstance(source, ExportSpec) else [source]
    check_outputs({"output": output}, read, ExportError)
    spec = source if isinstance(source, ExportSpec) else checkpoint_spec(source, **options)

    reference = TensorModule(detached_copy(spec.module), len(spec.output_names) + len(spec.intermediates))
    _check_module(spec, reference)
    graph, minima = capture(spec, fold_norms(copy.deepcopy(reference)), opset)
    warps = len(find_warps(graph))
    spelled = warp if warps else "none"
    model = rewrite_warps(graph, warp)
    contract = _contract(spec, model, minima)
    _write_metadata(model, spec, contract, spelled)
    del model.graph.value_info[:]  # shapes at the example's sizes, which readers take for fixed ones
    with atomic_write(output, ExportError) as temporary:
        _save(model, temporary)
        check_file(temporary, spec)
        if spelled == "plugin":
            with tempfile.TemporaryDirectory() as folder:
                twin = Path(folder) / "twin.onnx"
                _save(rewrite_warps(model, "portable"), twin)
                parity = prove_parity(twin, spec, reference)
        else:
            parity = prove_parity(temporary, spec, reference)
    return ExportReport(
        path=str(output),
        mib=model.ByteSize() / 2**20,
        opset=opset,
        warp=spelled,
        warps=warps,
        contract=contract,
        parity=tuple(parity),
        notes=_notes(spec, spelled, minima),
        seconds=time.perf_counter() - started,
    )


def _check_module(spec: ExportSpec, reference: TensorModule) -> None:
    for name, value in (*reference.named_parameters(), *reference.named_buffers()):
        if value.is_floating_point() and value.dtype != torch.float32:
            raise ExportError(
                f"{name.removeprefix('module.')} is {value.dtype}, expected torch.float32: make the module "
                "fp32 by .float(); other precisions are made from the ONNX file"
            )
    try:
        with torch.no_grad():
            reference(*(value.clone() for value in spec.example_inputs))
    except ExportError:
        raise
    except Exception as exc:  # a user's module may raise anything
        raise ExportError(f"the module fails on its example inputs: {type(exc).__name__}: {exc}") from exc


def _contract(spec: ExportSpec, model: ModelProto, minima: dict[str, int]) -> Contract:
    def tensor(value: onnx.ValueInfoProto) -> TensorSpec:
        kind = value.type.tensor_type
        shape = (dim.dim_param or dim.dim_value for dim in kind.shape.dim)
        return TensorSpec(value.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, tuple(shape))

    settings = {**spec.settings, **({"minimum": minima} if minima else {})}
    inputs, outputs = (tuple(map(tensor, values)) for values in (model.graph.input, model.graph.output))
    return Contract(spec.io, inputs, outputs, settings)


def _write_metadata(model: ModelProto, spec: ExportSpec, contract: Contract, warp: str) -> None:
    versions = {
        name: importlib.metadata.version(name) for name in ("posewarp", "torch", "onnx", "onnxscript")
    }
    strings = {
        METADATA_KEY: contract.to_json(),
        "posewarp.warp": warp,
        "posewarp.versions": json.dumps(versions),
        **spec.metadata,
    }
    helper.set_model_props(model, strings)


def _save(model: ModelProto, path: Path) -> None:
    if model.ByteSize() > _MAX_BYTES:
        raise ExportError(
            f"the model has {model.ByteSize() / 2**30:.1f} GiB; one ONNX file holds at most 2 GiB"
        )
    onnx.save(model, path)


def _notes(spec: ExportSpec, warp: str, minima: dict[str, int]) -> tuple[str, ...]:
    notes = list(spec.notes)
    if minima:
        notes.append("smallest size: " + ", ".join(f"{axis} {size}" for axis, size in minima.items()))
    if warp == "plugin":
        notes.append(
            "ONNX Runtime cannot run the plugin node alone: it needs posewarp's CPU library (make plugins); parity is "
            "of this graph with the node's body put back"
        )
    return tuple(notes)


app = typer.Typer(add_completion=False)
_Io = Enum("_Io", [(name, name) for name in IO], type=str)
_Spelling = Enum("_Spelling", [(name, name) for name in SPELLINGS], type=str)
_Weights = Enum("_Weights", [(name, name) for name in ("auto", "ema", "raw")], type=str)


@app.command("export")
def _command(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Of our generator; with --spec, passed to its function.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Replaced if it exists; by default beside the checkpoint."),
    ] = None,
    opset: Annotated[int, typer.Option()] = DEFAULT_OPSET,
    warp: Annotated[_Spelling, typer.Option(help="How warps are spelled.")] = _Spelling.portable,
    io: Annotated[
        _Io | None, typer.Option(help="Contract: 8-bit pictures and keypoints (default), or tensors.")
    ] = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Any height and width, in steps of 4.")
    ] = False,
    weights: Annotated[
        _Weights | None, typer.Option(help="auto takes EMA weights where there are some.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Unpickle any object: runs code that the file brings.")
    ] = False,
    key: Annotated[str | None, typer.Option(help="Where in the checkpoint the generator is.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Configuration of a foreign checkpoint, by name.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The same, as a JSON file.")] = None,
    spec: Annotated[
        str | None,
        typer.Option(
            help="A function that makes an ExportSpec: package.module:function or file.py:function."
        ),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None,
) -> None:
    """Export a checkpoint, or any torch module, to one ONNX file that is proven against PyTorch."""
    given = {
        "io": io and io.value,
        "dynamic_size": dynamic_size,
        "weights": weights and weights.value,
        "trust": trust,
        "key": key,
        "config": _read_config(preset, config),
    }
    options = {name: value for name, value in given.items() if value}
    if spec and options:
        raise typer.BadParameter(
            f"{', '.join(options)}: for checkpoints of our generator only, not with --spec"
        )
    if not spec and checkpoint is None:
        raise typer.BadParameter("give a checkpoint, or --spec")
    if output is None and checkpoint is None:
        raise typer.BadParameter("with --spec and no checkpoint, give --output")
    output = output or checkpoint.with_suffix(".onnx")
    read = [checkpoint, config, spec and spec.rpartition(":")[0]]
    check_outputs({"--output": output, "--json": json_path}, read, ExportError)
    report = to_onnx(
        load_spec(spec, checkpoint) if spec else checkpoint, output, opset=opset, warp=warp.value, **options
    )
    print(report)
    if json_path:
        with atomic_write(json_path, ExportError) as temporary:
            temporary.write_text(json.dumps(asdict(report), indent=2))


def _read_config(preset: str | None, path: Path | None) -> GeneratorConfig | None:
    if preset and path:
        raise typer.BadParameter("give --preset or --config, not both")
    if preset:
        return GeneratorConfig.preset(preset)
    if path is None:
        return None
    try:
        return GeneratorConfig.from_dict(json.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, TypeError, json.JSONDecodeError) as exc:
        raise ContractError(f"{path} is no JSON file of a generator's configuration: {exc}") from exc


if __name__ == "__main__":
    command.main(app)
