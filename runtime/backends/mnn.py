"""MNN, on the CPU: ``.mnn`` files, convolved by Winograd's method.

What ``posewarp build --backend mnn`` wrote has a side-car, which tells the contract and what the file must be. Without
one a file does not open: MNN tells no dynamic axis, and types and shapes of outputs only after a run.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from posewarp.runtime import sidecar
from posewarp.runtime.backends.captured import captured_stdout
from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.errors import BackendError, ContractError, EngineError, PluginError

# numpy's names of the types that both have; MNN holds wider integers in 32 bits.
_TYPES = {"float32": "Halide_Type_Float", "uint8": "Halide_Type_Uint8", "int32": "Halide_Type_Int"}

# What it prints on stdout where nothing is wrong, of the CPU and of our choice; it has no switch for that.
_NOISE = ("The device supports: ", "MNN use high precision")


class MnnBackend:
    """An MNN file that was opened (see ``backends.Backend``).

    There is one MNN session: calls from several threads run one after another, each on all ``threads``. It is planned
    for one set of shapes at a time; other shapes are planned when they come. Plans of earlier shapes are not kept: one
    takes a few milliseconds, and holds its own copy of the transformed weights (``deepfashion``: about 1 GiB).
    """

    device = "cpu"

    def __init__(self, mnn: ModuleType, path: Path, threads: int, contract: Contract):
        self.name = f"MNN {mnn.version()}"
        self._mnn, self._lock = mnn, threading.Lock()
        with captured_stdout(_NOISE) as said:
            try:
                self._interpreter = mnn.Interpreter(str(path))
            except Exception as exc:  # it raises Exception itself
                raise BackendError(
                    f"{path} is not an MNN file, or is cut short; build it again: posewarp build model.onnx "
                    f"--backend mnn. {self.name} said: {said()}"
                ) from exc
            # On a CPU with FP16 arithmetic any other precision would let MNN round to it.
            self._session = self._interpreter.createSession(
                {"backend": "CPU", "numThread": threads, "precision": "high"}
            )
            if self._session is None:
                raise BackendError(
                    f"{self.name} cannot plan {path} in the shapes that it was built with: {said()}"
                )
        self._feeds = dict(self._interpreter.getSessionInputAll(self._session))
        self._results = dict(self._interpreter.getSessionOutputAll(self._session))
        self._shapes = {name: tuple(tensor.getShape()) for name, tensor in self._feeds.items()}
        self.metadata = {METADATA_KEY: contract.to_json()}
        self.inputs, self.outputs = contract.inputs, contract.outputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        shapes = {name: array.shape for name, array in feeds.items()}
        with self._lock:
            if shapes != self._shapes:
                self._plan(shapes)
            for name, array in feeds.items():
                if not self._feeds[name].copyFrom(self._host(array)):
                    raise BackendError(f"{self.name} took no input {name}")
            code = self._interpreter.runSession(self._session)
            if code:
                raise BackendError(f"{self.name} failed with code {code}; it printed why")
            return {spec.name: self._fetch(spec) for spec in self.outputs}

    def close(self) -> None:
        with self._lock:
            del self._feeds, self._results, self._session, self._interpreter

    def _plan(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = {}  # until it is done, they are of no run
        with captured_stdout(_NOISE) as said:
            for name, shape in shapes.items():
                self._interpreter.resizeTensor(self._feeds[name], shape)
            self._interpreter.resizeSession(self._session)
            self._results = dict(self._interpreter.getSessionOutputAll(self._session))
            if any(min(tensor.getShape(), default=1) < 1 for tensor in self._results.values()):
                named = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                raise BackendError(f"{self.name} cannot plan the shapes {named}: {said()}")
        self._shapes = dict(shapes)

    def _host(self, array: np.ndarray) -> Any:
        """The array as a tensor of MNN's, in numpy's own order of axes."""
        kind = getattr(self._mnn, _TYPES[array.dtype.name])
        return self._mnn.Tensor(array.shape, kind, array, self._mnn.Tensor_DimensionType_Caffe)

    def _fetch(self, spec: TensorSpec) -> np.ndarray:
        tensor = self._results[spec.name]
        host = self._host(np.empty(tensor.getShape(), spec.dtype))
        if not tensor.copyToHostTensor(host):
            raise BackendError(f"{self.name} gave no output {spec.name}")
        return np.array(host.getNumpyData())  # a copy: the tensor's own memory ends with it


def open_model(
    path: Path,
    device: str,
    threads: int,
    extra_outputs: Sequence[str],
    plugins: Sequence[str | os.PathLike[str]] | None = None,
) -> MnnBackend:
    """See ``backends.open_model``. ``auto`` is the CPU.

    Raises: BackendError if MNN or the device is not there, or the file is refused; EngineError if its side-car is
        missing or another file's; PluginError if plugins are given; ContractError if there is no such extra output.
    """
    if device == "cuda":
        raise BackendError(f"{path} runs on the cpu only; leave device out, or open the ONNX file on cuda")
    if plugins:
        raise PluginError(f"{path}: MNN samples with its own kernels and takes no plugins=")
    told = sidecar.read(path)
    if told is None:
        raise EngineError(
            f"{path} has no side-car {sidecar.path_of(path).name}, which holds its contract; copy it too, or build "
            "again: posewarp build model.onnx --backend mnn"
        )
    if told.backend != "mnn":
        raise EngineError(f"{sidecar.path_of(path)} is the side-car of a {told.backend} engine, not of MNN's")
    sidecar.check_content(path, told)
    contract = Contract.from_json(json.dumps(told.contract))
    backend = MnnBackend(_import_mnn(), path, threads, contract)
    missing = [name for name in extra_outputs if name not in {spec.name for spec in backend.outputs}]
    if missing:
        backend.close()
        raise ContractError(
            f"{path} has no output {missing[0]!r}; an MNN file returns what was an output when it was built"
        )
    return backend


def _import_mnn() -> ModuleType:
    try:
        with captured_stdout(_NOISE):
            import MNN
    except Exception as exc:  # ImportError, or what its binding raises
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise BackendError(f"MNN cannot be imported ({reason}); pip install posewarp[mnn]") from exc
    return MNN
