"""Engines on this card, where a TensorRT supports it, and their parity with PyTorch's FP32.

    python -m posewarp.benchmarks.gpu.engines FOLDER --json engines.json

Full TensorRT first, then TensorRT-RTX, each tried on a graph of two nodes: TensorRT-RTX by its target CURRENT, since a
card that its list of targets does not name (9.0 in 1.7) may still be taken so. Where neither is, the last line says
"not measured: no TensorRT for this card" and why, exit code 77. FOLDER is what benchmarks/gpu/networks.py made, and
receives demo.engine, demo.fp16.engine, and the same of deepfashion, for benchmarks/latency.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper

from posewarp.benchmarks.gpu.networks import FP16, NETWORKS
from posewarp.export.graphs.graph import load_model
from posewarp.export.ladder.measures import LIBRARIES_ATOL
from posewarp.export.ladder.sample_data import load_inputs, read_contract
from posewarp.export.parity import parity
from posewarp.export.to_engine import Shapes, to_engine
from posewarp.runtime import Session, command, plugin_library
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import BackendError, EngineError, ParityError, PosewarpError
from posewarp.runtime.files import atomic_write

BATCHES = (1, 2, 7, 16)
BACKENDS = ("tensorrt", "rtx")
NOT_MEASURED = 77


def build(onnx_path: Path, output: Path, backend: str, **options: Any) -> None:
    """An engine for this card."""
    targets = ("current",) if backend == "rtx" else ()
    to_engine(onnx_path, output, backend=backend, targets=targets, **options)


def find_backend(folder: Path) -> tuple[str | None, list[str]]:
    """The first backend that builds and runs y = relu(x + x) here, and why the ones before it do not."""
    reasons = []
    for backend in BACKENDS:
        try:
            _try(folder, backend)
        except PosewarpError as exc:
            reasons.append(f"{backend}: {' '.join(str(exc).split())}")
        else:
            return backend, reasons
    return None, reasons


def refusal(folder: Path, backend: str) -> str | None:
    """Why a backend is not here or does not take this card; None if it builds and runs y = relu(x + x)."""
    try:
        _try(folder, backend)
    except (EngineError, BackendError) as exc:
        return " ".join(str(exc).split())
    return None


def _try(folder: Path, backend: str) -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in "xy"]
    nodes = [helper.make_node("Add", ["x", "x"], ["sum"]), helper.make_node("Relu", ["sum"], ["y"])]
    graph = helper.make_graph(nodes, "double", tensors[:1], tensors[1:])
    path, engine = folder / "double.onnx", folder / "double.engine"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    build(path, engine, backend, profiles=Shapes(("x:1x8",), ("x:2x8",), ("x:4x8",)), force=True)
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    with Session.open(engine, contract=path) as session:
        if not np.array_equal(session.run({"x": x})["y"], np.maximum(2 * x, 0)):
            raise ParityError(f"an engine of {backend} gives wrong sums on this card")


def measure(name: str, folder: Path, backend: str) -> dict[str, Any]:
    """Build a network's FP32 and mixed file, and compare each engine with PyTorch's FP32.

    Returns: by type, what ``posewarp parity --json`` writes, or the error in ``status``.
    """
    profiles = _shapes(read_contract(load_model(folder / f"{name}.onnx")))
    plugins = [plugin_library.find("tensorrt")] if backend == "tensorrt" else []
    found: dict[str, Any] = {}
    for dtype, suffix in (("fp32", ".onnx"), ("fp16", FP16)):
        try:
            path = folder / f"{name}{suffix}"
            engine = path.with_suffix(".engine")
            build(path, engine, backend, precision=dtype, plugins=plugins, profiles=profiles)
            allowed = {"atol": LIBRARIES_ATOL} if dtype == "fp32" else None
            report = parity(
                folder / f"{name}.safetensors", engine, batches=BATCHES, dtype=dtype, tolerance=allowed
            )
            found[dtype] = json.loads(report.to_json())
            print(report)
        except PosewarpError as exc:
            found[dtype] = {"status": f"failed: {' '.join(str(exc).split())}"}
            print(f"{name} {dtype}: {found[dtype]['status']}")
    return found


def _shapes(contract: Contract) -> Shapes:
    """Batches 1 to the largest in one profile: the default one ends at 8, above which a session splits."""
    texts = []
    for batch in (1, 1, max(BATCHES)):
        feeds = load_inputs(None, contract, batch=batch)[0]
        texts.append(
            (",".join(f"{name}:{'x'.join(map(str, value.shape))}" for name, value in feeds.items()),)
        )
    return Shapes(*texts)


def engines(
    folder: Annotated[Path, typer.Argument(help="With the networks' files, and for the engines.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Build engines of both networks for this card, and hold them to PyTorch; exit 77 if no TensorRT takes the card."""
    with tempfile.TemporaryDirectory(prefix="posewarp-") as tries:
        backend, reasons = find_backend(Path(tries))
    if backend is None:
        print(f"not measured: no TensorRT for this card ({'; '.join(reasons)})")
        sys.exit(NOT_MEASURED)
    found: dict[str, Any] = {"backend": backend, "refused": reasons, "networks": {}}
    for name in NETWORKS:
        found["networks"][name] = measure(name, folder, backend)
        if json_path is not None:  # after each: the second may run out of time
            with atomic_write(json_path) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")
    statuses = [report["status"] for reports in found["networks"].values() for report in reports.values()]
    if bad := [status for status in statuses if status != "passed"]:
        raise ParityError(f"{len(bad)} of {len(statuses)} engines: {bad[0]}")


app = typer.Typer(add_completion=False)
app.command()(engines)

if __name__ == "__main__":
    command.main(app)
