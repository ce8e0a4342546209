"""The device layer and an engine on a real GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from posewarp.runtime import EngineOptions, Session
from posewarp.runtime.backends.device import open_device
from posewarp.runtime.errors import BackendError, PosewarpError

pytestmark = pytest.mark.gpu
SIZE = 1 << 20


@pytest.fixture(params=["cuda-python", "pycuda"])
def device(request):
    context = None
    if request.param == "pycuda":
        cuda = pytest.importorskip("pycuda.driver", exc_type=ImportError)
        cuda.init()
        context = cuda.Device(0).retain_primary_context()
        context.push()
    try:
        opened = open_device(request.param)
    except BackendError as exc:
        pytest.skip(str(exc))
    yield opened
    opened.close()
    if context is not None:
        context.pop()


def round_trip(device, content):
    with device.current():
        stream, memory = device.stream(), device.allocate(SIZE)
        there, back = device.allocate_pinned(SIZE), device.allocate_pinned(SIZE)
        there[:] = content
        device.copy_in(int(memory), there, stream)
        device.copy_out(back, int(memory), stream)
        device.synchronize(stream)
        result = back.copy()
        device.free(memory)
        device.free_pinned(there)
        device.free_pinned(back)
        device.free_stream(stream)
    return result


def test_what_is_copied_in_comes_out_from_any_thread(device):
    rng = np.random.default_rng(0)
    contents = [rng.integers(0, 256, SIZE, np.uint8) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for content, result in zip(
            contents, pool.map(lambda each: round_trip(device, each), contents), strict=True
        ):
            np.testing.assert_array_equal(result, content)


def test_graph_replays_what_lies_in_its_buffers_and_a_failed_capture_ends(device):
    if not device.captures:
        pytest.skip("pycuda captures no graphs")
    with device.current():
        stream, memory = device.stream(), device.allocate(SIZE)
        there, back = device.allocate_pinned(SIZE), device.allocate_pinned(SIZE)

        def work():
            device.copy_in(int(memory), there, stream)
            device.copy_out(back, int(memory), stream)

        def fail():
            work()
            device.synchronize(stream)  # not allowed in a capture

        with pytest.raises(BackendError, match="CUDA_ERROR_STREAM_CAPTURE"):
            device.capture(stream, fail)
        graph = device.capture(stream, work)
        for value in (1, 2, 3):
            there[:] = value
            device.launch(graph, stream)
            device.synchronize(stream)
            assert (back == value).all()
        device.free_graph(graph)
        device.free(memory)
        device.free_pinned(there)
        device.free_pinned(back)
        device.free_stream(stream)


@pytest.fixture(params=["tensorrt", "rtx"])
def engine(request, tmp_path, onnx_file):
    """y = relu(2 x) for batches 1 to 4, and its ONNX file."""
    from posewarp.export.to_engine import Shapes, to_engine

    try:
        open_device("cuda-python").close()
    except BackendError as exc:
        pytest.skip(str(exc))
    path = onnx_file(
        "double.onnx",
        [("Add", ["x", "x"], ["middle"]), ("Relu", ["middle"], ["y"])],
        {"x": ("float", ("batch", 3, 64))},
        {"y": ("float", ("batch", 3, 64))},
    )
    shapes = Shapes(("x:1x3x64",), ("x:2x3x64",), ("x:4x3x64",))
    try:
        to_engine(path, tmp_path / "double.engine", backend=request.param, profiles=shapes)
        Session.open(tmp_path / "double.engine").close()
    except PosewarpError as exc:
        pytest.skip(f"not measured: no TensorRT for this card ({exc})")
    return tmp_path / "double.engine", path


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_engine_equals_its_file_from_four_threads(engine, cuda_graph):
    plan, path = engine
    inputs = [np.random.default_rng(seed).normal(size=(1 + seed % 4, 3, 64)) for seed in range(50)]
    inputs = [each.astype(np.float32) for each in inputs]
    with Session.open(path, plugins=()) as reference:
        wanted = [reference.run({"x": each})["y"] for each in inputs]
    with Session.open(plan, contract=path, engine=EngineOptions(cuda_graph=cuda_graph)) as session:
        barrier = threading.Barrier(4)

        def work(_):
            barrier.wait()
            return [session.run({"x": each})["y"] for each in inputs]

        with ThreadPoolExecutor(4) as pool:
            for results in pool.map(work, range(4)):
                for result, right in zip(results, wanted, strict=True):
                    np.testing.assert_array_equal(result, right)


def test_engine_takes_and_gives_torch_tensors_where_they_lie(engine):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA here")
    plan, path = engine
    with Session.open(plan, contract=path) as session, torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(20):
            x = torch.randn(4, 3, 64, device="cuda") @ torch.eye(64, device="cuda")  # still being computed
            y = torch.empty_like(x)
            assert session.run({"x": x}, {"y": y})["y"] is y
            torch.testing.assert_close(y, torch.relu(x + x), rtol=0, atol=0)
