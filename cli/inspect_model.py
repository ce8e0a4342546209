"""``posewarp inspect``: what a model file says of itself, or the side-car of an engine or MNN file of it."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import onnx
import typer
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto
from rich.console import Console
from rich.table import Table

from posewarp.export.engines.report import made_with, sidecar_lines
from posewarp.export.graphs.convolutions import count_winograd
from posewarp.export.graphs.warps import OP, Warp, find_warps, graphs_of, opset_of
from posewarp.export.linting.facts import missing_data
from posewarp.runtime import plugin_library, sidecar
from posewarp.runtime.contract import METADATA_KEY, Contract
from posewarp.runtime.errors import BackendError, EngineError, PluginError
from posewarp.runtime.files import atomic_write, check_outputs
from posewarp.runtime.sidecar import Sidecar

app = typer.Typer(add_completion=False)

_ENGINES, _MNN = (".engine", ".plan"), ".mnn"
# Of metadata on the screen: the reasons of all nodes that stay FP32 would fill several.
_LONGEST_VALUE = 500


@app.command("inspect")
def command(
    model: Annotated[
        Path, typer.Argument(help="An .onnx file, of ours or anyone's, an .mnn file, or an engine.")
    ],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the same as JSON.")] = None,
) -> None:
    """Print a model's contract, opset, types, warps and metadata, or what is known of an engine or MNN file."""
    opaque = {**dict.fromkeys(_ENGINES, (inspect_engine, engine_lines)), _MNN: (inspect_mnn, mnn_lines)}
    read = [model, sidecar.path_of(model)] if model.suffix in opaque else [model]
    check_outputs({"--json": json_path}, read)
    console = Console(highlight=False, soft_wrap=True)
    if model.suffix in opaque:
        inspect_it, lines_of = opaque[model.suffix]
        report = inspect_it(model)
        console.print("\n".join(lines_of(model)), markup=False)
    else:
        report = inspect(model)
        _print(console, model, report)
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")


def inspect_engine(path: Path) -> dict[str, object]:
    """Read a plan's header and its side-car, without any library; the side-car is checked to speak of it.

    Returns: ``kind`` and ``version`` of the plan, and the side-car's entries, ``sidecar: none`` without one.
    Raises: EngineError if the file is no whole plan, or the side-car is another engine's.
    """
    header = sidecar.read_header(path)
    known = sidecar.check(path)
    told = {"kind": header.kind, "version": header.version}
    return told | (json.loads(known.to_json()) if known else {"sidecar": "none"})


