"""``pycuda.driver`` over a FakeGpu: the parts that posewarp uses, with pycuda's rules of when it frees."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np

from fakes.gpu import LEGACY, Breach, CudaError, FakeGpu


class FakePycuda:
    """A module with one GPU; ``make_context`` is what a pipeline would have called."""

    class Error(Exception):
        pass

    event_flags = SimpleNamespace(DISABLE_TIMING=2)

    def __init__(self, gpu: FakeGpu):
        self.gpu = gpu
        module = self
        stacks = threading.local()

        def stack() -> list[Context]:
            if not hasattr(stacks, "contexts"):
                stacks.contexts = []
            return stacks.contexts

        def begin(call: str, *, context: bool = True) -> None:
            try:
                gpu.begin(call, context=context)
            except CudaError as exc:
                raise module.Error(f"{call} failed: {exc}") from None

        def freed(what: str, free: Callable[[], object]) -> None:
            with suppress(Breach):  # it is kept; a __del__ does not raise
                gpu.need_context(f"a pycuda {what} is freed")
                free()

        class Context:
            def __init__(self) -> None:
                self.number = gpu.make_context()

            def push(self) -> None:
                gpu.begin("push", context=False)
                gpu.push(self.number)
                stack().append(self)

            @staticmethod
            def pop() -> None:
                gpu.pop()
                stack().pop()

            @staticmethod
            def get_current() -> Context | None:
                return stack()[-1] if stack() else None

            @staticmethod
            def get_device() -> Device:
                begin("get_device")
                return Device(0)

            @staticmethod
            def synchronize() -> None:
                begin("synchronize all")
                for handle in list(gpu.streams):
                    gpu.synchronize(handle)

        class Device:
            def __init__(self, number: int):
                self.number = number

            @staticmethod
            def count() -> int:
                return 1

            def name(self) -> str:
                return "Fake GPU"

            def compute_capability(self) -> tuple[int, int]:
                return gpu.capability

            def pci_bus_id(self) -> str:
                return f"0000:{self.number:02d}:00.0"

        class Stream:
            def __init__(self, flags: int = 0):
                begin("Stream")
                self.handle = gpu.make_stream(blocking=flags == 0)

            def synchronize(self) -> None:
                begin("Stream.synchronize")
                gpu.synchronize(self.handle)

            def wait_for_event(self, event: Event) -> None:
                begin("wait_for_event")
                gpu.wait(self.handle, event.marks)

            def __del__(self) -> None:
                if hasattr(self, "handle"):  # else its making failed
                    freed("stream", lambda: gpu.free_stream(self.handle))

        class Event:
            def __init__(self, flags: int = 0):
                begin("Event")
                self.number = gpu.make_event()

            def record(self, stream: Stream | None = None) -> None:
                begin("Event.record")
                self.marks = gpu.record(LEGACY if stream is None else stream.handle)

            def __del__(self) -> None:
                if hasattr(self, "number"):
                    freed("event", lambda: gpu.events.pop(self.number))

        class Allocation:
            def __init__(self, size: int, kind: str):
                self.block, self.kind, self.freed = gpu.allocate(size, kind), kind, False

            def __int__(self) -> int:
                return self.block.address

            def free(self) -> None:
                self.freed = True  # or at least tried
                begin(f"free {self.kind}")
                gpu.free(self.block.address, self.kind)

            def __del__(self) -> None:
                if not self.freed:
                    gpu.breach(f"{self.kind} memory of pycuda is left to the garbage collector")

        self.Context, self.Device, self.Stream, self.Event = Context, Device, Stream, Event
        self._begin, self._allocation = begin, Allocation

    def init(self) -> None:
        self._begin("init", context=False)

    def mem_alloc(self, size: int) -> Any:
        self._begin("mem_alloc")
        return self._allocation(size, "device")

    def pagelocked_empty(self, size: int, dtype: type) -> np.ndarray:
        self._begin("pagelocked_empty")
        memory = self._allocation(size, "pinned")
        memory.__array_interface__ = {  # so that ``base`` is the allocation, as pycuda's arrays have it
            "data": (int(memory), False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }
        return np.asarray(memory)

    def memcpy_htod_async(self, address: int, array: np.ndarray, stream: Any) -> None:
        self._begin("memcpy_htod_async")
        self.gpu.copy(address, array.ctypes.data, array.nbytes, stream.handle, "copy in")

    def memcpy_dtoh_async(self, array: np.ndarray, address: int, stream: Any) -> None:
        self._begin("memcpy_dtoh_async")
        self.gpu.copy(array.ctypes.data, address, array.nbytes, stream.handle, "copy out")
