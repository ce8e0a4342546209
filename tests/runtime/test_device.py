"""The device layer, over both ways to call the driver, on a fake GPU."""

from __future__ import annotations

import sys
import threading
from functools import partial

import numpy as np
import pytest
from fakes.arrays import DlpackArray, InterfaceArray
from fakes.gpu import LEGACY

from posewarp.runtime import device_array
from posewarp.runtime.backends.device import CudaPythonDevice, open_device
from posewarp.runtime.errors import BackendError, ContractError, PosewarpError

CUDA_PYTHON = pytest.mark.parametrize("provider", ["cuda-python"], indirect=True)
PYCUDA = pytest.mark.parametrize("provider", ["pycuda"], indirect=True)


@pytest.fixture
def device(provider):
    opened = open_device(provider)
    yield opened
    opened.close()


@pytest.fixture
def stream(device):
    with device.current():
        made = device.stream()
    yield made
    with device.current():
        device.free_stream(made)


class Two:
    """A buffer on each side."""

    def __init__(self, device, size=16):
        self.device = device
        self.memory, self.pinned = device.allocate(size), device.allocate_pinned(size)

    @property
    def address(self):
        return int(self.memory)

    def free(self):
        self.device.free(self.memory)
        self.device.free_pinned(self.pinned)


def test_says_what_gpu_it_is(device, provider):
    assert (device.provider, device.index, device.name) == (provider, 0, "Fake GPU")
    assert device.compute_capability == "8.6"


