"""Who is measured: everything that can run a network, and why what cannot run here does not.

To add one: a factory in runners.py, and its line here; or, for one run, ``--contender name=file.py:function``.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from posewarp.benchmarks.harness.networks import Derived, Network
from posewarp.benchmarks.harness.worker import Job
from posewarp.export.graphs.graph import load_model
from posewarp.export.ladder.rungs import is_engine
from posewarp.export.precision.emulation import half_type
from posewarp.runtime import plugin_library, sidecar

_RUNNERS = "posewarp.benchmarks.harness.runners"
BASELINE = "ONNX Runtime"


@dataclass(frozen=True)
class Contender:
    """One way to run a network.

    Attributes:
        name: as the table calls it.
        entry: the function that opens it in its worker, ``module:function`` or ``file.py:function``.
        file: what that function opens.
        job: device, type, copies and graph; threads are set when it is opened.
        missing: why it cannot be measured here; None if it can.
        failure: what went wrong in making its file; None if nothing did.
    """

    name: str
    entry: str
    file: str
    job: Job = field(default_factory=Job)
    missing: str | None = None
    failure: str | None = None

    @property
    def label(self) -> str:
        """Unlike every other contender's of the network."""
        if self.job.device == "cpu":
            return self.name if self.job.dtype == "fp32" else f"{self.name}, {self.job.dtype}"
        if self.missing:
            return f"{self.name}, {self.job.device} {self.job.dtype}"
        copies = "host copies" if self.job.host_copies else "no copies"
        graph = "CUDA graph" if self.job.cuda_graph else "no graph"
        return f"{self.name}, {self.job.device} {self.job.dtype}, {copies}, {graph}"


def contenders_of(network: Network, full: bool) -> list[Contender]:
    """All that could run a network, the baseline first.

    Args:
        full: on a GPU all four of copies and graph; else host copies without a graph, and a graph without copies.
    """
    found = [*_on_cpu(network), *_files(network, full)]
    modes = _modes(full)
    for name, entry, needed in (
        ("PyTorch eager", "torch_eager", ("torch",)),
        ("torch.compile", "torch_compile", ("torch",)),
    ):
        for dtype in ("fp32", "fp16", "bf16") if network.torch else ():
            found += _expand(_contender(name, entry, network.torch, needed, "cuda", dtype, network), modes)
    for name, entry in (
        ("ONNX Runtime CUDA", "cuda_provider"),
        ("ONNX Runtime TensorRT", "tensorrt_provider"),
    ):
        onnx = _contender(name, entry, str(network.onnx), ("onnxruntime",), "cuda", "fp32", network)
        if not onnx.missing and (lacking := _provider_missing(entry)):
            onnx = replace(onnx, missing=lacking)
        found += _expand(onnx, modes)
    return found


def cuda_missing() -> str | None:
    """Why no CUDA program can run here; None if one can."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return "no CUDA driver"
    status = driver.cuInit(0)
    return f"the CUDA driver cannot start (cuInit gives {status})" if status else None


def _on_cpu(network: Network) -> Iterator[Contender]:
    onnx = str(network.onnx)
    yield _contender(BASELINE, "plain_session", onnx, ("onnxruntime",))
    library = plugin_library.find("cpu")
    ours = _contender("ONNX Runtime + posewarp", "library_session", onnx, ("onnxruntime",))
    yield ours if library else replace(ours, missing="the plugin library is not built; run `make plugins`")
    name = "ONNX Runtime + posewarp, Winograd"
    yield _of_derived(name, "library_session", network.cpu, ("onnxruntime",))
    if network.torch:
        yield _contender("PyTorch eager", "torch_eager", network.torch, ("torch",), network=network)
        compiled = _contender("torch.compile", "torch_compile", network.torch, ("torch",), network=network)
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        yield compiled if compiler else replace(compiled, missing="no C++ compiler")
    yield _contender("OpenVINO", "openvino", onnx, ("openvino",))
    yield _of_derived("MNN", "session", network.mnn, ())


def _of_derived(name: str, entry: str, derived: Derived, needed: tuple[str, ...]) -> Contender:
    exc = derived.error
    failure = exc and f"{type(exc).__name__}: {' '.join(str(exc).split())}"
    contender = _contender(name, entry, str(derived.path), needed)
    return replace(contender, missing=contender.missing or derived.missing, failure=failure)


def _files(network: Network, full: bool) -> Iterator[Contender]:
    """The files that were given besides, each in a session."""
    for path in network.others:
        if is_engine(str(path)):
            told = sidecar.read(path)
            half = bool(told and told.precision.get("half"))
            names = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
            name = names.get(told.backend if told else "", "engine")
            dtype = "fp16" if half else "fp32"
            one = _contender(f"{name} {path.name}", "session", str(path), (), "cuda", dtype, network)
            # A session runs arrays of the caller's own without a graph.
            yield from _expand(one, [mode for mode in _modes(True) if mode != (False, True)])
        elif path.suffix == ".onnx":
            dtype = half_type(load_model(path))
            yield _contender(f"ONNX Runtime {path.name}", "session", str(path), ("onnxruntime",), dtype=dtype)
            cuda = _contender(
                f"ONNX Runtime CUDA {path.name}", "cuda_provider", str(path), (), "cuda", dtype, network
            )
            if not cuda.missing and (lacking := _provider_missing("cuda_provider")):
                cuda = replace(cuda, missing=lacking)
            yield from _expand(cuda, _modes(full))
        else:
            yield _contender(path.name, "session", str(path), (), network=network)


def _contender(
    name: str,
    entry: str,
    file: str,
    needed: tuple[str, ...],
    device: str = "cpu",
    dtype: str = "fp32",
    network: Network | None = None,
) -> Contender:
    absent = [module for module in needed if find_spec(module) is None]
    missing = f"{absent[0]} is not installed" if absent else cuda_missing() if device == "cuda" else None
    if not missing and device == "cuda" and entry.startswith("torch") and not _torch_has_cuda():
        missing = "this PyTorch is built without CUDA"
    job = Job(device=device, dtype=dtype, contract=str(network.onnx) if network else None)
    return Contender(name, f"{_RUNNERS}:{entry}", file, job, missing)


def _modes(full: bool) -> list[tuple[bool, bool]]:
    """Host copies, CUDA graph."""
    return (
        [(True, False), (True, True), (False, False), (False, True)]
        if full
        else [(True, False), (False, True)]
    )


def _expand(contender: Contender, modes: list[tuple[bool, bool]]) -> list[Contender]:
    """In each mode; what cannot run is told once."""
    if contender.missing:
        return [contender]
    return [
        replace(contender, job=replace(contender.job, host_copies=copies, cuda_graph=graph))
        for copies, graph in modes
    ]


def _torch_has_cuda() -> bool:
    import torch

    return torch.backends.cuda.is_built()


def _provider_missing(entry: str) -> str | None:
    import onnxruntime

    provider = {"cuda_provider": "CUDAExecutionProvider", "tensorrt_provider": "TensorrtExecutionProvider"}[
        entry
    ]
    return (
        None if provider in onnxruntime.get_available_providers() else f"this onnxruntime has no {provider}"
    )


def own_contender(entry: str, network: Network) -> Contender:
    """One of the user's: ``name=file.py:function``, a factory as those in runners.py."""
    name, _, function = entry.partition("=")
    if ":" in function and function.partition(":")[0].endswith(".py"):
        function = f"{Path(function.rpartition(':')[0]).resolve()}:{function.rpartition(':')[2]}"
    return Contender(name, function, str(network.onnx), Job(contract=str(network.onnx)))
