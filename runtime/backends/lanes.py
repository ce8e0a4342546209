"""Lanes: streams on which an engine runs, one for each thread that runs at the same time, and what each keeps.

For each shape a lane keeps buffers, an execution context and, from the second run on, a CUDA graph of it. TensorRT's
rule is that a context is not changed once a graph was captured from it; so a context of such a shape is bound to its
buffers once and never again, and a run that uses the caller's own memory goes through another, without a graph.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Condition
from typing import Any

import numpy as np

from posewarp.runtime.backends.device import Device
from posewarp.runtime.backends.tensorrt_engine import Context, Engine
from posewarp.runtime.device_array import DeviceArray
from posewarp.runtime.errors import BackendError, ContractError, EngineError

_LOG = logging.getLogger(__name__)

Arrays = Mapping[str, Any]

# Exceptions are logged as text: a handler that keeps one would keep, by its frames, what must be freed before the
# GPU's context is given back.


class Buffer:
    """Memory of one tensor on the device, and a page-locked array of its shape on the host."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: str):
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._device = device
        self.memory = device.allocate(size)
        try:
            self._pinned = device.allocate_pinned(size)
        except BackendError:
            device.free(self.memory)
            raise
        self.host = self._pinned[:size].view(dtype).reshape(shape)
        self.address = int(self.memory)

    def free(self) -> None:
        _free(self._device.free, self.memory)
        _free(self._device.free_pinned, self._pinned)


class Place:
    """What a lane keeps for one set of input shapes."""

    def __init__(self) -> None:
        self.buffers: dict[str, Buffer] = {}
        self.context: Context | None = None
        self.graph: Any = None
        self.warm = False

    def free(self, device: Device) -> None:
        if self.graph is not None:
            _free(device.free_graph, self.graph)
        if self.context is not None:
            self.context.free()
        self.context = self.graph = None
        for buffer in self.buffers.values():
            buffer.free()
        self.buffers.clear()