def test_what_is_copied_in_comes_out(gpu, provider):
    device = open_device(provider)
    with device.current():
        stream, two, back = device.stream(), Two(device), device.allocate_pinned(16)
        two.pinned[:] = range(16)
        device.copy_in(two.address, two.pinned, stream)
        device.copy_out(back, two.address, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(back, range(16))
        two.free()
        device.free_pinned(back)
        device.free_stream(stream)
    device.close()


def test_empty_allocations_are_of_one_byte(device):
    with device.current():
        two = Two(device, size=0)
        assert two.pinned.size == 1
        two.free()


def test_works_in_any_thread_and_leaves_it_as_it_was(gpu, device):
    problems = []

    def work():
        try:
            before = list(gpu._stack)
            with device.current():
                Two(device).free()
            assert gpu._stack == before == []
        except BaseException as exc:
            problems.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []


def test_context_is_put_back_after_an_error(gpu, device):
    before = list(gpu._stack)
    with pytest.raises(ZeroDivisionError), device.current():
        raise ZeroDivisionError
    assert gpu._stack == before


@pytest.mark.parametrize("foreign", ["default", "own"])
def test_waits_for_work_of_another_stream(gpu, device, stream, foreign):
    with device.current():
        other = LEGACY if foreign == "default" else gpu.make_stream(blocking=False)
        array = InterfaceArray(gpu, np.arange(16, dtype=np.uint8), other)
        back = device.allocate_pinned(16)
        device.wait(stream, other)
        device.copy_out(back, array.block.address, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(back, range(16))
        device.free_pinned(back)
        array.free()
        if foreign == "own":
            gpu.free_stream(other)


@CUDA_PYTHON
def test_graph_does_nothing_when_captured_and_its_work_at_each_launch(gpu, device, stream):
    with device.current():
        two, back = Two(device), device.allocate_pinned(16)

        def work():
            device.copy_in(two.address, two.pinned, stream)
            device.copy_out(back, two.address, stream)

        back[:] = 0
        graph = device.capture(stream, work)
        device.synchronize(stream)
        assert not back.any()
        for value in (3, 4):
            two.pinned[:] = value
            device.launch(graph, stream)
            device.synchronize(stream)
            assert (back == value).all()
        device.free_graph(graph)
        two.free()
        device.free_pinned(back)
    assert gpu.calls.count("cuGraphDestroy") == 1  # what was captured is not kept beside what is launched


@CUDA_PYTHON
@pytest.mark.parametrize("fault", ["raises", "synchronises", "begin", "end", "instantiate"])
def test_capture_that_fails_is_ended_and_the_stream_works_on(gpu, device, stream, fault):
    with device.current():
        two = Two(device)

        def work():
            device.copy_in(two.address, two.pinned, stream)
            if fault == "raises":
                raise ContractError("planted")
            if fault == "synchronises":
                device.synchronize(stream)

        call = {
            "begin": "cuStreamBeginCapture",
            "end": "cuStreamEndCapture",
            "instantiate": "cuGraphInstantiate",
        }
        if fault in call and fault != "end":
            gpu.fail(call[fault])
        if fault == "end":
            work = partial(setattr, gpu.streams[stream], "broken", True)
        with pytest.raises(PosewarpError, match=r"planted|CUDA failed in cu"):
            device.capture(stream, work)
        device.copy_in(two.address, two.pinned, stream)
        device.synchronize(stream)
        two.free()


@PYCUDA
def test_pycuda_says_that_it_captures_no_graphs(device, stream):
    assert not device.captures
    for call in (lambda: device.capture(stream, list), lambda: device.launch(0, stream)):
        with pytest.raises(BackendError, match="pycuda captures no CUDA graphs"):
            call()


CALLS = {
    "cuda-python": {
        "cuMemAlloc": lambda device, stream: device.allocate(1),
        "cuMemHostAlloc": lambda device, stream: device.allocate_pinned(1),
        "cuStreamCreate": lambda device, stream: device.stream(),
        "cuStreamSynchronize": lambda device, stream: device.synchronize(stream),
        "cuEventCreate": lambda device, stream: device.wait(stream, LEGACY),
        "cuEventRecord": lambda device, stream: device.wait(stream, LEGACY),
        "cuStreamWaitEvent": lambda device, stream: device.wait(stream, LEGACY),
    },
    "pycuda": {
        "mem_alloc": lambda device, stream: device.allocate(1),
        "pagelocked_empty": lambda device, stream: device.allocate_pinned(1),
        "Stream": lambda device, stream: device.stream(),
        "Stream.synchronize": lambda device, stream: device.synchronize(stream),
        "Event": lambda device, stream: device.wait(stream, LEGACY),
        "wait_for_event": lambda device, stream: device.wait(stream, LEGACY),
    },
}


def test_what_the_driver_refuses_is_one_line_and_leaves_nothing(gpu, device, stream, provider):
    for name, call in CALLS[provider].items():
        gpu.fail(name, status="CUDA_ERROR_OUT_OF_MEMORY")
        with (
            device.current(),
            pytest.raises(BackendError, match=rf"{name}.*CUDA_ERROR_OUT_OF_MEMORY") as caught,
        ):
            call(device, stream)
        assert "\n" not in str(caught.value)
        del caught
    assert not gpu.events


def test_a_copy_that_is_refused_is_one_line(gpu, device, stream, provider):
    with device.current():
        two = Two(device)
        for cuda_python, pycuda, copy in (
            (
                "cuMemcpyHtoDAsync",
                "memcpy_htod_async",
                lambda: device.copy_in(two.address, two.pinned, stream),
            ),
            (
                "cuMemcpyDtoHAsync",
                "memcpy_dtoh_async",
                lambda: device.copy_out(two.pinned, two.address, stream),
            ),
        ):
            gpu.fail(cuda_python if provider == "cuda-python" else pycuda)
            with pytest.raises(BackendError, match=r"CUDA failed.*CUDA_ERROR_UNKNOWN"):
                copy()
        two.free()


@CUDA_PYTHON
@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("no library", "no NVIDIA driver: libcuda is not installed"),
        (
            "CUDA_ERROR_NO_DEVICE",
            "no NVIDIA driver or GPU that can be used: cuInit gives CUDA_ERROR_NO_DEVICE",
        ),
    ],
)
def test_without_a_driver_or_gpu_it_is_one_line(gpu, provider, status, message):
    gpu.fail("cuInit", status=status)
    with pytest.raises(BackendError, match=message):
        open_device(provider)


def test_provider_that_is_not_installed_is_named(provider, monkeypatch):
    module = {"cuda-python": "cuda.bindings.driver", "pycuda": "pycuda.driver"}[provider]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf"{provider} is not installed: pip install 'posewarp\["):
        open_device(provider)


def test_pycuda_without_a_driver_is_one_line(tmp_path, monkeypatch):
    # What `import pycuda.driver` gives there: the extension module cannot be linked with libcuda.
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda/__init__.py").touch()
    (tmp_path / "pycuda/driver.py").write_text(
        "raise ImportError('libcuda.so.1: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycuda"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BackendError, match="no NVIDIA driver: pycuda cannot load libcuda"):
        open_device("pycuda")


@PYCUDA
def test_pycuda_without_a_context_says_how_to_make_one(gpu, provider):
    context = sys.modules["pycuda.driver"].Context
    mine = context.get_current()
    context.pop()
    with pytest.raises(
        BackendError, match="no pycuda context is current in this thread; open the session where"
    ):
        open_device(provider)
    mine.push()


# Arrays of a caller.


