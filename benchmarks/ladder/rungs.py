"""The rungs of one network: all that could run it, and why what cannot run here does not.

To add one: a context manager that opens it, and a ``Rung`` with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from onnx import ModelProto

from posewarp.benchmarks.gpu import engines
from posewarp.benchmarks.harness.contenders import cuda_missing
from posewarp.benchmarks.harness.networks import Derived, Network
from posewarp.export.capture.difference import FLOAT64_RATIO
from posewarp.export.engines.profiles import Shapes, format_shapes
from posewarp.export.graphs.graph import load_model, save_model
from posewarp.export.graphs.warps import find_warps, rewrite_warps
from posewarp.export.ladder.drift import WarpDrift, coordinate_drift
from posewarp.export.ladder.measures import TOLERANCES, Tolerance, distance, p999
from posewarp.export.ladder.rungs import NotExecuted, is_engine, open_rung
from posewarp.export.precision.emulation import half_type
from posewarp.export.to_fp16 import to_fp16
from posewarp.runtime import plugin_library, sidecar
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import BackendError, EngineError, ExportError
from posewarp.runtime.plugin_library import Place
from posewarp.runtime.session import Session

Arrays = Mapping[str, np.ndarray]

SPELLINGS = ("portable", "gridsample", "gather")
HALVES = ("fp16", "bf16")
_ENGINES = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class Opened:
    """A rung that can be run.

    Attributes:
        run: outputs of inputs, by name.
        drift: of inputs and the reference's outputs, the movement of each warp's positions; none where they cannot
            be told.
    """

    run: Callable[[Arrays], Arrays]
    drift: Callable[[Arrays, Arrays], list[WarpDrift]] = lambda feeds, expected: []


@dataclass(frozen=True)
class Rung:
    """One way to run a network.

    Attributes:
        name: the runtime and the spelling.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        open: opens it. Raises NotExecuted if this machine cannot run it.
        tolerance: what it may differ by from the reference.
        float64_limit: its mean error against float64 may be this many times PyTorch's own; None where more is
            expected.
    """

    name: str
    precision: str
    open: Callable[[], AbstractContextManager[Opened]]
    tolerance: Tolerance
    float64_limit: float | None = None


def rungs_of(network: Network, runs: Sequence[Arrays], folder: Path, data: str | None) -> list[Rung]:
    """The whole ladder of a network above its reference: PyTorch, or without it the portable spelling.

    Args:
        network: what find_networks found.
        runs: inputs of each run, by whose sizes engines are built.
        folder: for files that are made, each once, when a rung is opened.
        data: inputs to convert by (see sample_data.py).
    """
    files = _Files(network, folder, data)
    return [*_in_fp32(files), *_in_halves(files), *_given(files), *_engines(files, runs)]


class _Files:
    """The graphs and files of a network; those that are made are made once.

    Attributes:
        spelled: the FP32 graph with its warps in one spelling, and its file.
        half: the file in ``fp16`` or ``bf16``.
    """

    def __init__(self, network: Network, folder: Path, data: str | None):
        self.network, self.folder, self.data = network, folder, data
        self.model = load_model(network.onnx)
        self.spelled, self.half = cache(self._spelled), cache(self._half)

    def _spelled(self, spelling: str) -> tuple[ModelProto, Path]:
        path = self.folder / f"{self.network.name}.{spelling}.onnx"
        model = rewrite_warps(self.model, spelling)
        save_model(model, path)
        return model, path

    def _half(self, dtype: str) -> Path:
        path = self.folder / f"{self.network.name}.{dtype}.onnx"
        to_fp16(self.network.onnx, path, dtype=dtype, data=self.data)
        return path


def _in_fp32(files: _Files) -> Iterator[Rung]:
    limits = TOLERANCES["fp32"], FLOAT64_RATIO
    if files.network.torch:
        yield Rung("ONNX Runtime, portable", "fp32", partial(_onnx, files, "portable", ()), *limits)
    if find_warps(files.model):
        for spelling in SPELLINGS[1:]:
            yield Rung(f"ONNX Runtime, {spelling}", "fp32", partial(_onnx, files, spelling, ()), *limits)
        yield Rung("ONNX Runtime + operator", "fp32", partial(_with_operator, files), *limits)
    winograd = partial(_winograd, files)
    yield Rung("ONNX Runtime + operator, Winograd", "fp32", winograd, TOLERANCES["winograd"])
    yield Rung("MNN", "fp32", partial(_mnn, files.network), TOLERANCES["winograd"])


def _in_halves(files: _Files) -> Iterator[Rung]:
    """The files that were given, else those that are converted here; a CPU emulates both."""
    given = [path for path in files.network.others if path.suffix == ".onnx"]
    for dtype in HALVES:
        paths = [path for path in given if half_type(load_model(path)) == dtype]
        for path in paths:
            yield Rung(f"emulated, {path.name}", dtype, partial(_emulated, files, path), TOLERANCES[dtype])
        if not paths:
            yield Rung("emulated", dtype, partial(_converted, files, dtype), TOLERANCES[dtype])


def _given(files: _Files) -> Iterator[Rung]:
    for path in files.network.others:
        if path.suffix != ".onnx":
            told = sidecar.read(path) if is_engine(str(path)) else None
            dtype = "fp16" if told and told.precision.get("half") else "fp32"
            yield Rung(path.name, dtype, partial(_file, path, files.network.contract), TOLERANCES[dtype])


def _engines(files: _Files, runs: Sequence[Arrays]) -> Iterator[Rung]:
    for backend, name in _ENGINES.items():
        for dtype in ("fp32", "fp16"):
            yield Rung(name, dtype, partial(_engine, files, backend, dtype, runs), TOLERANCES[dtype])


@contextmanager
def _onnx(files: _Files, spelling: str, plugins: Sequence[Place]) -> Iterator[Opened]:
    """An FP32 file. Drift is from the portable graph; of that graph itself the flow's, from PyTorch."""
    model, path = files.spelled(spelling)
    with Session.open(path, plugins=plugins) as session:
        if spelling == "portable":
            yield Opened(session.run, partial(_flow_drift, files, path, plugins))
        else:
            yield Opened(session.run, partial(_drift, files, model))


