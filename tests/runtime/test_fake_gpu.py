"""The fake GPU finds what it is there to find: each fault is planted once."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.arrays import InterfaceArray
from fakes.gpu import Breach, FakeGpu

from posewarp.runtime.backends.device import open_device

SIZE = 8


class Planted:
    """A device with a stream, a buffer and a page-locked array, on a fake that is not checked by its fixture."""

    def __init__(self, provider: str):
        self.device = open_device(provider)
        self.stream, self.memory = self.device.stream(), self.device.allocate(SIZE)
        self.pinned = self.device.allocate_pinned(SIZE)
        self.pinned[:] = 1

    @property
    def address(self) -> int:
        return int(self.memory)

    def copy_in(self) -> None:
        self.device.copy_in(self.address, self.pinned, self.stream)

    def free_all(self) -> None:
        self.device.free(self.memory)
        self.device.free_pinned(self.pinned)
        self.device.free_stream(self.stream)
        self.memory = self.pinned = self.stream = None


@pytest.fixture
def gpu():
    return FakeGpu()


@pytest.fixture
def planted(gpu, provider):
    fake_context = gpu.make_context()  # for what is made outside ``device.current()``
    gpu.push(fake_context)
    return Planted(provider)


def found(gpu: FakeGpu, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        gpu.check()


def test_nothing_is_found_where_nothing_is_wrong(gpu, planted):
    planted.copy_in()
    planted.device.synchronize(planted.stream)
    planted.free_all()
    assert gpu.breaches == []


@pytest.mark.parametrize("what", ["memory", "pinned", "stream"])
def test_leak(gpu, planted, what):
    kept = getattr(planted, what)
    planted.device.synchronize(planted.stream)
    for name, free in (("memory", "free"), ("pinned", "free_pinned"), ("stream", "free_stream")):
        if name != what:
            getattr(planted.device, free)(getattr(planted, name))
            setattr(planted, name, None)
    found(gpu, {"memory": "left: device memory", "pinned": "left: pinned memory", "stream": "stream"}[what])
    del kept


def test_double_free(gpu, planted):
    planted.device.free(planted.memory)
    with pytest.raises(Breach, match="freed twice"):
        planted.device.free(planted.memory)
    found(gpu, "freed twice")


def test_use_after_free(gpu, planted):
    planted.device.free(planted.memory)
    with pytest.raises(Breach, match="memory that is not there"):
        planted.copy_in()


@pytest.mark.parametrize("what", ["memory", "pinned"])
def test_free_while_in_flight(gpu, planted, what):
    planted.copy_in()
    with pytest.raises(Breach, match="freed while copy in that uses it is in flight"):
        planted.device.free(planted.memory) if what == "memory" else planted.device.free_pinned(
            planted.pinned
        )


def test_page_locked_memory_changed_in_flight(gpu, planted):
    planted.copy_in()
    planted.pinned[3] = 9
    with pytest.raises(Breach, match="page-locked memory was changed while copy in was in flight"):
        planted.device.synchronize(planted.stream)


def test_result_read_before_it_is_there(gpu, planted):
    planted.copy_in()
    back = planted.device.allocate_pinned(SIZE)
    planted.device.copy_out(back, planted.address, planted.stream)
    assert not np.array_equal(back, planted.pinned)  # that is what a missing wait looks like
    planted.device.synchronize(planted.stream)
    np.testing.assert_array_equal(back, planted.pinned)


def test_copy_from_memory_that_is_not_page_locked(gpu, planted):
    with pytest.raises(Breach, match="not there"):
        planted.device.copy_in(planted.address, np.zeros(SIZE, np.uint8), planted.stream)


def test_work_of_another_stream_that_was_not_waited_for(gpu, planted):
    array = InterfaceArray(gpu, np.zeros(SIZE, np.uint8), gpu.make_stream(blocking=False))
    planted.device.copy_out(planted.pinned, array.block.address, planted.stream)
    with pytest.raises(Breach, match="races with the caller's work of another stream"):
        planted.device.synchronize(planted.stream)


@pytest.mark.parametrize("provider", ["cuda-python"], indirect=True)
def test_graph_over_freed_memory_even_at_the_same_address(gpu, planted):
    graph = planted.device.capture(planted.stream, planted.copy_in)
    address = planted.address
    planted.device.free(planted.memory)
    assert int(planted.device.allocate(SIZE)) == address
    planted.device.launch(graph, planted.stream)
    with pytest.raises(Breach, match="uses freed device memory: a graph replays after the free"):
        planted.device.synchronize(planted.stream)


@pytest.mark.parametrize("provider", ["cuda-python"], indirect=True)
def test_capture_that_is_not_ended(gpu, planted):
    planted.device._call("cuStreamBeginCapture", planted.stream, 1)
    found(gpu, "still captures")


def test_call_without_a_context(gpu, planted):
    while gpu._stack:
        gpu.pop()
    with pytest.raises(Breach, match="without a context current in this thread"):
        planted.device.allocate(1)
    gpu.push(next(iter(gpu.contexts)))  # for the fixture that pops
