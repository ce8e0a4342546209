"""TensorRT's Python module over a FakeGpu, in its three editions; and plans for it.

Its networks all compute the same, batch by batch: y = 2 x + sum(k), total = sum(x). What else a plan may say:
``plugin`` (needed to deserialise), ``host_code`` (carried), ``fail`` (names of calls that say None or False),
``breaks_capture`` (a plugin that synchronises), ``types`` (other types by tensor), ``static`` (the shapes).
"""

from __future__ import annotations

import json
import threading
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from fakes.gpu import FakeGpu, Work

VERSIONS = {"tensorrt": "11.1.0.106", "tensorrt_lean": "11.1.0.106", "tensorrt_rtx": "1.7.1.116"}
WORKSPACE = 512
PROFILE = {"x": [[1, 3], [2, 3], [4, 3]], "k": [[1, 2], [2, 2], [4, 2]]}
MIXED_GRID_SAMPLE = ("MixedGridSample", "1", "posewarp")
PLUGIN = "posewarp::MixedGridSample 1"


def expected(x: np.ndarray, k: np.ndarray) -> dict[str, np.ndarray]:
    """What a plan computes, in float32."""
    y = 2 * x + k.sum(1, keepdims=True, dtype=np.float32)
    return {"y": y, "total": x.sum(1, dtype=np.float32)}


def make_plan(path: Path, edition: str = "tensorrt", *, version: str | None = None, **content: Any) -> Path:
    """Write a plan: a header as the real ones have it, and what the fake shall make of it."""
    numbers = bytes(int(part) for part in (version or VERSIONS[edition]).split("."))
    body = json.dumps({"profiles": [PROFILE], **content}).encode()
    tag, length = (b"vtrt", 28 + len(body)) if edition == "tensorrt_rtx" else (b"ftrt", 0)
    head = tag + bytes(4 + 8) + length.to_bytes(8, "little") + numbers
    path.write_bytes(head + body)
    return path


