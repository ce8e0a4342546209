"""A plan in memory: what it takes and gives, for which shapes, and execution contexts of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posewarp.runtime.backends.device import Device
from posewarp.runtime.backends.tensorrt_library import Library
from posewarp.runtime.contract import TensorSpec
from posewarp.runtime.engine_options import EngineOptions
from posewarp.runtime.errors import ContractError, EngineError, PosewarpError
from posewarp.runtime.files import atomic_write

_LOG = logging.getLogger(__name__)

# By the names of TensorRT's types; a bfloat16 or fp8 array is none that numpy has.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BOOL": "bool",
    **{
        f"{sign}INT{bits}": f"{sign}INT{bits}".lower()
        for sign, bits in (("", 8), ("U", 8), ("", 32), ("", 64))
    },
}

Shapes = Mapping[str, tuple[int, ...]]
Range = tuple[tuple[int, ...], tuple[int, ...]]


class Engine:
    """A deserialised plan. All but reading attributes is done with the device's context current.

    Attributes:
        path: the plan's file.
        library: which runs it.
        inputs, outputs: dynamic axes are named after tensor and axis.
        profiles: for each profile, by input, the smallest and the largest shape.
        graph_problem: why no CUDA graph is captured any more, after a capture failed.
    """

    def __init__(self, path: Path, library: Library, device: Device, options: EngineOptions):
        """Deserialise a plan that was checked before.

        Raises: EngineError if TensorRT refuses it, or it takes what this backend cannot give.
        """
        self.path, self.library, self._device, self._options = path, library, device, options
        self.graph_problem: str | None = None
        self._runtime = self._engine = self._cache = None
        try:
            self._open()
        except BaseException:
            self._runtime = self._engine = self._cache = None  # now, not when the exception is forgotten
            raise

    def _open(self) -> None:
        library, trt, call = self.library, self.library.trt, self.library.call
        # Without a driver the lean runtime crashes the interpreter here; so the device is opened before.
        self._runtime = call("no runtime can be made", trt.Runtime, library.logger)
        self._runtime.engine_host_code_allowed = self._options.allow_host_code
        refused = f"{self.path} cannot be deserialised"
        self._engine = call(refused, self._runtime.deserialize_cuda_engine, self.path.read_bytes())
        if not hasattr(self._engine, "device_memory_size_v2"):
            raise EngineError(f"{library.name} is too old to run {self.path}: 10.1 or later is needed")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        fed = {name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        specs = [self._spec(name) for name in names]
        self.inputs = tuple(spec for spec in specs if spec.name in fed)
        self.outputs = tuple(spec for spec in specs if spec.name not in fed)
        self.profiles = [self._profile(index) for index in range(self._engine.num_optimization_profiles)]
        self.workspace_bytes = self._engine.device_memory_size_v2
        self._cache = self._make_runtime_cache()

    @property
    def captures(self) -> bool:
        """Whether CUDA graphs are captured here: not by TensorRT-RTX, which does so by itself."""
        return (
            self._options.cuda_graph
            and self._device.captures
            and not self.library.captures_itself
            and self.graph_problem is None
        )

    @property
    def max_batch(self) -> int | None:
        """The largest batch, where the first axis of every tensor is dynamic."""
        specs = (*self.inputs, *self.outputs)
        if not all(spec.shape and isinstance(spec.shape[0], str) for spec in specs):
            return None
        return max(min(largest[0] for _, largest in profile.values()) for profile in self.profiles)

    def profile_for(self, shapes: Shapes) -> int:
        """The first profile that takes these shapes.

        Raises: ContractError naming the input that none takes, and what would be taken.
        """
        outside = ""
        for index, profile in enumerate(self.profiles):
            outside = next((name for name in shapes if not _within(shapes[name], profile[name])), "")
            if not outside:
                return index
        ranges = " or ".join(f"{low} to {high}" for low, high in (each[outside] for each in self.profiles))
        raise ContractError(
            f"input {outside} has shape {shapes[outside]}, {self.path} was built for {ranges}; "
            "build it with another profile: posewarp build --minShapes --optShapes --maxShapes",
            got=shapes[outside],
            expected=[profile[outside] for profile in self.profiles],
        )

    def context(self, workspace: Any) -> Context:
        """An execution context whose activations lie in ``workspace``, of ``workspace_bytes`` or more."""
        strategy = self.library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        plain = self._cache is None and not self.library.captures_itself
        how = strategy if plain else self._runtime_config(strategy)
        made = self.library.call(
            "no execution context can be made", self._engine.create_execution_context, how
        )
        if self.workspace_bytes:
            made.set_device_memory(int(workspace), self.workspace_bytes)  # returns nothing
        return Context(self, made)

    def close(self) -> None:
        """Write the runtime cache, and let go of engine and runtime, in this order."""
        if self._cache is not None:
            try:
                self._write_runtime_cache()
            except PosewarpError as exc:
                _LOG.warning("%s", str(exc))
        self._cache = self._engine = self._runtime = None

    def _spec(self, name: str) -> TensorSpec:
        trt, path = self.library.trt, self.path
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise EngineError(f"{path}: {name} has type {kind}, which numpy arrays cannot have")
        on_device = self._engine.get_tensor_location(name) == trt.TensorLocation.DEVICE
        if not on_device or self._engine.is_shape_inference_io(name):
            raise EngineError(f"{path}: {name} is a tensor of sizes on the host, which is not supported")
        # The lean module does not export the enumeration.
        layout = self._engine.get_tensor_format(name).name if hasattr(trt, "TensorFormat") else "LINEAR"
        if layout != "LINEAR":
            raise EngineError(
                f"{path}: {name} has format {layout}, expected LINEAR; build it without --inputIOFormats and "
                "--outputIOFormats"
            )
        sizes = enumerate(self._engine.get_tensor_shape(name))
        shape = (size if size >= 0 else f"{name}_{axis}" for axis, size in sizes)
        return TensorSpec(name, _DTYPES[kind], tuple(shape))

    def _profile(self, index: int) -> dict[str, Range]:
        shapes = {spec.name: self._engine.get_tensor_profile_shape(spec.name, index) for spec in self.inputs}
        return {name: (tuple(low), tuple(high)) for name, (low, _, high) in shapes.items()}

    def _runtime_config(self, strategy: Any) -> Any:
        config = self.library.call("no runtime configuration can be made", self._engine.create_runtime_config)
        config.set_execution_context_allocation_strategy(strategy)  # returns nothing
        if self.library.captures_itself:
            strategies = self.library.trt.CudaGraphStrategy
            wanted = self._options.cuda_graph
            config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if wanted else strategies.DISABLED
        if self._cache is not None:
            self.library.call("the runtime cache cannot be set", config.set_runtime_cache, self._cache)
        return config

    def _make_runtime_cache(self) -> Any:
        """The cache of compiled kernels, filled from its file if that is of this GPU and library."""
        if self._options.runtime_cache is None:
            return None
        path, stored = Path(self._options.runtime_cache), None
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise EngineError(f"the runtime cache {path} cannot be read: {exc.strerror}") from exc
        create = getattr(self._engine.create_runtime_config(), "create_runtime_cache", None)
        if create is None:
            raise EngineError(f"{self.library.name} has no runtime cache; only TensorRT-RTX compiles kernels")
        cache = self.library.call("no runtime cache can be made", create)
        if stored is not None and not cache.deserialize(stored):
            _LOG.warning(
                "%s is of another GPU, driver or TensorRT-RTX, or damaged; it will be replaced", path
            )
        return cache

    def _write_runtime_cache(self) -> None:
        content = self.library.call("the runtime cache cannot be serialised", self._cache.serialize)
        with atomic_write(self._options.runtime_cache, EngineError) as temporary:
            temporary.write_bytes(content)


class Context:
    """An execution context: shapes and addresses of one run after another, on one stream."""

    def __init__(self, engine: Engine, context: Any):
        self._engine, self._context = engine, context
        self._profile: int | None = None

    def set_shapes(self, profile: int, shapes: Shapes, stream: int) -> dict[str, tuple[int, ...]]:
        """Say what the inputs' shapes will be.

        Args:
            profile: from ``Engine.profile_for``.
            stream: where the run will be.

        Returns: shape of each output.
        Raises: EngineError if TensorRT refuses, or an output's size is not known before the run.
        """
        call = self._engine.library.call
        if profile != self._profile:
            failed = f"profile {profile} cannot be chosen"
            call(failed, self._context.set_optimization_profile_async, profile, stream)
            self._profile = profile
        for name, shape in shapes.items():
            call(f"input {name} cannot have the shape {shape}", self._context.set_input_shape, name, shape)
        results = {
            spec.name: tuple(self._context.get_tensor_shape(spec.name)) for spec in self._engine.outputs
        }
        for name, shape in results.items():
            if any(size < 0 for size in shape):
                raise EngineError(
                    f"{self._engine.path}: the size of output {name} depends on data: not supported"
                )
        return results

    def set_addresses(self, addresses: Mapping[str, int]) -> None:
        """Say where each tensor lies on the device."""
        for name, address in addresses.items():
            failed = f"tensor {name} cannot be bound"
            self._engine.library.call(failed, self._context.set_tensor_address, name, address)

    def enqueue(self, stream: int) -> None:
        """Give the run to a stream.

        Raises: EngineError if TensorRT says that it did not.
        """
        failed = f"the run of {self._engine.path} failed"
        self._engine.library.call(failed, self._context.execute_async_v3, stream)

    def free(self) -> None:
        """Let go of it now, where the device's context is current, whoever still refers to this object."""
        self._context = None


def _within(shape: Sequence[int], bounds: Range) -> bool:
    low, high = bounds
    return len(shape) == len(low) and bool(np.all(np.less_equal(low, shape) & np.less_equal(shape, high)))
