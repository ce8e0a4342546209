"""TensorRT's Python modules: which one a plan needs, its logger and plugins, and the one place where
what its calls return is checked.

TensorRT, TensorRT-RTX and the lean runtime have the same calls for running a plan. What differs is decided by what is
there, never by a version.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from posewarp.runtime import plugin_library
from posewarp.runtime.errors import BackendError, EngineError, PluginError
from posewarp.runtime.files import sha256

NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX", "tensorrt_lean": "TensorRT's lean runtime"}

_MODULES = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "tensorrt_lean": ("tensorrt_lean", "tensorrt_lean_bindings"),
}
_INSTALL = {
    "tensorrt": "pip install 'posewarp[tensorrt]'",
    "tensorrt_rtx": "pip install 'posewarp[rtx]'",
    "tensorrt_lean": "pip install tensorrt-lean-cu13-libs tensorrt-lean-cu13-bindings",
}
_LAST_LINES = 4
# What the log says, and what to do.
_HINTS = (
    (
        r"EngineHostCodeAllowed",
        "it carries code of the machine that built it; if you trust it: engine=EngineOptions(allow_host_code=True)",
    ),
    (r"Cannot find plugin", "load its plugin library: plugins=[...]"),
    (r"[Vv]ersion tag|[Pp]latform", "rebuild it here: posewarp build model.onnx"),
)


class Library:
    """One of TensorRT's modules in this process.

    Attributes:
        trt: the module.
        module: its name: ``tensorrt``, ``tensorrt_rtx`` or ``tensorrt_lean``.
        name: what a user calls it, with its version.
        version: such as ``11.4.0.106``.
        logger: TensorRT keeps the first one that it is given for the rest of the process.
        captures_itself: whether it makes CUDA graphs of its own accord.
    """

    def __init__(self, trt: ModuleType, module: str):
        self.trt, self.module = trt, module
        self.version = trt.__version__
        self.name = f"{NAMES[module]} {self.version}"
        self.captures_itself = hasattr(trt, "CudaGraphStrategy")
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._plugins: dict[Path, tuple[str, ...]] = {}
        self.logger = _make_logger(trt, self._lines)
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(self.logger, "")

    def call(self, otherwise: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call TensorRT, which says None or False for failure.

        Raises: EngineError: ``otherwise``, what to do if that is known, and the last lines of the log.
        """
        problem: Exception | None = None
        try:
            value = function(*arguments)
            if value is not None and value is not False:
                return value
        except (RuntimeError, TypeError) as exc:  # TypeError: a constructor that made nothing
            problem = exc
        del function, arguments  # else the exception keeps alive what must go before the GPU's context does
        said = " | ".join(dict.fromkeys((*self._lines, *([str(problem)] if problem else []))))
        self._lines.clear()
        hint = next((f"; {remedy}" for pattern, remedy in _HINTS if re.search(pattern, said)), "")
        raise EngineError(f"{otherwise}{hint}; {self.name} said: {said or 'nothing'}") from problem

    def load_plugins(self, paths: Sequence[Path]) -> None:
        """Load plugin libraries, each once in a process: TensorRT keeps what they brought.

        Args:
            paths: from ``plugin_library.find``.

        Raises: PluginError if TensorRT refuses one.
        """
        registry = self.trt.get_plugin_registry()
        for path in paths:
            if path in self._plugins:
                continue
            before = set(map(_name, registry.all_creators))
            if not registry.load_library(str(path)):
                said = " | ".join(self._lines)
                raise PluginError(
                    f"{self.name} refuses the plugin library {path}: {said or 'it says nothing'}; another build of "
                    "it may be loaded already"
                )
            self._plugins[path] = tuple(sorted(set(map(_name, registry.all_creators)) - before))

    def brought(self, path: Path) -> str:
        """Which plugins a loaded library brought, as a side-car writes it."""
        return ", ".join(self._plugins[path])


def open_library(candidates: Sequence[str], plan: Path) -> Library:
    """The first that is installed.

    Args:
        candidates: names of modules.
        plan: what it is for, for the error.

    Raises: BackendError if none is installed, or one does not load.
    """
    for candidate in candidates:
        for name in _MODULES[candidate]:
            try:
                return _library(import_module(name), candidate)
            except ModuleNotFoundError as exc:
                if exc.name != name:
                    raise BackendError(f"{NAMES[candidate]} does not load: {exc}") from exc
            except (ImportError, OSError) as exc:
                raise BackendError(f"{NAMES[candidate]} does not load: {exc}") from exc
    wanted = " or ".join(NAMES[each] for each in candidates)
    raise BackendError(f"{plan} needs {wanted}, which is not installed: {_INSTALL[candidates[0]]}")


_library = cache(Library)


def check_plugins(needed: Sequence[dict[str, str]], paths: Sequence[Path], plan: Path) -> list[str]:
    """Compare the plugin libraries at hand with those that a side-car names.

    Returns: what a user should know: libraries of another hash.
    Raises: PluginError if one is missing.
    """
    at_hand = {path.name: path for path in paths}
    notes = []
    for entry in needed:
        if entry["name"] not in at_hand:
            raise PluginError(
                f"{plan} needs the plugin library {entry['name']} ({entry.get('version', 'version unknown')}); give "
                f"it: plugins=[...], or {plugin_library.ENVIRONMENT}, or `make plugins`",
                got=sorted(at_hand),
                expected=entry["name"],
            )
        if sha256(at_hand[entry["name"]]) != entry["sha256"]:
            notes.append(f"{at_hand[entry['name']]} is another build than the one that {plan} was built with")
    return notes


def _name(creator: Any) -> str:
    return f"{creator.plugin_namespace}::{creator.name} {creator.plugin_version}"


def _make_logger(trt: ModuleType, lines: deque[str]) -> Any:
    severities = trt.ILogger.Severity

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                lines.append(" ".join(message.split()))

    return Logger()