class Lane:
    """One stream, and what was made for it. Used by one thread at a time, inside ``device.current()``."""

    def __init__(self, engine: Engine, device: Device, shapes: int):
        self._engine, self._device, self._limit = engine, device, shapes
        self._places: OrderedDict[tuple, Place] = OrderedDict()
        self._unbound: Context | None = None
        self._dtypes = {spec.name: spec.dtype for spec in (*engine.inputs, *engine.outputs)}
        self._stream = device.stream()
        try:
            self._workspace = device.allocate(engine.workspace_bytes)
        except BackendError:
            _free(device.free_stream, self._stream)
            raise

    def run(self, feeds: Arrays, out: Mapping[str, DeviceArray]) -> dict[str, np.ndarray]:
        """Run once, and wait for it.

        Args:
            feeds: numpy arrays, or DeviceArrays that are used where they lie.
            out: where outputs go that shall stay on the device.

        Returns: the other outputs, as arrays that are the caller's.
        Raises: ContractError if no profile takes the shapes, or ``out`` has others; EngineError and BackendError
            if TensorRT or CUDA fails.
        """
        shapes = {name: tuple(value.shape) for name, value in feeds.items()}
        profile = self._engine.profile_for(shapes)
        theirs = {name: value for name, value in {**feeds, **out}.items() if isinstance(value, DeviceArray)}
        key = tuple(shapes.items())
        place = self._place(key)
        try:
            if theirs:
                return self._run_with(theirs, feeds, place, profile, shapes)
            if place.context is None:
                self._bind(place, profile, shapes)
            self._copy_in(feeds, place)
            self._launch(place)
            return self._copy_out([spec.name for spec in self._engine.outputs], place)
        except ContractError:
            raise  # nothing was begun
        except BaseException:
            self._settle()
            self._places.pop(key).free(self._device)  # its context may be in any state
            self._free_unbound()
            raise

    def _run_with(
        self,
        theirs: Mapping[str, DeviceArray],
        feeds: Arrays,
        place: Place,
        profile: int,
        shapes: dict[str, tuple[int, ...]],
    ) -> dict[str, np.ndarray]:
        """Run with memory of the caller's, which may be elsewhere the next time: without a graph."""
        if self._unbound is None:
            self._unbound = self._engine.context(self._workspace)
        stream = self._device.handle(self._stream)
        results = self._unbound.set_shapes(profile, shapes, stream)
        all_shapes = {**shapes, **results}
        for name, array in theirs.items():
            self._check(name, array, all_shapes[name])
        for array in theirs.values():
            array.order_before(self._device, self._stream)
        ours = {name: shape for name, shape in all_shapes.items() if name not in theirs}
        self._make_buffers(place, ours)
        addresses = {name: place.buffers[name].address for name in ours}
        self._unbound.set_addresses({**addresses, **{name: a.address for name, a in theirs.items()}})
        self._copy_in({name: feeds[name] for name in feeds if name not in theirs}, place)
        self._unbound.enqueue(stream)
        return self._copy_out([name for name in results if name not in theirs], place)

    def _check(self, name: str, array: DeviceArray, shape: tuple[int, ...]) -> None:
        if array.shape != shape or array.dtype != self._dtypes[name]:
            raise ContractError(
                f"{name} on the device is {array.dtype} {array.shape}, expected {self._dtypes[name]} {shape}",
                got=array.shape,
                expected=shape,
            )
        if array.device not in (None, self._device.index):
            raise ContractError(
                f"{name} lies on GPU {array.device}, the engine runs on GPU {self._device.index}"
            )

    def _place(self, key: tuple) -> Place:
        """The place of these shapes, made if there is none; the one unused longest goes if there are too many."""
        if key in self._places:
            self._places.move_to_end(key)
        else:
            if len(self._places) == self._limit:
                self._places.popitem(last=False)[1].free(self._device)
            self._places[key] = Place()
        return self._places[key]

    def _make_buffers(self, place: Place, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            if name not in place.buffers:
                place.buffers[name] = Buffer(self._device, shape, self._dtypes[name])

    def _bind(self, place: Place, profile: int, shapes: dict[str, tuple[int, ...]]) -> None:
        """Make a place's context, and bind it to the place's own buffers for good."""
        place.context = self._engine.context(self._workspace)
        results = place.context.set_shapes(profile, shapes, self._device.handle(self._stream))
        self._make_buffers(place, {**shapes, **results})
        place.context.set_addresses({name: buffer.address for name, buffer in place.buffers.items()})

    def _launch(self, place: Place) -> None:
        """Run a bound place: by its graph; at the first time plainly, since TensorRT allocates then."""
        stream = self._device.handle(self._stream)
        if place.graph is None and place.warm and self._engine.captures:
            try:
                place.graph = self._device.capture(self._stream, lambda: place.context.enqueue(stream))
            except (EngineError, BackendError) as exc:
                self._engine.graph_problem = str(exc)
                _LOG.warning(
                    "%s runs without a CUDA graph; its capture failed: %s", self._engine.path, str(exc)
                )
        if place.graph is not None:
            self._device.launch(place.graph, self._stream)
        else:
            place.context.enqueue(stream)
            place.warm = True

    def _copy_in(self, feeds: Arrays, place: Place) -> None:
        for name, value in feeds.items():
            buffer = place.buffers[name]
            np.copyto(buffer.host, value, casting="no")
            self._device.copy_in(buffer.address, buffer.host, self._stream)

    def _copy_out(self, names: list[str], place: Place) -> dict[str, np.ndarray]:
        for name in names:
            buffer = place.buffers[name]
            self._device.copy_out(buffer.host, buffer.address, self._stream)
        self._device.synchronize(self._stream)
        return {name: place.buffers[name].host.copy() for name in names}

    def _settle(self) -> None:
        """After a failure: what was given to the stream may still use buffers that are about to go."""
        try:
            self._device.synchronize(self._stream)
        except BackendError as exc:
            _LOG.warning("%s", str(exc))

    def _free_unbound(self) -> None:
        if self._unbound is not None:
            self._unbound.free()
            self._unbound = None

    def free(self) -> None:
        """Give all back."""
        self._settle()
        self._free_unbound()
        while self._places:
            self._places.popitem()[1].free(self._device)
        _free(self._device.free, self._workspace)
        _free(self._device.free_stream, self._stream)
        self._workspace = self._stream = None


class Lanes:
    """As many lanes as threads run at the same time, up to a limit; made when first needed."""

    def __init__(self, make: Callable[[], Lane], limit: int):
        self._make, self._limit = make, limit
        self._changed = Condition()
        self._idle: list[Lane] = []
        self._made = 0
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[Lane]:
        """A lane for this thread alone, for the length of a block; waits while all are in use.

        Raises: BackendError if they are closed.
        """
        lane = self._take()
        try:
            yield lane
        finally:
            self._put(lane)

    def _take(self) -> Lane:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or self._made < self._limit)
            if self._closed:
                raise BackendError("the session is closed; open another")
            if self._idle:
                return self._idle.pop()  # the one used last, whose shapes are the likeliest
            self._made += 1
        try:
            return self._make()
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify_all()
            raise

    def _put(self, lane: Lane) -> None:
        with self._changed:
            self._idle.append(lane)
            self._changed.notify_all()

    def close(self) -> None:
        """Wait for the runs in progress, and free all."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == self._made)
        while self._idle:
            self._idle.pop().free()


def _free(give_back: Callable[[Any], None], what: Any) -> None:
    """Give something back; where the GPU has failed already, so does this, and the rest is to be freed still."""
    try:
        give_back(what)
    except BackendError as exc:
        _LOG.warning("%s", str(exc))
