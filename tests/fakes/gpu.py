"""A GPU that does its work as late as the rules of CUDA allow, so that a missing wait shows in the result.

What is given to a stream is kept until somebody waits for it. Then each piece is looked at: is the memory that it
touches still there, is page-locked memory as it was when the copy was given, does work of another stream that came
before and was not waited for touch the same. Each breach is kept in ``breaches`` besides being raised, since the code
under test may swallow it, and ``check`` fails on it.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

LEGACY = 1
UNSET, FREED = 0xA5, 0xDD  # what fresh and freed memory is filled with


class Breach(AssertionError):
    """The code under test broke a rule."""


class CudaError(Exception):
    """The driver refuses; the name of its status."""


@dataclass(eq=False)
class Block:
    """An allocation."""

    address: int
    data: np.ndarray
    kind: str
    alive: bool = True


@dataclass(eq=False)
class Span:
    """Bytes of an allocation that a piece of work touches."""

    block: Block
    start: int
    size: int

    @property
    def data(self) -> np.ndarray:
        return self.block.data[self.start : self.start + self.size]

    def overlaps(self, other: Span) -> bool:
        return (
            self.block is other.block
            and self.start < other.start + other.size
            and other.start < self.start + self.size
        )


@dataclass(eq=False)
class Work:
    """Something that a stream will do."""

    name: str
    reads: Sequence[Span] = ()
    writes: Sequence[Span] = ()
    act: Callable[[], None] = lambda: None
    after: Sequence[Work] = ()  # marks that must have been passed
    of: object = None  # the graph it came from
    stream: Stream | None = None
    order: int = 0
    done: bool = False
    seen: list[bytes] = field(default_factory=list)


@dataclass(eq=False)
class Stream:
    handle: int
    blocking: bool
    queue: deque[Work] = field(default_factory=deque)
    capture: list[Work] | None = None
    capturing_thread: int | None = None
    broken: bool = False


class FakeGpu:
    """Memory, streams, events and graphs; and what was done with them, in order, in ``calls``."""

    def __init__(self, *, capability: tuple[int, int] = (8, 6)) -> None:
        self.capability = capability
        self.lock = threading.RLock()
        self.calls: list[str] = []
        self.breaches: list[str] = []
        self.blocks: dict[int, Block] = {}
        self.streams: dict[int, Stream] = {LEGACY: Stream(LEGACY, True)}
        self.events: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.contexts: set[int] = set()
        self.retained = 0
        self.objects: Counter[str] = Counter()  # of TensorRT
        self._graveyard: list[
            Block
        ] = []  # so that a late look at freed page-locked memory does not crash Python
        self._vacant: dict[int, list[int]] = {}
        self._numbers = count(0x100)
        self._addresses = count(0x7000_0000_0000, 1 << 24)
        self._failures: dict[str, list] = {}
        self._local = threading.local()

    # What a test says and asks.

    def fail(
        self, call: str, *, at: int = 1, status: str = "CUDA_ERROR_UNKNOWN", forever: bool = False
    ) -> None:
        """Let a call of the driver fail, the ``at``-th time from now."""
        self._failures[call] = [at, status, forever]

    def check(self) -> None:
        """Nothing was broken, and nothing is left."""
        assert not self.breaches, "; ".join(self.breaches)
        left = [f"{block.kind} memory of {block.data.size} bytes" for block in self.blocks.values()]
        left += [f"stream {handle}" for handle in self.streams if handle != LEGACY]
        left += ["event"] * len(self.events) + ["graph"] * len(self.graphs)
        left += [f"stream {s.handle} still captures" for s in self.streams.values() if s.capture is not None]
        left += ["primary context"] * self.retained
        left += [f"{number} {kind}" for kind, number in self.objects.items() if number]
        left += ["a context still current in this thread"] * len(self._stack)
        assert not left, f"left: {', '.join(left)}"

    def breach(self, message: str) -> Breach:
        self.breaches.append(message)
        return Breach(message)

    # What both ways to call the driver are made of.

    @property
    def _stack(self) -> list[int]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        return self._local.stack

    def begin(self, call: str, *, context: bool = True) -> None:
        """Every call: note it, fail if a test wants so, demand a context."""
        self.calls.append(call)
        if call in self._failures:
            entry = self._failures[call]
            entry[0] -= 1
            if entry[0] <= 0:
                if not entry[2]:
                    del self._failures[call]
                raise CudaError(entry[1])
        if context:
            self.need_context(call)

    def need_context(self, what: str) -> None:
        if not self._stack:
            raise self.breach(f"{what} without a context current in this thread")

    def make_context(self) -> int:
        number = next(self._numbers)
        self.contexts.add(number)
        return number

    def push(self, context: int) -> None:
        if context not in self.contexts:
            raise self.breach("a context that is gone is made current")
        self._stack.append(context)

    def pop(self) -> int:
        if not self._stack:
            raise self.breach("no context to pop")
        return self._stack.pop()

    def _not_while_capturing(self, what: str) -> None:
        for stream in self.streams.values():
            if stream.capture is not None and stream.capturing_thread == threading.get_ident():
                stream.broken = True
                raise CudaError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    def allocate(self, size: int, kind: str) -> Block:
        with self.lock:
            self._not_while_capturing("allocation")
            if size <= 0:
                raise CudaError("CUDA_ERROR_INVALID_VALUE")
            data = np.full(size, UNSET, np.uint8)
            if kind == "pinned":
                address = data.ctypes.data
            else:  # an address that was freed is given again at once, as real allocators do
                vacant = self._vacant.get(size)
                address = vacant.pop() if vacant else next(self._addresses)
            block = Block(address, data, kind)
            self.blocks[address] = block
            return block

    def free(self, address: int, kind: str) -> None:
        with self.lock:
            self._not_while_capturing("free")
            block = self.blocks.get(address)
            if block is None or block.kind != kind:
                raise self.breach(
                    f"{kind} memory is freed that is not there: freed twice, or never allocated"
                )
            for stream in self.streams.values():
                for work in stream.queue:
                    if any(span.block is block for span in (*work.reads, *work.writes)):
                        raise self.breach(
                            f"{kind} memory is freed while {work.name} that uses it is in flight"
                        )
            block.alive = False
            block.data[:] = FREED
            del self.blocks[address]
            self._graveyard.append(block)
            if kind == "device":
                self._vacant.setdefault(block.data.size, []).append(address)

    def span(self, address: int, size: int, what: str) -> Span:
        for block in self.blocks.values():
            if block.address <= address and address + size <= block.address + block.data.size:
                return Span(block, address - block.address, size)
        raise self.breach(f"{what} touches memory that is not there: {address:#x}")

    def make_stream(self, *, blocking: bool) -> int:
        with self.lock:
            handle = next(self._numbers)
            self.streams[handle] = Stream(handle, blocking)
            return handle

    def free_stream(self, handle: int) -> None:
        with self.lock:
            if self._stream(handle).queue:
                raise self.breach("a stream is freed with work in flight")
            del self.streams[handle]

    def _stream(self, handle: int) -> Stream:
        handle = handle or LEGACY
        if handle not in self.streams:
            raise self.breach(f"stream {handle} is not there")
        return self.streams[handle]

    def give(self, handle: int, work: Work) -> Work:
        """Give work to a stream."""
        with self.lock:
            stream = self._stream(handle)
            work.stream, work.order = stream, next(self._numbers)
            if stream.capture is not None:
                stream.capture.append(work)
                return work
            pinned = [span for span in work.reads if span.block.kind == "pinned"]
            work.seen = [span.data.tobytes() for span in pinned]
            stream.queue.append(work)
            return work

    def copy(self, destination: int, source: int, size: int, handle: int, name: str) -> None:
        with self.lock:
            into, out_of = self.span(destination, size, name), self.span(source, size, name)
            kinds = {"copy in": ("pinned", "device"), "copy out": ("device", "pinned")}[name]
            if (out_of.block.kind, into.block.kind) != kinds:
                raise self.breach(f"{name} goes from {out_of.block.kind} to {into.block.kind} memory")

            def act() -> None:
                into.data[:] = out_of.data

            self.give(handle, Work(name, [out_of], [into], act))

    def record(self, handle: int) -> list[Work]:
        """Marks that are passed once all that the stream was given until now is done."""
        with self.lock:
            streams = [self._stream(handle)]
            if (handle or LEGACY) == LEGACY:  # the default stream waits for all that are not non-blocking
                streams = [stream for stream in self.streams.values() if stream.blocking]
            return [self.give(stream.handle, Work("mark")) for stream in streams]

    def make_event(self) -> int:
        with self.lock:
            number = next(self._numbers)
            self.events[number] = []
            return number

    def wait(self, handle: int, marks: list[Work]) -> None:
        self.give(handle, Work("wait", after=list(marks)))

    def synchronize(self, handle: int) -> None:
        with self.lock:
            self._not_while_capturing("synchronize")
            self._run(self._stream(handle))

    def _run(self, stream: Stream, until: Work | None = None) -> None:
        while stream.queue and not (until and until.done):
            self._do(stream.queue.popleft())

    def _do(self, work: Work) -> None:
        for mark in work.after:
            if not mark.done:
                self._run(mark.stream, mark)
        for span in (*work.reads, *work.writes):
            if not span.block.alive:
                where = "a graph replays" if work.of else "it runs"
                raise self.breach(f"{work.name} uses freed {span.block.kind} memory: {where} after the free")
        for stream in self.streams.values():
            for other in stream.queue:
                if stream is not work.stream and other.order < work.order and _conflict(work, other):
                    raise self.breach(f"{work.name} races with {other.name} of another stream")
        pinned = [span for span in work.reads if span.block.kind == "pinned"]
        for span, seen in zip(pinned, work.seen, strict=True):
            if span.data.tobytes() != seen:
                raise self.breach(f"page-locked memory was changed while {work.name} was in flight")
        work.act()
        work.done = True

    # Graphs.

    def begin_capture(self, handle: int) -> None:
        with self.lock:
            stream = self._stream(handle)
            if stream.capture is not None:
                raise CudaError("CUDA_ERROR_ILLEGAL_STATE")
            stream.capture, stream.broken = [], False
            stream.capturing_thread = threading.get_ident()

    def end_capture(self, handle: int) -> int:
        with self.lock:
            stream = self._stream(handle)
            if stream.capture is None:
                raise self.breach("a capture is ended that was not begun")
            captured, stream.capture = stream.capture, None
            if stream.broken:
                raise CudaError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
            return self._keep(captured)

    def _keep(self, works: list[Work]) -> int:
        number = next(self._numbers)
        self.graphs[number] = works
        return number

    def instantiate(self, graph: int) -> int:
        return self._keep(self.graphs[graph])

    def launch(self, graph: int, handle: int) -> None:
        with self.lock:
            if graph not in self.graphs:
                raise self.breach("a graph is launched that was freed")
            for work in self.graphs[graph]:
                self.give(handle, Work(work.name, work.reads, work.writes, work.act, of=graph))

    def free_graph(self, graph: int) -> None:
        with self.lock:
            if graph not in self.graphs:
                raise self.breach("a graph is freed twice")
            if any(work.of == graph for stream in self.streams.values() for work in stream.queue):
                raise self.breach("a graph is freed while it runs")
            del self.graphs[graph]


def _conflict(one: Work, other: Work) -> bool:
    pairs = ((one.writes, (*other.reads, *other.writes)), (one.reads, other.writes))
    return any(a.overlaps(b) for left, right in pairs for a in left for b in right)
