"""ONNX Runtime, on the CPU or with CUDA."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from posewarp.runtime import plugin_library
from posewarp.runtime.contract import TensorSpec
from posewarp.runtime.errors import BackendError, ContractError, PluginError
from posewarp.runtime.plugin_library import Place, PluginLibrary

_LOG = logging.getLogger(__name__)

# Distributions that all install the module onnxruntime, over each other if more than one is there.
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    # TF32 has the 10-bit mantissa of FP16, and is on by default: in a warp's coordinates that is 0.1 px.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}
_DTYPES = {
    "float": "float32",
    "double": "float64",
    **{name: name for name in ("float16", "bool")},
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class OnnxRuntimeBackend:
    """An ONNX file in an InferenceSession (see ``backends.Backend``)."""

    def __init__(
        self,
        ort: ModuleType,
        path: Path,
        device: str,
        threads: int,
        extra_outputs: Sequence[str],
        libraries: Sequence[PluginLibrary] = (),
    ):
        self.name = " with ".join(
            [f"ONNX Runtime {ort.__version__}", *(f"{each.name} {each.version}" for each in libraries)]
        )
        options = ort.SessionOptions()
        for library in libraries:
            _register(options, library)
        options.intra_op_num_threads = threads
        # Its threads spin while they wait. When a run is over they need not: for some 30 ms they would take the CPUs
        # from whatever runs next in the process (two sessions in turns, two cores: 10 ms a run, 19 without this).
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.inter_op_num_threads = 1  # nodes run one after another; a second pool would only take CPUs
        options.log_severity_level = 4  # failures are raised; what it logs besides is noise on stderr
        model: str | bytes = str(path)
        if extra_outputs:
            model = _with_outputs(path.read_bytes(), extra_outputs)
            # Weights in a file beside the model are found from the model's path, which bytes do not have.
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(path.resolve().parent)
            )
        try:
            self._session = ort.InferenceSession(model, options, providers=[_PROVIDERS[device]])
        except Exception as exc:
            missing = re.search(r"Graph output \((.*?)\) does not exist", str(exc))
            if missing and missing[1] in extra_outputs:
                raise ContractError(
                    f"{path} has no tensor {missing[1]!r} to return beside its outputs"
                ) from exc
            hint = _warp_hint(str(exc), device, bool(libraries))
            raise BackendError(f"{path} cannot be opened by {self.name}: {hint or _reason(exc)}") from exc
        # A provider that does not start is left out, with no more than a line in the log.
        self.device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.inputs = tuple(_spec(path, node) for node in self._session.get_inputs())
        outputs = {node.name: _spec(path, node) for node in self._session.get_outputs()}
        self.outputs = tuple(outputs.values())

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as exc:
            raise BackendError(f"{self.name} failed on {self.device}: {_reason(exc)}") from exc

    def close(self) -> None:
        del self._session


def open_model(
    path: Path,
    device: str,
    threads: int,
    extra_outputs: Sequence[str],
    plugins: Place | Sequence[Place] | None = None,
) -> OnnxRuntimeBackend:
    """See ``backends.open_model``. ``auto`` takes CUDA where it works, else the CPU.

    Our library has a kernel for the CPU alone, and ONNX Runtime places a node where its kernel is: registered in
    a CUDA session it would pull each warp to the CPU and back. So it is registered in CPU sessions only.
    """
    ort = _import_onnxruntime()
    if device == "cpu":
        return OnnxRuntimeBackend(ort, path, "cpu", threads, extra_outputs, _libraries(plugins))
    if device == "cuda" and plugins:
        raise PluginError(
            "plugins= are libraries for the CPU; a CUDA session takes none: open it without plugins="
        )
    reason = "it has no CUDAExecutionProvider; pip install posewarp[gpu]"
    if "CUDAExecutionProvider" in ort.get_available_providers():
        said = io.StringIO()
        with contextlib.redirect_stdout(said):  # both print what they could not load, and go on
            if hasattr(ort, "preload_dlls"):  # 1.21 and later: finds the CUDA libraries that pip installed
                ort.preload_dlls()
            backend = OnnxRuntimeBackend(ort, path, "cuda", threads, extra_outputs)
        if backend.device == "cuda":
            return backend
        backend.close()
        reason = f"CUDA could not be started (driver, CUDA or cuDNN); it said: {_one_line(said.getvalue())}"
    problem = f"ONNX Runtime {ort.__version__} cannot run on cuda: {reason}{_overwritten()}"
    if device == "cuda":
        raise BackendError(problem, got=ort.get_available_providers(), expected="CUDAExecutionProvider")
    _LOG.info("device auto takes the CPU: %s", problem)
    return OnnxRuntimeBackend(ort, path, "cpu", threads, extra_outputs, _libraries(plugins))


def _libraries(plugins: Place | Sequence[Place] | None) -> list[PluginLibrary]:
    """Those given, or the one that is found, loaded and checked."""
    if plugins is None:
        plugins = [found] if (found := plugin_library.find("cpu")) else []
    return [plugin_library.load(path) for path in plugin_library.named("cpu", plugins)]


def _warp_hint(message: str, device: str, with_library: bool) -> str | None:
    """What to do about a file that ONNX Runtime refuses for its warps."""
    if "MixedGridSample(-1) is not a registered function/op" in message:
        return "its warps are spelled as plugin nodes, without the standard operator inside: " + (
            "run `make plugins`, or give plugins="
            if device == "cpu"
            else "export it with --warp portable, or open it on the cpu"
        )
    if with_library and "of operator (MixedGridSample)" in message:
        return f"{_one_line(message)} The plugin library samples fp32, fp16 and bf16; open it with plugins=()"
    return None


def _register(options: Any, library: PluginLibrary) -> None:
    try:
        options.register_custom_ops_library(str(library.path))
    except Exception as exc:
        raise PluginError(f"ONNX Runtime refuses {library.path}: {_reason(exc)}") from exc


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except Exception as exc:  # ImportError, or anything at all where two builds overwrote each other
        cause: BaseException | None = exc
        while cause is not None:  # its extension modules turn Ctrl-C during the import into an ImportError
            if isinstance(cause, (KeyboardInterrupt, SystemExit)):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        hint = _overwritten() or "; pip install posewarp[cpu]"
        raise BackendError(f"ONNX Runtime cannot be imported ({_reason(exc)}){hint}") from exc
    if not hasattr(onnxruntime, "InferenceSession"):  # what is left after uninstalling one of two
        hint = _overwritten() or "; pip install --force-reinstall posewarp[cpu]"
        raise BackendError(f"the installed onnxruntime is not complete{hint}")
    return onnxruntime


def _overwritten() -> str:
    """A sentence if several distributions wrote the same module, else nothing."""
    found = []
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    if len(found) < 2:
        return ""
    return f"; {' and '.join(found)} are installed over each other: uninstall all of them, then install one"


def _spec(path: Path, node: Any) -> TensorSpec:
    dtype = re.fullmatch(r"tensor\((\w+)\)", node.type)
    if not dtype or dtype[1] not in _DTYPES:
        raise BackendError(f"{path}: {node.name} has type {node.type}, which numpy arrays cannot have")
    # An axis without a name is None; it is dynamic, and agrees with no other.
    shape = (size if size is not None else f"{node.name}_{axis}" for axis, size in enumerate(node.shape))
    return TensorSpec(node.name, _DTYPES[dtype[1]], tuple(shape))


def _with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """Declare internal tensors as outputs, without the onnx package.

    Protobuf merges an embedded message that occurs twice, and appends its repeated fields: so a second
    ModelProto{graph{output{name}}} behind the first adds outputs to its graph. Types are left to inference.
    """

    def message(number: int, payload: bytes) -> bytes:
        length, size = bytearray(), len(payload)
        while size > 127:  # a varint: 7 bits a byte, low bits first
            length.append(size & 127 | 128)
            size >>= 7
        return bytes((number << 3 | 2, *length, size)) + payload

    # onnx.proto: ModelProto.graph = 7, GraphProto.output = 12, ValueInfoProto.name = 1.
    return model + b"".join(message(7, message(12, message(1, name.encode()))) for name in names)


def _reason(exc: Exception) -> str:
    """ONNX Runtime's message without its error code and the place in its source."""
    text = _one_line(str(exc))
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", "", text)
    return re.sub(r"/\S+\.\w+:\d+ .*?\) (?=[A-Z])", "", text) or type(exc).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())
