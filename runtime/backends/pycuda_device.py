"""The device layer over pycuda, for a pipeline that lives in a pycuda context: see device.py.

pycuda frees what is no longer referred to, and only where its context is current; so each object is given back here
explicitly, inside ``current``. It captures no graphs, and knows no streams but its own and the default one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from posewarp.runtime.device_array import LEGACY_STREAM
from posewarp.runtime.errors import BackendError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


@dataclass
class _Stream:
    """Holds pycuda's, which goes when the last reference to it does: when this lets go, whoever holds this."""

    held: Any


class PycudaDevice:
    """The GPU of the pycuda context that is current in the thread that opens; the context stays its owner's."""

    provider = "pycuda"
    captures = False

    def __init__(self, cuda: ModuleType):
        """Take the current context.

        Args:
            cuda: ``pycuda.driver``.

        Raises: BackendError if there is no driver, no GPU, or no context is current.
        """
        self._cuda = cuda
        with self._errors():
            cuda.init()
            self._context = cuda.Context.get_current()
            if self._context is None:
                raise BackendError(
                    "no pycuda context is current in this thread; open the session where your pipeline's is, or "
                    "make one: pycuda.driver.Device(0).retain_primary_context().push()"
                )
            gpu = cuda.Context.get_device()
            self.name = gpu.name()
            self.compute_capability = ".".join(map(str, gpu.compute_capability()))
            own = gpu.pci_bus_id()
            buses = [cuda.Device(number).pci_bus_id() for number in range(cuda.Device.count())]
        self.index = buses.index(own)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as exc:
            raise BackendError(f"CUDA failed: {exc}") from exc

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._errors():
            self._context.push()
        try:
            yield
        finally:
            with self._errors():
                self._cuda.Context.pop()

    def stream(self) -> _Stream:
        with self._errors():
            return _Stream(self._cuda.Stream(_NON_BLOCKING))

    def handle(self, stream: _Stream) -> int:
        return stream.held.handle

    def wait(self, stream: _Stream, other: int) -> None:
        with self._errors():
            if other == LEGACY_STREAM:
                event = self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)
                event.record()
                stream.held.wait_for_event(event)
            else:  # an event cannot be recorded on a stream that is not pycuda's
                self._cuda.Context.synchronize()

    def synchronize(self, stream: _Stream) -> None:
        with self._errors():
            stream.held.synchronize()

    def free_stream(self, stream: _Stream) -> None:
        stream.held = None

    def allocate(self, size: int) -> Any:
        with self._errors():
            return self._cuda.mem_alloc(max(size, 1))

    def free(self, memory: Any) -> None:
        with self._errors():
            memory.free()

    def allocate_pinned(self, size: int) -> np.ndarray:
        with self._errors():
            return self._cuda.pagelocked_empty(max(size, 1), np.uint8)

    def free_pinned(self, pinned: np.ndarray) -> None:
        with self._errors():
            pinned.base.free()

    def copy_in(self, address: int, pinned: np.ndarray, stream: _Stream) -> None:
        with self._errors():
            self._cuda.memcpy_htod_async(address, pinned, stream.held)

    def copy_out(self, pinned: np.ndarray, address: int, stream: _Stream) -> None:
        with self._errors():
            self._cuda.memcpy_dtoh_async(pinned, address, stream.held)

    def capture(self, stream: _Stream, work: Callable[[], None]) -> Any:
        raise BackendError("pycuda captures no CUDA graphs")

    def launch(self, graph: Any, stream: _Stream) -> None:
        raise BackendError("pycuda captures no CUDA graphs")

    def free_graph(self, graph: Any) -> None:
        raise BackendError("pycuda captures no CUDA graphs")

    def close(self) -> None:
        """Nothing: the context is its owner's."""
