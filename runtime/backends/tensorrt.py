"""TensorRT, TensorRT-RTX and TensorRT's lean runtime: plans, on the GPU.

A plan is trusted code: it holds kernels, and may hold more (see ``EngineOptions.allow_host_code``). What its side-car
says is checked before TensorRT sees it, which guards against mistakes, not against who can write both files.
"""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posewarp.runtime import plugin_library, sidecar
from posewarp.runtime.backends.device import Device, open_device
from posewarp.runtime.backends.lanes import Lane, Lanes
from posewarp.runtime.backends.tensorrt_engine import Engine
from posewarp.runtime.backends.tensorrt_library import Library, check_plugins, open_library
from posewarp.runtime.contract import METADATA_KEY
from posewarp.runtime.device_array import DeviceArray
from posewarp.runtime.engine_options import EngineOptions
from posewarp.runtime.errors import BackendError, ContractError, EngineError, PluginError
from posewarp.runtime.plugin_library import Place
from posewarp.runtime.sidecar import Sidecar

_LOG = logging.getLogger(__name__)


class TensorRtBackend:
    """A plan that was opened (see ``backends.Backend``).

    Attributes:
        max_batch: the largest batch of its profiles; None if its first axis is fixed.
        notes: what a user should know of how it was opened.
    """

    device = "cuda"
    takes_device_arrays = True

    def __init__(
        self, engine: Engine, device: Device, name: str, options: EngineOptions, told: Sidecar | None
    ):
        self.name = name
        self.metadata = {}
        if told is not None and told.contract:
            self.metadata[METADATA_KEY] = json.dumps(told.contract)
        self.inputs, self.outputs, self.max_batch = engine.inputs, engine.outputs, engine.max_batch
        self._engine, self._device, self._options = engine, device, options
        self._lanes = Lanes(lambda: Lane(engine, device, options.shapes), options.contexts)
        # Also where a session is forgotten, and at the end of the interpreter: then there is no order otherwise.
        self._release = weakref.finalize(self, _release, self._lanes, engine, device)

    @property
    def cuda_graph(self) -> str:
        """Whether runs are CUDA graphs: ``on``, ``on, by TensorRT-RTX``, ``off``, or ``off:`` and why."""
        if not self._options.cuda_graph:
            return "off"
        if self._engine.library.captures_itself:
            return "on, by TensorRT-RTX"
        if not self._device.captures:
            return f"off: {self._device.provider} captures none"
        return "on" if self._engine.graph_problem is None else f"off: {self._engine.graph_problem}"

    def run(
        self, feeds: Mapping[str, Any], out: Mapping[str, DeviceArray] | None = None
    ) -> dict[str, np.ndarray]:
        """Run once; see ``Lane.run``."""
        with self._device.current(), self._lanes.one() as lane:
            return lane.run(feeds, out or {})

    def close(self) -> None:
        self._release()


def open_model(
    path: Path,
    device: str,
    extra_outputs: Sequence[str],
    plugins: Place | Sequence[Place] | None,
    options: EngineOptions,
) -> TensorRtBackend:
    """See ``backends.open_model``. Checked in this order: file, library, driver, side-car, plugins; then the plan.

    Raises: EngineError if the plan or its side-car is refused; BackendError if library, driver or GPU are missing;
        PluginError if a plugin library is missing or refused; ContractError if there is no such extra output.
    """
    if device == "cpu":
        raise BackendError(
            f"{path} runs on an NVIDIA GPU only; leave device out, or open the ONNX file on the cpu"
        )
    header, told = sidecar.read_header(path), sidecar.read(path)
    library = open_library(_candidates(header, told, options), path)
    gpu = open_device(options.provider)
    try:
        # What carries the runtime of its builder may be of any version; TensorRT itself judges that.
        version = None if told is None and options.allow_host_code else library.version
        told = sidecar.check(path, version=version, compute_capability=gpu.compute_capability)
        _check_host_code(path, told, options)
        paths = _plugin_paths(path, library, told, plugins)
        with gpu.current():
            library.load_plugins(paths)
            engine = Engine(path, library, gpu, options)
    except BaseException:
        gpu.close()
        raise
    brought = [f"{each.name} ({library.brought(each)})" for each in paths]
    backend = TensorRtBackend(engine, gpu, " with ".join([library.name, *brought]), options, told)
    missing = [name for name in extra_outputs if name not in {spec.name for spec in engine.outputs}]
    if missing:
        backend.close()
        raise ContractError(
            f"{path} has no output {missing[0]!r}; an engine returns what was an output when it was built"
        )
    return backend


def _release(lanes: Lanes, engine: Engine, device: Device) -> None:
    with device.current():
        lanes.close()
        engine.close()
    device.close()


def _candidates(header: sidecar.PlanHeader, told: Sidecar | None, options: EngineOptions) -> tuple[str, ...]:
    """Modules that could run a plan, the likeliest first."""
    if options.library:
        return (options.library,)
    if told is not None and told.backend == "rtx":
        return ("tensorrt_rtx",)
    if told is not None or header.kind == "tensorrt":
        return ("tensorrt", "tensorrt_lean")
    return ("tensorrt_rtx", "tensorrt", "tensorrt_lean")


def _check_host_code(path: Path, told: Sidecar | None, options: EngineOptions) -> None:
    """Refuse what is known to carry code; TensorRT itself refuses the rest, being told so."""
    if told is None or options.allow_host_code:
        return
    if told.options.get("version_compatible") and not told.options.get("exclude_lean_runtime"):
        raise EngineError(
            f"{path} carries the lean runtime of the TensorRT that built it, machine code that would run with your "
            "rights; build it with --exclude-lean-runtime, or if you trust it: "
            "engine=EngineOptions(allow_host_code=True)"
        )


def _plugin_paths(
    path: Path, library: Library, told: Sidecar | None, plugins: Place | Sequence[Place] | None
) -> list[Path]:
    """The plugin libraries to load: those given, else the one that is found if the plan may need it."""
    if library.captures_itself:  # TensorRT-RTX's networks have no plugin layers
        if plugins:
            raise PluginError(f"{path}: engines of TensorRT-RTX hold no plugins; open it without plugins=")
        return []
    needed = [] if told is None else list(told.plugins)
    if plugins is not None:
        paths = plugin_library.named("tensorrt", plugins)
    elif told is None or needed:
        paths = [found] if (found := plugin_library.find("tensorrt")) else []
    else:
        paths = []
    for note in check_plugins(needed, paths, path):
        _LOG.warning("%s", note)
    return paths