def engine_lines(path: Path) -> list[str]:
    """The same for reading: what is known, a line each."""
    header = sidecar.read_header(path)
    known = sidecar.check(path)
    made = made_with(known) if known else f"{header.kind} plan, version {header.version or 'unknown'}"
    lines = sidecar_lines(known) if known else [f"side-car: none; posewarp adopt {path} --onnx model.onnx"]
    return [f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {made}", *(f"  {line}" for line in lines)]


def inspect_mnn(path: Path) -> dict[str, object]:
    """Read an MNN file's side-car, without MNN; it is checked to speak of the file, which tells little itself.

    Returns: ``mib``, and the side-car's entries, ``sidecar: none`` without one.
    Raises: EngineError if the file cannot be read, or the side-car is another file's.
    """
    known = _known_of_mnn(path)
    told = {"mib": path.stat().st_size / 2**20}
    return told | (json.loads(known.to_json()) if known else {"sidecar": "none"})


def mnn_lines(path: Path) -> list[str]:
    """The same for reading: what is known, a line each."""
    known = _known_of_mnn(path)
    if known is None:
        made = "for MNN"
        lines = ["side-car: none, so no session opens it; posewarp build model.onnx --backend mnn"]
    else:
        made = f"MNN {known.versions.get('MNN', 'of unknown version')} on the CPU"
        lines = [*sidecar_lines(known), f"precision: {known.precision.get('asserted', 'unknown')}"]
    return [f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {made}", *(f"  {line}" for line in lines)]


def _known_of_mnn(path: Path) -> Sidecar | None:
    if not path.is_file():
        raise EngineError(f"{path} cannot be read: it is not a file, or not there")
    known = sidecar.read(path)
    if known:
        sidecar.check_content(path, known)
    elif not _is_flatbuffer(path):
        raise EngineError(f"{path} is not an MNN file, or is truncated")
    return known


def _is_flatbuffer(path: Path) -> bool:
    """Whether a file starts as MNN's do: with the place of a table, whose fields another table tells."""
    content = path.read_bytes()
    try:
        (root,) = struct.unpack_from("<I", content)
        table = root - struct.unpack_from("<i", content, root)[0]
        if table < 0:
            return False
        size, length = struct.unpack_from("<HH", content, table)
        fields = struct.unpack_from(f"<{size // 2}H", content, table)[2:]
    except struct.error:
        return False
    return size >= 4 and size % 2 == 0 and root + length <= len(content) and max(fields, default=0) < length


def _print(console: Console, model: Path, report: dict[str, object]) -> None:
    console.print(
        f"[bold]{model}[/bold]: opset {report['opset']}, {report['nodes']} nodes, io {report['io']}"
    )
    tensors = Table("", "name", "type", "shape", box=None)
    for kind in ("inputs", "outputs"):
        for entry in report[kind]:
            tensors.add_row(
                kind[:-1], entry["name"], entry["dtype"], f"({', '.join(map(str, entry['shape']))})"
            )
    console.print(tensors)
    console.print(
        f"weights: {', '.join(f'{count} {name}' for name, count in report['weights'].items()) or 'none'}"
    )
    for file, state in report["missing_data"].items():
        said = f"weights missing: they are in {file!r}, which {state}; put it beside the model"
        console.print(said, markup=False)
    if spelled := report["winograd"]["convolutions"]:
        library = "the plugin library is here to take them"
        if not report["winograd"]["library"]:
            library = "no plugin library here: they run as plain ones, no faster; make plugins"
        console.print(f"convolutions spelled for Winograd's filtering: {spelled}; {library}")
    console.print(f"warps: {len(report['warps'])}")
    for warp in report["warps"]:
        console.print("  " + ", ".join(f"{key} {value}" for key, value in warp.items()))
    for name, value in report["metadata"].items():
        rest = len(value) - _LONGEST_VALUE
        shown = value if rest <= 0 else f"{value[:_LONGEST_VALUE]} ... ({rest} characters more, see --json)"
        console.print(f"{name}: {shown}", markup=False)


def inspect(path: Path) -> dict[str, object]:
    """Read an ONNX file without running it.

    Returns: ``opset``, ``nodes``, ``io``, ``inputs``, ``outputs``, ``weights`` (count of each type),
        ``missing_data`` (files of weights that are not there or too short), ``winograd`` (how many ``convolutions``
        are spelled for it, and whether the ``library`` that takes them is there), ``warps``, ``metadata`` (without
        the contract, which the other entries show).
    Raises: BackendError if the file is missing or not an ONNX model.
    """
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as exc:
        raise BackendError(f"{path} cannot be read: {exc.strerror}") from exc
    except DecodeError as exc:
        raise BackendError(f"{path} is not an ONNX model") from exc
    if not model.graph.node:
        raise BackendError(f"{path} is not an ONNX model: it holds no nodes")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    contract = metadata.pop(METADATA_KEY, None)
    graphs = list(graphs_of(model.graph))
    weights = [tensor for graph in graphs for tensor in graph.initializer]
    types = Counter(TensorProto.DataType.Name(tensor.data_type).lower() for tensor in weights)
    missing = {location: state for _, location, state in missing_data(weights, path.parent)}
    return {
        "opset": opset_of(model),
        "nodes": sum(len(graph.node) for graph in graphs),
        "io": Contract.from_json(contract).io if contract else "not stated (no contract of posewarp's)",
        "inputs": _tensors(model, model.graph.input),
        "outputs": _tensors(model, model.graph.output),
        "weights": dict(types),
        "missing_data": missing,
        "winograd": {"convolutions": count_winograd(model), "library": _has_library()},
        "warps": [_warp(warp, model) for warp in find_warps(model)],
        "metadata": metadata,
    }


def _has_library() -> bool:
    try:
        return plugin_library.find("cpu") is not None
    except PluginError:  # what is named is none, which is a session's to tell
        return False


def _tensors(model: ModelProto, values: Iterable[ValueInfoProto]) -> list[dict[str, object]]:
    weights = {initializer.name for initializer in model.graph.initializer}
    return [
        {
            "name": value.name,
            "dtype": TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower(),
            "shape": [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        }
        for value in values
        if value.name not in weights
    ]


def _warp(warp: Warp, model: ModelProto) -> dict[str, object]:
    spelling = warp.spelling
    if spelling == "mixed":
        spelling = "portable" if any(function.name == OP for function in model.functions) else "plugin"
    return {
        name: getattr(warp, name) for name in ("features", "grid", "mode", "padding_mode", "align_corners")
    } | {"spelling": spelling}
