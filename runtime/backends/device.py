"""The device layer: the few calls of the CUDA driver that running an engine takes, and their provider cuda-python.

What holds memory or work (streams, buffers, pinned arrays, graphs) is given out as what the provider has for it, and
goes back to the same provider. Every call, giving back included, is made inside ``with device.current():``, which
makes the device's context current in the calling thread, whichever that is, and leaves the thread as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from posewarp.runtime.errors import BackendError


class Device(Protocol):
    """A GPU, and how to give it work.

    Attributes:
        provider: ``cuda-python`` or ``pycuda``.
        index: number of the GPU among those that the process sees.
        name: of the GPU.
        compute_capability: such as ``8.6``.
        captures: whether ``capture`` and ``launch`` are there.

    Each method raises BackendError if the driver refuses.
    """

    provider: str
    index: int
    name: str
    compute_capability: str
    captures: bool

    def current(self) -> AbstractContextManager[None]:
        """Make the context current in this thread for the length of a block."""
        ...

    def stream(self) -> Any:
        """A stream that does not wait for the default stream."""
        ...

    def handle(self, stream: Any) -> int:
        """The number that TensorRT and other libraries take for a stream."""
        ...

    def wait(self, stream: Any, other: int) -> None:
        """What comes on ``stream`` waits for what was given to the stream of handle ``other`` before."""
        ...

    def synchronize(self, stream: Any) -> None:
        """Wait here for all work of a stream."""
        ...

    def free_stream(self, stream: Any) -> None: ...

    def allocate(self, size: int) -> Any:
        """Memory of the device, at least one byte; ``int`` of it is its address."""
        ...

    def free(self, memory: Any) -> None: ...

    def allocate_pinned(self, size: int) -> np.ndarray:
        """Page-locked memory of the host, as bytes: what a copy beside other work needs."""
        ...

    def free_pinned(self, pinned: np.ndarray) -> None: ...

    def copy_in(self, address: int, pinned: np.ndarray, stream: Any) -> None:
        """Copy to the device; ``pinned`` is read until the stream has been synchronised."""
        ...

    def copy_out(self, pinned: np.ndarray, address: int, stream: Any) -> None:
        """Copy from the device; ``pinned`` holds the result once the stream has been synchronised."""
        ...

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Capture what ``work`` gives to a stream as a graph, without doing it.

        Whatever fails, the capture is ended and the stream takes work again; an exception of ``work`` passes.
        """
        ...

    def launch(self, graph: Any, stream: Any) -> None: ...

    def free_graph(self, graph: Any) -> None: ...

    def close(self) -> None:
        """Give the context back; outside ``current``."""
        ...


def open_device(provider: str) -> Device:
    """The GPU that a process uses: the first that it sees, or with pycuda that of the current context.

    Args:
        provider: ``cuda-python`` or ``pycuda``.

    Raises: BackendError if the provider is not installed, or there is no driver, no GPU, or no pycuda context.
    """
    if provider == "cuda-python":
        return CudaPythonDevice(_import("cuda.bindings.driver", "cuda-python", "tensorrt"))
    from posewarp.runtime.backends.pycuda_device import PycudaDevice

    return PycudaDevice(_import("pycuda.driver", "pycuda", "pycuda"))


def _import(module: str, package: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as exc:
        raise BackendError(f"{package} is not installed: pip install 'posewarp[{extra}]'") from exc
    except ImportError as exc:  # pycuda without libcuda
        raise BackendError(f"no NVIDIA driver: {package} cannot load libcuda ({exc})") from exc


class CudaPythonDevice:
    """The first GPU through cuda-python, in its primary context, which torch and the CUDA runtime use too."""

    provider = "cuda-python"
    captures = True

    def __init__(self, cuda: ModuleType):
        """Find the GPU and take its primary context.

        Args:
            cuda: ``cuda.bindings.driver``.

        Raises: BackendError if there is no driver or no GPU.
        """
        self._cuda = cuda
        self.index = 0
        try:
            (status,) = cuda.cuInit(0)
        except RuntimeError as exc:  # cuda-python's own: the library libcuda is not there
            raise BackendError("no NVIDIA driver: libcuda is not installed on this machine") from exc
        if status != cuda.CUresult.CUDA_SUCCESS:
            raise BackendError(f"no NVIDIA driver or GPU that can be used: cuInit gives {status.name}")
        self._gpu = self._call("cuDeviceGet", self.index)
        self.name = self._call("cuDeviceGetName", 256, self._gpu).split(b"\0")[0].decode()
        attributes = cuda.CUdevice_attribute
        self.compute_capability = ".".join(
            str(self._call("cuDeviceGetAttribute", attribute, self._gpu))
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self._context = self._call("cuDevicePrimaryCtxRetain", self._gpu)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call the driver; every function gives a status first, and then at most one value."""
        status, *values = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise BackendError(f"CUDA failed in {function}: {status.name}", got=status.name)
        return values[0] if values else None

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def stream(self) -> Any:
        return self._call("cuStreamCreate", self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        return int(stream)

    def wait(self, stream: Any, other: int) -> None:
        event = self._call("cuEventCreate", self._cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        try:
            self._call("cuEventRecord", event, other)
            self._call("cuStreamWaitEvent", stream, event, 0)
        finally:
            self._call("cuEventDestroy", event)  # the driver keeps it until the streams have passed it

    def synchronize(self, stream: Any) -> None:
        self._call("cuStreamSynchronize", stream)

    def free_stream(self, stream: Any) -> None:
        self._call("cuStreamDestroy", stream)

    def allocate(self, size: int) -> Any:
        return self._call("cuMemAlloc", max(size, 1))

    def free(self, memory: Any) -> None:
        self._call("cuMemFree", memory)

    def allocate_pinned(self, size: int) -> np.ndarray:
        size = max(size, 1)
        address = int(self._call("cuMemHostAlloc", size, 0))
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)

    def free_pinned(self, pinned: np.ndarray) -> None:
        self._call("cuMemFreeHost", pinned.ctypes.data)

    def copy_in(self, address: int, pinned: np.ndarray, stream: Any) -> None:
        self._call("cuMemcpyHtoDAsync", address, pinned.ctypes.data, pinned.nbytes, stream)

    def copy_out(self, pinned: np.ndarray, address: int, stream: Any) -> None:
        self._call("cuMemcpyDtoHAsync", pinned.ctypes.data, address, pinned.nbytes, stream)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        # Of this thread only: another one that allocates meanwhile does not end the capture.
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            status, graph = self._cuda.cuStreamEndCapture(stream)
            if status == self._cuda.CUresult.CUDA_SUCCESS:  # what was captured until then is not wanted
                with contextlib.suppress(BackendError):
                    self._call("cuGraphDestroy", graph)
            raise
        captured = self._call("cuStreamEndCapture", stream)
        try:
            return self._call("cuGraphInstantiate", captured, 0)
        finally:
            self._call("cuGraphDestroy", captured)

    def launch(self, graph: Any, stream: Any) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def free_graph(self, graph: Any) -> None:
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        self._call("cuDevicePrimaryCtxRelease", self._gpu)