def make_module(gpu: FakeGpu, edition: str = "tensorrt", *, version: str | None = None) -> ModuleType:
    """A module for ``sys.modules[edition]``."""
    trt = ModuleType(edition)
    trt.__version__ = version or VERSIONS[edition]
    trt.gpu = gpu
    trt.creators = []
    for name, members in {
        "TensorIOMode": ("NONE", "INPUT", "OUTPUT"),
        "TensorLocation": ("DEVICE", "HOST"),
        "DataType": ("FLOAT", "HALF", "BF16", "INT64"),
        "ExecutionContextAllocationStrategy": ("STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"),
        **({"TensorFormat": ("LINEAR", "HWC8")} if edition != "tensorrt_lean" else {}),
        **({"CudaGraphStrategy": ("DISABLED", "WHOLE_GRAPH_CAPTURE")} if edition == "tensorrt_rtx" else {}),
    }.items():
        setattr(trt, name, IntEnum(name, members, start=0))

    class ILogger:
        Severity = IntEnum("Severity", ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"), start=0)

    trt.ILogger = ILogger
    trt.Runtime = lambda logger: Runtime(trt, logger)
    trt.get_plugin_registry = lambda: Registry(trt)
    return trt


class Registry:
    def __init__(self, trt: ModuleType):
        self.trt = trt

    @property
    def all_creators(self) -> list[SimpleNamespace]:
        return list(self.trt.creators)

    def load_library(self, path: str) -> object | None:
        self.trt.gpu.calls.append("load_library")
        if self.trt.creators:
            return None  # as the real registry says where a creator of that name is there
        name, version, namespace = MIXED_GRID_SAMPLE
        self.trt.creators.append(
            SimpleNamespace(name=name, plugin_version=version, plugin_namespace=namespace)
        )
        return object()


class _Counted:
    """An object of TensorRT: it is freed where a context is current, and what it was made from lives longer."""

    def __init__(self, trt: ModuleType, made_from: _Counted | None):
        self.trt, self.gpu, self.made_from, self.users = trt, trt.gpu, made_from, 0
        self.gpu.objects[type(self).__name__] += 1
        if made_from is not None:
            made_from.users += 1

    def __del__(self) -> None:
        what = type(self).__name__
        self.gpu.objects[what] -= 1
        if not self.gpu._stack:
            self.gpu.breach(f"a {what} of TensorRT is freed without a context current")
        if self.made_from is not None:
            self.made_from.users -= 1


class Runtime(_Counted):
    def __init__(self, trt: ModuleType, logger: Any):
        if "cuInit" not in trt.gpu.calls and "init" not in trt.gpu.calls:
            raise trt.gpu.breach("Runtime without a driver that was asked for: the lean one crashes Python")
        trt.gpu.need_context("Runtime")
        super().__init__(trt, None)
        self.logger = logger
        self.engine_host_code_allowed = False

    def error(self, message: str) -> None:
        self.logger.log(self.trt.ILogger.Severity.ERROR, message)

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        self.gpu.calls.append("deserialize_cuda_engine")
        try:
            content = json.loads(plan[28:])
        except ValueError:
            return self.error("Magic tag does not match")
        if tuple(plan[24:27]) != tuple(int(part) for part in self.trt.__version__.split(".")[:3]):
            return self.error(
                "Version tag does not match. Note: Current Version: 239, Serialized Version: 240"
            )
        if content.get("host_code") and not self.engine_host_code_allowed:
            return self.error(
                "Cannot deserialize engine with lean runtime since IRuntime::getEngineHostCodeAllowed() is false."
            )
        if content.get("plugin") and not self.trt.creators:
            return self.error(f"Cannot find plugin: {content['plugin']}")
        return Engine(self, content)


class Engine(_Counted):
    names = ("k", "x", "total", "y")  # not in the contract's order
    num_io_tensors = len(names)

    def __init__(self, runtime: Runtime, content: dict[str, Any]):
        super().__init__(runtime.trt, runtime)
        self.runtime, self.content = runtime, content
        self.num_optimization_profiles = len(content["profiles"])
        if content.get("new", True):
            self.device_memory_size_v2 = content.get("workspace", WORKSPACE)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.trt.TensorIOMode
        return modes.INPUT if name in "xk" else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.trt.DataType[self.content.get("types", {}).get(name, "FLOAT")]

    def get_tensor_location(self, name: str) -> Any:
        return self.trt.TensorLocation[self.content.get("locations", {}).get(name, "DEVICE")]

    def get_tensor_format(self, name: str) -> Any:
        return self.trt.TensorFormat[self.content.get("formats", {}).get(name, "LINEAR")]

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = self.content.get("static", -1)
        return {"x": (batch, 3), "k": (batch, 2), "y": (batch, 3), "total": (batch,)}[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        return self.content["profiles"][index][name]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self)

    def create_execution_context(self, how: Any) -> Context | None:
        self.gpu.calls.append("create_execution_context")
        if "context" in self.content.get("fail", ()):
            return self.runtime.error("Out of memory")
        config = how if isinstance(how, RuntimeConfig) else None
        strategy = config.strategy if config else how
        if strategy != self.trt.ExecutionContextAllocationStrategy.USER_MANAGED:
            raise self.gpu.breach("a context that would allocate memory of its own")
        return Context(self, config)


class RuntimeConfig:
    def __init__(self, engine: Engine):
        self.engine, self.strategy, self.cache, self.cuda_graph_strategy = engine, None, None, 0
        if engine.trt.__name__ == "tensorrt_rtx":
            self.create_runtime_cache = lambda: RuntimeCache(engine)

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class RuntimeCache:
    def __init__(self, engine: Engine):
        self.gpu, self.kernels = engine.gpu, []

    def deserialize(self, blob: bytes) -> bool:
        self.gpu.need_context("a runtime cache is read")
        if not blob.startswith(b"kernels"):
            return False
        self.kernels = blob.split()[1:]
        return True

    def serialize(self) -> bytes:
        self.gpu.need_context("a runtime cache is serialised")
        return b" ".join([b"kernels", *self.kernels])


class Context(_Counted):
    def __init__(self, engine: Engine, config: RuntimeConfig | None):
        super().__init__(engine.trt, engine)
        self.engine, self.config = engine, config
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.profile, self.workspace, self.warm_for = None, None, None
        self.captured = False
        self.busy = threading.Lock()
        self.last_stream: int | None = None

    def _change(self, what: str) -> None:
        self.gpu.need_context(what)
        if self.captured:
            raise self.gpu.breach(f"{what} on a context from which a graph was captured")

    def set_device_memory(self, address: int, size: int) -> None:
        self._change("set_device_memory")
        self.workspace = self.gpu.span(address, size, "workspace")

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._change("set_optimization_profile_async")
        self.profile, self.warm_for = index, None
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._change("set_input_shape")
        low, _, high = self.engine.content["profiles"][self.profile][name]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            self.engine.runtime.error(f"{name}: the shape {shape} is outside the profile")
            return False
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if "unknown size" in self.engine.content.get("fail", ()) and name == "y":
            return (-1, 3)
        batch = self.shapes["x"][0]
        return {"x": (batch, 3), "k": (batch, 2), "y": (batch, 3), "total": (batch,)}[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._change("set_tensor_address")
        self.addresses[name] = address
        return "address" not in self.engine.content.get("fail", ())

    def execute_async_v3(self, handle: int) -> bool:
        if not self.busy.acquire(blocking=False):
            raise self.gpu.breach("an execution context is used by two threads at once")
        try:
            return self._execute(handle)
        finally:
            self.busy.release()

    def _execute(self, handle: int) -> bool:
        gpu, engine = self.gpu, self.engine
        gpu.calls.append("execute_async_v3")
        gpu.need_context("execute_async_v3")
        stream = gpu.streams[handle]
        capturing = stream.capture is not None
        fail = engine.content.get("fail", ())
        if "execute" in fail or (capturing and "capture" in fail):
            engine.runtime.error("Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
            return False
        shapes = tuple(sorted(self.shapes.items()))
        if capturing and self.warm_for != shapes:
            engine.runtime.error("memory is allocated in a capture: no warm run")
            return False
        self.warm_for = shapes
        if capturing:
            self.captured = True
            stream.broken = bool(engine.content.get("breaks_capture"))
        spans = {
            name: gpu.span(address, int(np.prod(self.get_tensor_shape(name))) * 4, f"tensor {name}")
            for name, address in self.addresses.items()
        }
        views = {
            name: (span, self.get_tensor_shape(name)) for name, span in spans.items() if name in engine.names
        }

        cache = self.config.cache if self.config else None

        def act() -> None:
            x, k = (views[name][0].data.view(np.float32).reshape(views[name][1]) for name in "xk")
            for name, result in expected(x, k).items():
                views[name][0].data[:] = np.ascontiguousarray(result).view(np.uint8).reshape(-1)
            if cache is not None:
                cache.kernels.append(b"kernel")

        workspace = [self.workspace] if self.workspace else []
        if engine.device_memory_size_v2 and not workspace:
            engine.runtime.error("no device memory was given")
            return False
        reads = [spans[name] for name in "xk"]
        gpu.give(handle, Work("run", reads, [spans["y"], spans["total"], *workspace], act))
        return True
