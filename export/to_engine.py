"""ONNX file to TensorRT or TensorRT-RTX engine, with a side-car that says what it is."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from onnx import ModelProto

from posewarp.export.engines.builder import check_precision
from posewarp.export.engines.display import display
from posewarp.export.engines.graph import check_contract, checked, contract_of, custom_ops, grid_samples
from posewarp.export.engines.process import build_in_child
from posewarp.export.engines.profiles import Shapes, make_profiles
from posewarp.export.engines.report import EngineReport
from posewarp.export.engines.request import BACKENDS, HARDWARE, NAMES, PRECISIONS, BuildRequest
from posewarp.export.engines.sidecars import assemble, describe, is_same
from posewarp.export.engines.trtexec import trtexec_lines
from posewarp.export.graphs.graph import load_model, save_model
from posewarp.export.ladder.report import plain
from posewarp.export.to_cpu import output_of as cpu_output_of
from posewarp.export.to_cpu import to_cpu
from posewarp.export.to_mnn import to_mnn
from posewarp.runtime import command, plugin_library, sidecar
from posewarp.runtime.contract import METADATA_KEY, Contract
from posewarp.runtime.errors import ContractError, EngineError
from posewarp.runtime.files import atomic_write, check_outputs
from posewarp.runtime.sidecar import Sidecar

SUFFIXES = (".engine", ".plan")
_TENSORRT_ONLY = {
    "plugins": "TensorRT-RTX's network has no plugin layers, and its parser aborts when it meets a plugin",
    "version_compatible": "a TensorRT-RTX engine is compiled where it runs",
    "exclude_lean_runtime": "TensorRT-RTX has no lean runtime",
    "hardware_compatibility": "TensorRT-RTX takes --target instead",
    "timing_cache": "TensorRT-RTX times nothing at build, and looks for a GPU when its cache is touched",
}


def to_engine(
    onnx_path: str | Path,
    output: str | Path | None = None,
    *,
    backend: str = "rtx",
    precision: str | None = None,
    profiles: Shapes | None = None,
    targets: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    contract: Contract | None = None,
    force: bool = False,
    tell: Callable[[str, Any], None] | None = None,
    **options: Any,
) -> EngineReport:
    """Build an engine and its side-car, unless both are there and nothing that they depend on has changed.

    The types are the ONNX file's. Before it builds: types are not mixed at a node, operators are known, the
    asserted precision holds of the parsed network, and each GridSample layer is what the file says. The build
    runs in a child process. Engine and side-car get their names together: a reader finds a pair, or an engine
    without side-car, never the side-car of another engine. A failure leaves the previous pair as it was.

    Args:
        onnx_path: the model, from ``posewarp fp16`` or any other.
        output: the engine, by default ``model.fp16.engine`` for ``model.fp16.onnx``.
        backend: ``rtx`` (TensorRT-RTX, needs no GPU) or ``tensorrt`` (builds for the GPU it runs on).
        precision: ``fp16`` or ``fp32``: an assertion about the graph, an error where it does not hold.
        profiles: shapes of dynamic inputs; by default from the contract, see ``profiles.make_profiles``.
        targets: compute capabilities such as ``8.6``, or ``current`` for this machine's GPU; rtx only; by default the
            library's.
        plugins: plugin libraries; tensorrt only. Our warp node is taken as the plugin then.
        contract: instead of the one in the file's metadata.
        force: build in any case.
        tell: called with the build's events; see ``engine_builder.build``.
        options: ``tf32`` (default off), ``workspace_mib``, ``optimization_level``; tensorrt only:
            ``version_compatible``, ``exclude_lean_runtime``, ``hardware_compatibility`` (``ampere+`` or
            ``same-compute-capability``), ``timing_cache`` (a folder; a file in it for each version and GPU).

    Raises: EngineError, ContractError, ExportError, PluginError: one line each, nothing half-written.
    """
    started = time.perf_counter()
    path, output = _paths(onnx_path, output)
    check_outputs({"output": output, "its side-car": sidecar.path_of(output)}, [path, *plugins], EngineError)
    model, request, contract = prepare(
        path,
        backend=backend,
        precision=precision,
        profiles=profiles,
        targets=targets,
        plugins=plugins,
        contract=contract,
        **options,
    )
    wanted = describe(request, path, contract)
    previous = None if force else _previous(output)
    if previous and is_same(previous, wanted):
        versions = {name: previous.versions[name] for name in NAMES.values() if name in previous.versions}
        request = dataclasses.replace(request, unless={"versions": versions, "device": previous.device})
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        file = Path(folder) / "model.onnx"
        save_model(model, file)
        del model  # the child has its own
        request = dataclasses.replace(request, onnx=str(file))
        built, seen = _build(output, request, wanted, tell)
    return EngineReport(
        path=str(output),
        mib=output.stat().st_size / 2**20,
        sidecar=built or previous,
        unchanged=built is None,
        fp32_layers=tuple(seen.get("fp32_compute", ())),
        notes=(*seen.get("notes", ()), *_notes(request, seen)),
        seconds=time.perf_counter() - started,
    )


def prepare(
    path: Path,
    *,
    backend: str = "rtx",
    precision: str | None = None,
    profiles: Shapes | None = None,
    targets: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    contract: Contract | None = None,
    **options: Any,
) -> tuple[ModelProto, BuildRequest, Contract]:
    """All of ``to_engine`` that needs no builder.

    Returns: the model as the parser shall read it, the request without its paths, the contract.
    """
    _check_words(backend, precision, {"plugins": plugins, **options})
    libraries = tuple(str(plugin_library.find("tensorrt", library)) for library in plugins)
    model = load_model(path)
    declared = contract_of(model)
    contract = check_contract(contract, declared) if contract else declared
    flat, counts = checked(model, plugins=bool(libraries))
    check_precision(precision, *counts)
    shapes = profiles or Shapes()
    request = BuildRequest(
        backend=backend,
        onnx="",
        plan="",
        precision=precision,
        grid_samples=grid_samples(flat),
        custom_ops=custom_ops(flat),
        profiles=make_profiles(contract, shapes),
        targets=tuple(dict.fromkeys(targets)),
        plugins=libraries,
        **options,
    )
    return flat, request, contract


def _paths(onnx_path: str | Path, output: str | Path | None) -> tuple[Path, Path]:
    path = Path(onnx_path)
    if output is None:
        output = path.with_name(f"{path.name.removesuffix('.onnx')}.engine")
    output = Path(output)
    if output.suffix not in SUFFIXES:
        written = {".onnx": ": that is a model's", ".mnn": ": that is for --backend mnn"}
        raise EngineError(
            f"{output} is no name for an engine{written.get(output.suffix, '')}; let it end in .engine or .plan, "
            "as inspect, parity and sessions expect it",
            got=output.suffix,
            expected=SUFFIXES,
        )
    return path, output


def _outputs(model: Path, output: Path | None, backend: str) -> dict[str, Path]:
    """What the command writes, by the names that its errors give it."""
    if backend == "cpu":
        return {"--output": cpu_output_of(model, output)}
    if backend == "mnn":
        engine = output or model.with_name(f"{model.name.removesuffix('.onnx')}.mnn")
    else:
        _, engine = _paths(model, output)
    return {"--output": engine, "the side-car": sidecar.path_of(engine)}


def _check_words(backend: str, precision: str | None, options: dict[str, Any]) -> None:
    level = options.get("hardware_compatibility")
    for what, word, known in (
        ("backend", backend, BACKENDS),
        ("precision", precision, (None, *PRECISIONS)),
        ("hardware compatibility", level, (None, *HARDWARE)),
    ):
        if word not in known:
            raise EngineError(f"no {what} {word!r}; there are {', '.join(filter(None, known))}", got=word)
    if backend == "rtx":
        for name, reason in _TENSORRT_ONLY.items():
            if options.get(name):
                raise EngineError(f"--{name.replace('_', '-')} is for --backend tensorrt: {reason}")
    if options.get("exclude_lean_runtime") and not options.get("version_compatible"):
        raise EngineError("--exclude-lean-runtime is for --version-compatible engines: only they have one")


def _previous(output: Path) -> Sidecar | None:
    """The side-car of the engine that is there, if both can be used."""
    try:
        return sidecar.check(output, needed=True)
    except EngineError:
        return None  # build it


def _build(
    output: Path, request: BuildRequest, wanted: dict[str, Any], tell: Callable | None
) -> tuple[Sidecar | None, dict[str, Any]]:
    """Build, and give engine and side-car their names; None if nothing was built.

    Order: both are whole under temporary names; the old side-car goes; the engine is renamed; the side-car is.
    Cut off in between, an engine without side-car is left, which the next build does not take for its own.
    """
    beside = sidecar.path_of(output)
    try:
        with atomic_write(beside, EngineError) as text, atomic_write(output, EngineError) as plan:
            seen = build_in_child(dataclasses.replace(request, plan=str(plan)), tell)
            if seen.get("unchanged"):
                raise _UnchangedError
            built = assemble(seen, plan, output, wanted)
            text.write_text(built.to_json(), encoding="utf-8")
            Path(os.path.realpath(beside)).unlink(missing_ok=True)
    except _UnchangedError:
        return None, seen
    return built, seen


def _notes(request: BuildRequest, seen: dict[str, Any]) -> list[str]:
    notes = []
    if seen.get("compute") == 0:
        notes.append(
            f"no layers to assert a precision on; {seen['half_tensors'] or 'no'} FP16 or BF16 tensors"
        )
    islands = [entry["name"] for entry in seen.get("grid_samples", ()) if entry["dtype"] == "float32"]
    if request.backend == "tensorrt" and islands and seen["half"]:
        notes.append(
            f"{len(islands)} FP32 GridSample layers in an FP16 network, which TensorRT from 10.14.1 is reported "
            "to get wrong: compare with posewarp parity, or build with --plugins"
        )
    if request.tf32 and seen.get("fp32_compute"):
        notes.append(f"{len(seen['fp32_compute'])} FP32 layers may round to TF32's 10 bits, as FP16 does")
    return notes


class _UnchangedError(Exception):
    """Leaves the blocks that would give names to what was not written."""


app = typer.Typer(add_completion=False)
_ON_CPU = {"cpu": to_cpu, "mnn": to_mnn}
_Backend = Enum("_Backend", [(name, name) for name in (*BACKENDS, *_ON_CPU)], type=str)
_Precision = Enum("_Precision", [(name, name) for name in PRECISIONS], type=str)
_Hardware = Enum("_Hardware", [(name, name) for name in HARDWARE], type=str)


@app.command("build")
def _command(
    model: Annotated[Path, typer.Argument(help="An .onnx file; types are as they are in it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: as the model, .engine.")
    ] = None,
    backend: Annotated[
        _Backend,
        typer.Option(help="rtx needs no GPU; tensorrt builds for the one it runs on; cpu, mnn: for CPUs."),
    ] = _Backend.rtx,
    precision: Annotated[
        _Precision | None, typer.Option(help="Assert that the graph is in it; it converts nothing.")
    ] = None,
    min_shapes: Annotated[
        list[str] | None, typer.Option("--minShapes", help="As trtexec: x:1x3x256x176,y:1x18x2")
    ] = None,
    opt_shapes: Annotated[list[str] | None, typer.Option("--optShapes", help="The most used shapes.")] = None,
    max_shapes: Annotated[
        list[str] | None, typer.Option("--maxShapes", help="Again for each further profile.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Compute capabilities, 8.6,8.9,12.0; current: this GPU. rtx only.")
    ] = None,
    plugins: Annotated[
        list[Path] | None, typer.Option(help="Plugin library: tensorrt only; repeatable.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Runs on later TensorRT too, and on lean.")
    ] = False,
    exclude_lean_runtime: Annotated[
        bool, typer.Option("--exclude-lean-runtime", help="Leave the lean runtime out of the plan.")
    ] = False,
    hardware_compatibility: Annotated[
        _Hardware | None, typer.Option(help="GPUs besides the one it is built on.")
    ] = None,
    workspace: Annotated[int | None, typer.Option(min=0, help="MiB.")] = None,
    optimization_level: Annotated[int | None, typer.Option(min=0, max=5)] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="Folder of caches, one for each version and GPU: tensorrt only.")
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let FP32 layers round to TF32's 10 bits, coordinates too.")
    ] = False,
    contract: Annotated[
        Path | None, typer.Option(help="Take the contract of this .onnx file instead.")
    ] = None,
    print_trtexec: Annotated[
        bool, typer.Option("--print-trtexec", help="Build nothing; print lines for trtexec 10, 11, lean.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="Inputs that a file for CPUs is proven with, as for posewarp parity.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build though nothing has changed.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None,
) -> None:
    """Build a TensorRT or TensorRT-RTX engine, or a file for CPUs, checked against the ONNX file."""
    written = {} if print_trtexec else _outputs(model, output, backend.value)
    read = [model, contract, data, *(plugins or ())]
    check_outputs({**written, "--json": json_path}, read, EngineError)
    if print_trtexec:
        ignored = {"--json": json_path, "--target": target, "--force": force, "--data": data}
        for option, value in {**ignored, f"--backend {backend.value}": backend.value in _ON_CPU}.items():
            if value not in (None, False):
                raise EngineError(
                    f"{option} has no meaning beside --print-trtexec, which builds nothing and prints lines of "
                    f"TensorRT's trtexec; leave out one of them"
                )
    given = {
        "backend": "tensorrt" if print_trtexec else backend.value,
        "precision": precision and precision.value,
        "profiles": Shapes(min_shapes or (), opt_shapes or (), max_shapes or ()),
        "targets": _targets(target),
        "plugins": plugins or (),
        "contract": _contract(contract),
        "version_compatible": version_compatible,
        "exclude_lean_runtime": exclude_lean_runtime,
        "hardware_compatibility": hardware_compatibility and hardware_compatibility.value,
        "workspace_mib": workspace,
        "optimization_level": optimization_level,
        "timing_cache": timing_cache and str(timing_cache),
        "tf32": tf32,
    }
    if print_trtexec:
        path, engine = _paths(model, output)
        _, request, _ = prepare(path, **given)
        print("\n".join(trtexec_lines(request, path, engine)))
        return
    if given.pop("backend") in _ON_CPU:
        report = _ON_CPU[backend.value](model, output, data=data, force=force, **given)
    elif data is not None:
        raise EngineError("--data is for --backend cpu and mnn; an engine is compared by posewarp parity")
    else:
        with display() as tell:
            report = to_engine(model, output, backend=backend.value, force=force, tell=tell, **given)
    print(report)
    if json_path:
        with atomic_write(json_path, EngineError) as temporary:
            text = json.dumps(plain(dataclasses.asdict(report)), indent=1, allow_nan=False)
            temporary.write_text(text + "\n")


def _targets(text: str | None) -> list[str]:
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(parts):
        raise EngineError(
            f"--target has {text!r}, in which a compute capability is empty; expected 8.6,8.9,12.0, or no "
            "--target for the library's own",
            got=text,
        )
    return list(dict.fromkeys(parts))


def _contract(path: Path | None) -> Contract | None:
    if path is None:
        return None
    model = load_model(path)
    if METADATA_KEY not in {entry.key for entry in model.metadata_props}:
        raise ContractError(f"{path} carries no contract")
    return contract_of(model)


if __name__ == "__main__":
    command.main(app)
