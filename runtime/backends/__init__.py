"""Backends: one module for each library that runs model files, which is imported when it opens one.

A backend only opens and runs; what a caller passes is checked before, by the session. To add one: a module
here with an ``open_model`` function of the same signature, and its suffix in ``_BY_SUFFIX``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from posewarp.runtime.contract import TensorSpec
from posewarp.runtime.engine_options import EngineOptions
from posewarp.runtime.errors import BackendError

DEVICES = ("cpu", "cuda", "auto")

_BY_SUFFIX = {".onnx": "onnxruntime", ".mnn": "mnn", ".engine": "tensorrt", ".plan": "tensorrt"}


class Backend(Protocol):
    """An opened model.

    Attributes:
        name: the library and its version, and those of the plugin libraries in use.
        device: what it runs on, ``cpu`` or ``cuda``; never ``auto``.
        metadata: the flat strings that the file carries.
        inputs, outputs: as the library declares them; outputs that were asked for besides come last.

    Those that run on a GPU may have ``takes_device_arrays``: feeds may then be ``DeviceArray``s, and ``run`` takes
    as a second argument those that outputs are written to; and ``max_batch``, above which a batch is split.
    """

    name: str
    device: str
    metadata: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; callable from several threads. The arrays returned belong to the caller.

        Raises: BackendError if the library fails.
        """
        ...

    def close(self) -> None:
        """Give back what the library holds."""
        ...


def open_model(
    path: Path,
    device: str | None,
    threads: int,
    extra_outputs: Sequence[str],
    plugins: Sequence[str | os.PathLike[str]] | None,
    engine: EngineOptions | None = None,
) -> Backend:
    """Open a model file with the backend that its suffix names.

    Args:
        path: the file.
        device: ``cpu``, ``cuda`` or ``auto``; None: ``cuda`` for a plan of TensorRT, else ``cpu``.
        threads: CPU threads to use.
        extra_outputs: internal tensors to return besides the outputs.
        plugins: plugin libraries, and no others; None: those that ``plugin_library.find`` finds.
        engine: how a plan of TensorRT is run; None: the default, and for other files.

    Raises: BackendError if file, library or device are not there, or the file is refused; EngineError if a plan
        is refused; PluginError if a plugin library cannot be used; ContractError if an extra output does not
        exist.
    """
    if device is not None and device not in DEVICES:
        raise BackendError(
            f"no device {device!r}; there are {', '.join(DEVICES)}", got=device, expected=DEVICES
        )
    if path.suffix not in _BY_SUFFIX:
        raise BackendError(
            f"{path} is not a model file that can be run; known are {', '.join(_BY_SUFFIX)} files"
        )
    if not path.is_file():
        raise BackendError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    name = _BY_SUFFIX[path.suffix]
    module = import_module(f"{__name__}.{name}")
    if name == "tensorrt":
        return module.open_model(path, device or "cuda", extra_outputs, plugins, engine or EngineOptions())
    if engine is not None:
        raise BackendError(f"engine= says how a plan of TensorRT is run; {path} is none")
    return module.open_model(path, device or "cpu", threads, extra_outputs, plugins)
