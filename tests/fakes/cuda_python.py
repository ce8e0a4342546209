"""``cuda.bindings.driver`` over a FakeGpu: the functions that posewarp calls, each giving a status and a value."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import Any

from fakes.gpu import CudaError, FakeGpu


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_ILLEGAL_STATE = 401
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901
    CUDA_ERROR_UNKNOWN = 999


def _status(function: Callable[..., Any], *, context: bool = True) -> Callable[..., tuple]:
    @wraps(function)
    def call(self: FakeCudaPython, *arguments: Any) -> tuple:
        try:
            self.gpu.begin(function.__name__, context=context)
            value = function(self, *arguments)
        except CudaError as exc:
            return (CUresult[str(exc)], None)
        return (CUresult.CUDA_SUCCESS,) if value is None else (CUresult.CUDA_SUCCESS, value)

    return call


def _anywhere(function: Callable[..., Any]) -> Callable[..., tuple]:
    return _status(function, context=False)


class FakeCudaPython:
    CUresult = CUresult

    class CUstream_flags(IntEnum):
        CU_STREAM_DEFAULT = 0
        CU_STREAM_NON_BLOCKING = 1

    class CUevent_flags(IntEnum):
        CU_EVENT_DISABLE_TIMING = 2

    class CUstreamCaptureMode(IntEnum):
        CU_STREAM_CAPTURE_MODE_GLOBAL = 0
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    class CUdevice_attribute(IntEnum):
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76

    def __init__(self, gpu: FakeGpu):
        self.gpu = gpu
        self._primary = gpu.make_context()

    def cuInit(self, flags: int) -> tuple:
        try:
            self.gpu.begin("cuInit", context=False)
        except CudaError as exc:
            if str(exc) == "no library":
                raise RuntimeError("libcuda was not found") from None
            return (CUresult[str(exc)],)
        return (CUresult.CUDA_SUCCESS,)

    @_anywhere
    def cuDeviceGet(self, ordinal: int) -> int:
        return ordinal

    @_anywhere
    def cuDeviceGetName(self, length: int, device: int) -> bytes:
        return b"Fake GPU".ljust(length, b"\0")

    @_anywhere
    def cuDeviceGetAttribute(self, attribute: int, device: int) -> int:
        return self.gpu.capability[attribute - 75]

    @_anywhere
    def cuDevicePrimaryCtxRetain(self, device: int) -> int:
        with self.gpu.lock:
            self.gpu.retained += 1
            self.gpu.contexts.add(self._primary)
        return self._primary

    @_anywhere
    def cuDevicePrimaryCtxRelease(self, device: int) -> None:
        with self.gpu.lock:
            self.gpu.retained -= 1
            if self.gpu.retained < 0:
                raise self.gpu.breach("the primary context is released more often than it was taken")
            if self.gpu.retained == 0:
                self.gpu.contexts.discard(self._primary)

    @_anywhere
    def cuCtxPushCurrent(self, context: int) -> None:
        self.gpu.push(context)

    @_anywhere
    def cuCtxPopCurrent(self) -> int:
        return self.gpu.pop()

    @_status
    def cuStreamCreate(self, flags: int) -> int:
        return self.gpu.make_stream(blocking=flags == 0)

    @_status
    def cuStreamDestroy(self, stream: int) -> None:
        self.gpu.free_stream(stream)

    @_status
    def cuStreamSynchronize(self, stream: int) -> None:
        self.gpu.synchronize(stream)

    @_status
    def cuEventCreate(self, flags: int) -> int:
        return self.gpu.make_event()

    @_status
    def cuEventRecord(self, event: int, stream: int) -> None:
        self.gpu.events[event] = self.gpu.record(stream)

    @_status
    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        self.gpu.wait(stream, self.gpu.events[event])

    @_status
    def cuEventDestroy(self, event: int) -> None:
        del self.gpu.events[event]

    @_status
    def cuMemAlloc(self, size: int) -> int:
        return self.gpu.allocate(size, "device").address

    @_status
    def cuMemFree(self, address: int) -> None:
        self.gpu.free(address, "device")

    @_status
    def cuMemHostAlloc(self, size: int, flags: int) -> int:
        return self.gpu.allocate(size, "pinned").address

    @_status
    def cuMemFreeHost(self, address: int) -> None:
        self.gpu.free(address, "pinned")

    @_status
    def cuMemcpyHtoDAsync(self, destination: int, source: int, size: int, stream: int) -> None:
        self.gpu.copy(destination, source, size, stream, "copy in")

    @_status
    def cuMemcpyDtoHAsync(self, destination: int, source: int, size: int, stream: int) -> None:
        self.gpu.copy(destination, source, size, stream, "copy out")

    @_status
    def cuStreamBeginCapture(self, stream: int, mode: int) -> None:
        self.gpu.begin_capture(stream)

    @_status
    def cuStreamEndCapture(self, stream: int) -> int:
        return self.gpu.end_capture(stream)

    @_status
    def cuGraphInstantiate(self, graph: int, flags: int) -> int:
        return self.gpu.instantiate(graph)

    @_status
    def cuGraphDestroy(self, graph: int) -> None:
        self.gpu.free_graph(graph)

    @_status
    def cuGraphLaunch(self, graph: int, stream: int) -> None:
        self.gpu.launch(graph, stream)

    @_status
    def cuGraphExecDestroy(self, graph: int) -> None:
        self.gpu.free_graph(graph)