@pytest.mark.parametrize("kind", [InterfaceArray, DlpackArray])
def test_array_on_the_device_is_seen_where_it_lies_and_waited_for(gpu, device, stream, kind):
    with device.current():
        content = np.arange(6, dtype=np.float32).reshape(2, 3)
        array = kind(gpu, content, gpu.make_stream(blocking=False))
        seen = device_array.of(array)
        assert (seen.address, seen.shape, seen.dtype) == (array.block.address, (2, 3), np.float32)
        assert seen.owner is array
        assert seen.ndim == 2
        assert seen[1:].address == seen.address + 12
        assert seen[1:].shape == (1, 3)
        seen.order_before(device, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(array.get(), content)
        gpu.free_stream(array.stream)
        array.free()


@pytest.mark.parametrize("said", [None, 1])
def test_array_that_names_no_stream_is_ordered_behind_the_default_stream(gpu, device, stream, said):
    with device.current():
        array = InterfaceArray(gpu, np.ones(3, np.float32))
        array.said_stream = said
        device_array.of(array).order_before(device, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(array.get(), 1)
        array.free()


def test_what_is_not_on_a_device_is_no_device_array():
    import torch

    for value in (np.ones(3), torch.ones(3), [1, 2], 3.0):
        assert device_array.of(value) is None


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (InterfaceArray, {"strides": (4, 8)}, r"of shape \(2, 3\), is not contiguous"),
        (DlpackArray, {"elements": (1, 2)}, r"of shape \(2, 3\), is not contiguous"),
    ],
)
def test_array_that_cannot_be_used_as_it_lies_is_refused(gpu, provider, kind, change, message):
    array = kind(gpu, np.zeros((2, 3), np.float32))
    for name, value in change.items():
        setattr(array, name, value)
    with pytest.raises(ContractError, match=message):
        device_array.of(array)
    gpu.synchronize(LEGACY)
    array.free()


def test_strides_of_axes_of_one_do_not_matter(gpu):
    array = InterfaceArray(gpu, np.zeros((1, 3), np.float32))
    array.strides = (400, 4)
    assert device_array.of(array).shape == (1, 3)
    view = DlpackArray(gpu, np.zeros((2, 1), np.float32))
    view.elements, view.offset = (1, 9), 64
    assert device_array.of(view).address == view.block.address
    gpu.synchronize(LEGACY)
    array.free()
    view.free()


def test_tensor_that_its_owner_does_not_share_is_one_line():
    class Refusing:
        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, *, stream):
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")

    with pytest.raises(ContractError, match=r"cannot be shared: .*use tensor\.detach\(\)"):
        device_array.of(Refusing())


def test_real_cuda_python_takes_the_arguments_as_they_are_given():
    """Without a driver it looks at its arguments first, and then says that there is no library."""
    cuda = pytest.importorskip("cuda.bindings.driver")
    try:
        cuda.cuInit(0)
    except RuntimeError:
        pass
    else:
        pytest.skip("this machine has a driver; see test_device_gpu.py")
    device = object.__new__(CudaPythonDevice)
    device._cuda, device._context, device._gpu = cuda, cuda.CUcontext(5), cuda.CUdevice(0)
    stream, memory, pinned = cuda.CUstream(4), cuda.CUdeviceptr(4096), np.zeros(8, np.uint8)
    assert (device.handle(stream), int(memory)) == (4, 4096)
    for call in (
        lambda: device.current().__enter__(),
        lambda: device._call("cuCtxPopCurrent"),
        lambda: device._call("cuDeviceGet", 0),
        lambda: device._call("cuDeviceGetName", 256, device._gpu),
        lambda: device._call("cuDevicePrimaryCtxRetain", device._gpu),
        device.stream,
        lambda: device._call("cuEventCreate", cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING),
        lambda: device._call("cuEventRecord", cuda.CUevent(3), LEGACY),
        lambda: device._call("cuStreamWaitEvent", stream, cuda.CUevent(3), 0),
        lambda: device._call("cuEventDestroy", cuda.CUevent(3)),
        lambda: device.synchronize(stream),
        lambda: device.free_stream(stream),
        lambda: device.allocate(100),
        lambda: device.free(memory),
        lambda: device.allocate_pinned(100),
        lambda: device.free_pinned(pinned),
        lambda: device.copy_in(int(memory), pinned, stream),
        lambda: device.copy_out(pinned, int(memory), stream),
        lambda: device.capture(stream, list),
        lambda: device._call("cuStreamEndCapture", stream),
        lambda: device._call("cuGraphInstantiate", cuda.CUgraph(3), 0),
        lambda: device._call("cuGraphDestroy", cuda.CUgraph(3)),
        lambda: device.launch(cuda.CUgraphExec(3), stream),
        lambda: device.free_graph(cuda.CUgraphExec(3)),
        device.close,
    ):
        with pytest.raises(RuntimeError, match=r"driver|libcuda"):
            call()