@contextmanager
def _with_operator(files: _Files) -> Iterator[Opened]:
    with _onnx(files, "portable", (_library(),)) as opened:
        yield opened


@contextmanager
def _winograd(files: _Files) -> Iterator[Opened]:
    path, plugins = _made(files.network.cpu), (_library(),)
    with Session.open(path, plugins=plugins) as session:
        yield Opened(session.run, partial(_flow_drift, files, path, plugins))


def _library() -> Path:
    library = plugin_library.find("cpu")
    if library is None:
        raise NotExecuted("operator", "the plugin library is not built; run `make plugins`")
    return library


def _made(derived: Derived) -> Path:
    if derived.error:
        raise derived.error
    if derived.path is None:
        raise NotExecuted("file", derived.missing)
    return derived.path


def _drift(files: _Files, model: ModelProto, feeds: Arrays, expected: Arrays) -> list[WarpDrift]:
    return coordinate_drift(files.spelled("portable")[0], model, feeds)


def _flow_drift(
    files: _Files, path: Path, plugins: Sequence[Place], feeds: Arrays, expected: Arrays
) -> list[WarpDrift]:
    """Of the flow from PyTorch's, where the contract names it and PyTorch gave it."""
    flow = files.network.contract.settings.get("flow")
    if flow not in expected:
        return []
    with Session.open(path, plugins=plugins, extra_outputs=(flow,)) as session:
        moved = distance(session.run(feeds)[flow], expected[flow])
    note = "the flow itself; PyTorch tells no grids"
    return [WarpDrift(flow, None, None, p999(moved), float(moved.max()), note)]


@contextmanager
def _mnn(network: Network) -> Iterator[Opened]:
    with _file(_made(network.mnn), network.contract) as opened:
        yield opened


@contextmanager
def _file(path: Path, contract: Contract) -> Iterator[Opened]:
    """As ``posewarp parity`` opens it."""
    with open_rung(str(path), contract) as rung:
        yield Opened(rung.run)


@contextmanager
def _emulated(files: _Files, path: Path) -> Iterator[Opened]:
    with open_rung(str(path)) as rung:
        yield Opened(rung.run, partial(_drift, files, rung.model))


@contextmanager
def _converted(files: _Files, dtype: str) -> Iterator[Opened]:
    with _emulated(files, _half(files, dtype)) as opened:
        yield opened


def _half(files: _Files, dtype: str) -> Path:
    try:
        return files.half(dtype)
    except ExportError as exc:
        raise NotExecuted(dtype, f"it cannot be converted: {exc}") from exc


@contextmanager
def _engine(files: _Files, backend: str, dtype: str, runs: Sequence[Arrays]) -> Iterator[Opened]:
    """An engine that is built here, where there is a GPU to run it on, and a TensorRT that takes the card."""
    if missing := cuda_missing():
        raise NotExecuted(backend, missing)
    onnx = files.network.onnx if dtype == "fp32" else _half(files, dtype)
    path = files.folder / f"{files.network.name}.{dtype}.{backend}.engine"
    contract = files.network.contract
    try:
        engines.build(onnx, path, backend, profiles=_shapes(contract, runs))
        session = Session.open(path, device="cuda", contract=contract)
    except (EngineError, BackendError) as exc:
        if reason := engines.refusal(files.folder, backend):
            raise NotExecuted(backend, reason) from exc
        raise
    with session:
        yield Opened(session.run)


def _shapes(contract: Contract, runs: Sequence[Arrays]) -> Shapes:
    """From the smallest to the largest size that will be run."""
    profile = {}
    for spec in contract.inputs:
        if any(isinstance(axis, str) for axis in spec.shape):
            axes = list(zip(*(feeds[spec.name].shape for feeds in runs), strict=True))
            profile[spec.name] = {"min": tuple(map(min, axes)), "max": tuple(map(max, axes))}
    if not profile:
        return Shapes()
    return Shapes(min=[format_shapes(profile, "min")], max=[format_shapes(profile, "max")])
