"""Engines that run, over a fake TensorRT on a fake GPU that finds leaks, races, stale graphs and missing waits."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes.arrays import DlpackArray, InterfaceArray
from fakes.tensorrt import PROFILE, Context, expected, make_plan

from posewarp.runtime import Contract, EngineOptions, PosewarpError, Session, TensorSpec
from posewarp.runtime.contract import METADATA_KEY
from posewarp.runtime.errors import BackendError, ContractError, EngineError

CUDA_PYTHON = pytest.mark.parametrize("provider", ["cuda-python"], indirect=True)
EDITIONS = pytest.mark.parametrize("edition", ["tensorrt", "tensorrt_rtx", "tensorrt_lean"], indirect=True)
SHAPES = {"x": ("batch", 3), "k": ("batch", 2), "y": ("batch", 3), "total": ("batch",)}
CONTRACT = Contract(
    "tensors",
    tuple(TensorSpec(name, "float32", SHAPES[name]) for name in ("x", "k")),
    tuple(TensorSpec(name, "float32", SHAPES[name]) for name in ("y", "total")),
)


def feeds(batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(batch, 3)).astype(np.float32),
        "k": rng.normal(size=(batch, 2)).astype(np.float32),
    }


def check(results, given):
    wanted = expected(**given)
    assert results.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(results[name], value)


def run_and_check(session, **which):
    check(session.run(feeds(**which)), feeds(**which))


# Editions and graphs.


@EDITIONS
def test_each_edition_runs_a_plan_without_side_car(gpu, open_plan, edition, provider):
    with open_plan() as session:
        for seed in range(5):
            run_and_check(session, seed=seed)
        assert session.device == "cuda"
        assert session.contract.io == "custom"
        assert session.backend.name.startswith(
            {
                "tensorrt": "TensorRT 11.1.0.106",
                "tensorrt_rtx": "TensorRT-RTX 1.7.1.116",
                "tensorrt_lean": "TensorRT's lean runtime 11.1.0.106",
            }[edition]
        )
        state = session.backend.cuda_graph
    launches, executed = gpu.calls.count("cuGraphLaunch"), gpu.calls.count("execute_async_v3")
    if edition == "tensorrt_rtx":  # it makes graphs itself
        assert (launches, executed, state) == (0, 5, "on, by TensorRT-RTX")
    elif provider == "pycuda":
        assert (launches, executed, state) == (0, 5, "off: pycuda captures none")
    else:  # once plainly, once captured
        assert (launches, executed, state) == (4, 2, "on")


def test_cuda_graph_can_be_left_off(gpu, open_plan):
    with open_plan(options={"cuda_graph": False}) as session:
        for seed in range(4):
            run_and_check(session, seed=seed)
        assert session.backend.cuda_graph == "off"
    assert "cuStreamBeginCapture" not in gpu.calls


@pytest.mark.parametrize("edition", ["tensorrt_rtx"], indirect=True)
@pytest.mark.parametrize("wanted", [True, False])
def test_rtx_is_told_its_own_graph_strategy(open_plan, monkeypatch, wanted):
    told, make = [], Context.__init__

    def note(self, engine, config):
        told.append(config.cuda_graph_strategy.name)
        make(self, engine, config)

    monkeypatch.setattr(Context, "__init__", note)
    with open_plan(options={"cuda_graph": wanted}) as session:
        run_and_check(session)
    assert told == ["WHOLE_GRAPH_CAPTURE" if wanted else "DISABLED"]


@CUDA_PYTHON
def test_each_shape_has_a_graph_and_the_one_unused_longest_goes(gpu, open_plan):
    with open_plan(options={"shapes": 2}) as session:
        for seed, batch in enumerate([1, 1, 1, 2, 2, 2, 1, 3, 3, 1, 2, 2, 2]):
            run_and_check(session, batch=batch, seed=seed)
            assert len(gpu.graphs) <= 2
    # 1, 2; 3 instead of 2, since 1 was used later; 2 anew instead of 3.
    assert gpu.calls.count("create_execution_context") == 4
    assert gpu.calls.count("cuGraphInstantiate") == 4


@CUDA_PYTHON
@pytest.mark.parametrize("fault", ["execute says False", "plugin synchronises", "cuGraphInstantiate"])
def test_capture_that_fails_is_reported_once_and_runs_go_on_without(gpu, open_plan, caplog, fault):
    content = {
        "execute says False": {"fail": ["capture"]},
        "plugin synchronises": {"breaks_capture": True},
    }.get(fault, {})
    with open_plan(**content) as session:
        if fault == "cuGraphInstantiate":
            gpu.fail(fault)
        for seed in range(6):
            run_and_check(session, batch=1 + seed % 2, seed=seed)
        reason = {
            "execute says False": "illegal memory access",
            "plugin synchronises": "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        }.get(fault, "CUDA failed in cuGraphInstantiate")
        assert session.backend.cuda_graph.startswith("off: ")
        assert reason in session.backend.cuda_graph
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "runs without a CUDA graph; its capture failed" in record.message
    assert reason in record.message


# Contract, profiles, batches.


def test_contract_is_taken_from_the_onnx_file_that_is_named(open_plan, onnx_file):
    nodes = [("ReduceSum", ["x", "one"], ["total"], {"keepdims": 0}), ("Add", ["x", "x"], ["y"])]
    path = onnx_file(
        "model.onnx",
        [*nodes, ("Identity", ["k"], ["unused"])],
        {"x": ("float", ("batch", 3)), "k": ("float", ("batch", 2))},
        {"y": ("float", ("batch", 3)), "total": ("float", ("batch",))},
        constants={"one": np.array([1])},
        metadata={"note": "n" * 300, METADATA_KEY: CONTRACT.to_json()},
    )
    with open_plan(contract=path) as session:
        assert session.contract == CONTRACT
        run_and_check(session)
    with open_plan(contract=CONTRACT) as session:
        assert session.contract == CONTRACT


def test_onnx_file_without_a_contract_leaves_it_to_the_engine(open_plan, double_model):
    with open_plan(contract=double_model) as session:
        assert session.contract.io == "custom"
        assert session.contract.inputs[0] == TensorSpec("k", "float32", ("k_0", 2))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x0a\x80", b"\x0f"])
def test_contract_file_that_is_no_onnx_file_is_one_line(open_plan, tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ContractError, match=r"model\.onnx is not an ONNX file, or is cut short"):
        open_plan(contract=path)
    path.unlink()
    with pytest.raises(ContractError, match=r"model\.onnx cannot be read: No such file"):
        open_plan(contract=path)


def test_contract_is_taken_from_the_side_car(open_plan):
    import json

    with open_plan(side_car={"contract": json.loads(CONTRACT.to_json())}) as session:
        assert session.contract == CONTRACT


def test_contract_that_the_engine_does_not_keep_is_refused_and_leaves_nothing(open_plan):
    wrong = Contract(
        "custom", CONTRACT.inputs, (TensorSpec("y", "float16", ("batch", 3)), CONTRACT.outputs[1])
    )
    with pytest.raises(ContractError, match=r"does not fit the file: it promises output y: float16"):
        open_plan(contract=wrong)


@pytest.mark.parametrize("batch", [5, 8, 9, 10, 16])
def test_batch_above_the_profile_is_split_into_equal_parts(gpu, open_plan, batch):
    with open_plan(contract=CONTRACT, options={"cuda_graph": False}) as session:
        run_and_check(session, batch=batch)
    assert gpu.calls.count("execute_async_v3") == -(-batch // 4)


def test_users_network_is_split_along_a_batch_only(open_plan):
    def named(axis):
        outputs = (TensorSpec("y", "float32", (axis, 3)), TensorSpec("total", "float32", (axis,)))
        inputs = (TensorSpec("x", "float32", (axis, 3)), TensorSpec("k", "float32", (axis, 2)))
        return Contract("custom", inputs, outputs)

    with open_plan(contract=named("batch")) as session:
        run_and_check(session, batch=6)
    with (
        open_plan(contract=named("frames")) as session,
        pytest.raises(ContractError, match="input x has shape"),
    ):
        session.run(feeds(batch=6))


def test_outside_the_profile_is_an_error_that_names_input_got_and_allowed(open_plan):
    with open_plan() as session:
        run_and_check(session)
        with pytest.raises(
            ContractError,
            match=r"input k has shape \(5, 2\), .*model\.engine was built for \(1, 2\) to \(4, 2\); build it with",
        ):
            session.run(feeds(batch=5))
        run_and_check(session, seed=1)  # and nothing was lost by it


def test_profile_that_takes_the_shape_is_chosen(open_plan):
    large = {"x": [[8, 3], [8, 3], [16, 3]], "k": [[8, 2], [8, 2], [16, 2]]}
    with open_plan(profiles=[PROFILE, large]) as session:
        for seed, batch in enumerate([2, 8, 4, 16, 2, 8, 8]):
            run_and_check(session, batch=batch, seed=seed)
        assert session.backend.max_batch == 16
        with pytest.raises(ContractError, match=r"\(1, 2\) to \(4, 2\) or \(8, 2\) to \(16, 2\)"):
            session.run(feeds(batch=5))


def test_engine_of_fixed_shapes_runs_and_splits_what_fits(open_plan):
    fixed = [{"x": [[2, 3]] * 3, "k": [[2, 2]] * 3}]
    shapes = {name: (2, *shape[1:]) for name, shape in SHAPES.items()}
    contract = Contract(
        "tensors",
        tuple(TensorSpec(spec.name, "float32", shapes[spec.name]) for spec in CONTRACT.inputs),
        tuple(TensorSpec(spec.name, "float32", shapes[spec.name]) for spec in CONTRACT.outputs),
    )
    with open_plan(static=2, profiles=fixed, contract=contract) as session:
        assert session.backend.max_batch is None
        run_and_check(session, batch=6)
        with pytest.raises(ContractError, match="expected 2 on axis 0"):
            session.run(feeds(batch=3))


def test_host_arrays_are_checked_and_cast_as_on_every_backend(open_plan):
    given = feeds()
    with open_plan(contract=CONTRACT) as session:
        check(session.run({name: value.astype(np.float64) for name, value in given.items()}), given)
        check(session.run({name: np.asfortranarray(value) for name, value in given.items()}), given)
        with pytest.raises(ContractError, match="input x has type uint8"):
            session.run({**given, "x": given["x"].astype(np.uint8)})
        with pytest.raises(ContractError, match="missing input k"):
            session.run({"x": given["x"]})


def test_returned_arrays_belong_to_the_caller(open_plan):
    with open_plan() as session:
        first = session.run(feeds(seed=0))
        for seed in range(1, 4):
            session.run(feeds(seed=seed))
    check(first, feeds(seed=0))


# Arrays on the device.


@pytest.fixture
def on_device(gpu, provider):
    """``on_device(array)``: a caller's arrays, whose content is written late, on a stream of the caller's."""
    kinds = {"interface": InterfaceArray, "dlpack": DlpackArray}
    made = []
    own = gpu.make_stream(blocking=False)

    def make(array, kind="interface", stream=own):
        made.append(kinds[kind](gpu, array, stream))
        return made[-1]

    yield make
    gpu.synchronize(own)
    gpu.synchronize(1)
    for each in made:
        each.free()
    gpu.free_stream(own)


def copies(gpu):
    return sum(call in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync") or "memcpy" in call for call in gpu.calls)


@pytest.mark.parametrize("kind", ["interface", "dlpack"])
def test_arrays_on_the_device_are_not_copied_and_waited_for(gpu, open_plan, on_device, kind):
    with open_plan(contract=CONTRACT) as session:
        for seed in range(3):
            given = feeds(seed=seed)
            device_feeds = {name: on_device(value, kind) for name, value in given.items()}
            out = {name: on_device(np.zeros_like(value), kind) for name, value in expected(**given).items()}
            results = session.run(device_feeds, out)
            assert results == out  # the very objects
            check({name: value.get() for name, value in results.items()}, given)
    assert copies(gpu) == 0
    assert "cuStreamBeginCapture" not in gpu.calls


def test_profile_is_changed_for_arrays_on_the_device_too(open_plan, on_device):
    large = {"x": [[8, 3], [8, 3], [16, 3]], "k": [[8, 2], [8, 2], [16, 2]]}
    with open_plan(profiles=[PROFILE, large]) as session:
        for seed, batch in enumerate([2, 8, 2, 16]):
            given = feeds(batch, seed)
            check(session.run({name: on_device(value) for name, value in given.items()}), given)


def test_some_arrays_on_the_device_and_some_not(gpu, open_plan, on_device):
    with open_plan(contract=CONTRACT) as session:
        given = feeds(seed=1)
        results = session.run({"x": on_device(given["x"]), "k": given["k"]})
        check(results, given)
        assert isinstance(results["y"], np.ndarray)
        total = on_device(np.zeros(2, np.float32))
        results = session.run(given, {"total": total})
        check({**results, "total": results["total"].get()}, given)
    assert copies(gpu) == 3 + 3


def test_a_graph_is_never_replayed_for_memory_that_is_not_its_own(gpu, open_plan, on_device):
    with open_plan(contract=CONTRACT) as session:
        for seed in range(12):
            given = feeds(seed=seed)
            mixed = dict(given, x=on_device(given["x"])) if seed % 3 == 2 else given
            check(session.run(mixed), given)


def test_large_batch_on_the_device_is_split_where_it_lies(gpu, open_plan, on_device):
    with open_plan(contract=CONTRACT) as session:
        given = feeds(batch=10)
        out = {name: on_device(np.zeros_like(value)) for name, value in expected(**given).items()}
        session.run({name: on_device(value) for name, value in given.items()}, out)
        check({name: value.get() for name, value in out.items()}, given)
    assert copies(gpu) == 0


def test_array_on_the_device_that_does_not_fit_is_refused_by_name(open_plan, on_device):
    given = feeds()
    with open_plan(contract=CONTRACT) as session:
        for wrong, message in (
            (on_device(np.zeros((2, 3))), "input x has type float64, expected float32"),
            (on_device(np.zeros((2, 4), np.float32)), r"input x has shape \(2, 4\), expected 3 on axis 1"),
        ):
            with pytest.raises(ContractError, match=message):
                session.run({**given, "x": wrong})
        elsewhere = on_device(given["x"], "dlpack")
        elsewhere.device = (2, 1)
        with pytest.raises(ContractError, match="x lies on GPU 1, the engine runs on GPU 0"):
            session.run({**given, "x": elsewhere})
        run_and_check(session)


def test_output_array_that_does_not_fit_is_refused_by_name(open_plan, on_device):
    with open_plan(contract=CONTRACT) as session:
        read_only = on_device(np.zeros((2, 3), np.float32))
        read_only.read_only = True
        for out, message in (
            (
                {"z": on_device(np.zeros(2, np.float32))},
                "out has z, a InterfaceArray; expected writeable arrays",
            ),
            ({"y": np.zeros((2, 3), np.float32)}, "out has y, a ndarray"),
            ({"y": read_only}, "out has y"),
            (
                {"y": on_device(np.zeros((3, 3), np.float32))},
                r"y on the device is float32 \(3, 3\), expected",
            ),
            (
                {"y": on_device(np.zeros((2, 3), np.float16))},
                r"y on the device is float16 \(2, 3\), expected",
            ),
        ):
            with pytest.raises(ContractError, match=message):
                session.run(feeds(), out)
        run_and_check(session)


def test_out_is_refused_where_the_model_runs_on_the_cpu(double_model):
    with (
        Session.open(double_model) as session,
        pytest.raises(ContractError, match="out= is for plans on a GPU"),
    ):
        session.run({"x": np.zeros((1, 3), np.float32)}, {"y": np.zeros((1, 3), np.float32)})


# Threads and lifetimes.


@EDITIONS
@pytest.mark.parametrize("contexts", [1, 2, 4])
def test_four_threads_with_fifty_inputs_each_equal_serial_runs(gpu, open_plan, contexts):
    with open_plan(options={"contexts": contexts}) as session:

        def work(thread):
            for step in range(50):
                run_and_check(session, batch=1 + step % 3, seed=100 * thread + step)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert len(gpu.streams) - 1 <= contexts


def test_200_sessions_leave_nothing(gpu, open_plan):
    for cycle in range(200):
        with open_plan() as session:
            for _ in range(3):
                run_and_check(session, seed=cycle)
        assert not gpu.blocks
    assert not gpu.objects["Context"]


def test_session_works_in_a_second_thread_and_leaves_it_as_it_was(gpu, open_plan):
    with open_plan() as session, ThreadPoolExecutor(1) as pool:
        pool.submit(run_and_check, session).result()
        assert pool.submit(lambda: list(gpu._stack)).result() == []


def test_session_may_be_closed_in_another_thread(open_plan):
    session = open_plan()
    run_and_check(session)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(session.close).result()
    with pytest.raises(BackendError, match="is closed; open another"):
        session.run(feeds())


def test_session_that_is_forgotten_is_freed(open_plan):
    session = open_plan()
    run_and_check(session)
    del session
    gc.collect()  # the fixture finds what is left


def test_closing_waits_for_runs_in_progress_and_those_who_wait_are_told(gpu, open_plan):
    session = open_plan(options={"contexts": 1})
    backend = session.backend
    run_and_check(session)
    entered, go_on = threading.Event(), threading.Event()

    def hold():
        with backend._device.current(), backend._lanes.one() as lane:
            entered.set()
            go_on.wait(10)
            return lane.run(feeds(), {})

    with ThreadPoolExecutor(3) as pool:
        holding = pool.submit(hold)
        entered.wait(10)
        waiting = pool.submit(backend.run, feeds())
        closing = pool.submit(session.close)
        with pytest.raises(BackendError, match="the session is closed"):
            waiting.result(10)
        assert not closing.done()
        go_on.set()
        check(holding.result(10), feeds())
        closing.result(10)


def test_leaving_a_session_open_ends_the_interpreter_cleanly(tmp_path):
    make_plan(tmp_path / "model.engine")
    code = f"""
import atexit, sys
import numpy as np
from fakes import cuda_python, tensorrt
from fakes.gpu import FakeGpu
gpu = FakeGpu()
atexit.register(lambda: (gpu.check(), print("clean")))
sys.modules["cuda.bindings.driver"] = cuda_python.FakeCudaPython(gpu)
sys.modules["tensorrt"] = tensorrt.make_module(gpu)
from posewarp.runtime import Session
session = Session.open({str(tmp_path / "model.engine")!r})
for _ in range(3):
    session.run({{"x": np.zeros((1, 3), np.float32), "k": np.zeros((1, 2), np.float32)}})
"""
    folder = __file__.rpartition("/runtime/")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": folder}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "clean\n", "")


# What fails while it runs.


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("execute", r"the run of .*model\.engine failed; .* said: Error Code 1: .* illegal memory access"),
        ("context", r"no execution context can be made; .* said: Out of memory"),
        ("address", r"tensor \w+ cannot be bound"),
        ("unknown size", "the size of output y depends on data: not supported"),
    ],
)
@EDITIONS
def test_what_tensorrt_refuses_raises_with_its_last_words(open_plan, on_device, fault, message):
    with open_plan(fail=[fault], contract=CONTRACT) as session:
        for _ in range(3):
            with pytest.raises(EngineError, match=message):
                session.run(feeds())
            with pytest.raises(EngineError, match=message):
                session.run({**feeds(), "x": on_device(feeds()["x"])})


def test_every_call_of_the_driver_may_fail_once_and_nothing_is_left_or_wrong(gpu, open_plan, provider):
    """Each in turn, through a session's life; what gives back is left out, since it then has not given back."""

    def life():
        with open_plan(options={"shapes": 1}) as session:
            for seed, batch in enumerate([1, 1, 1, 2, 2]):
                run_and_check(session, batch=batch, seed=seed)

    life()
    kinds = dict.fromkeys(gpu.calls)
    giving_back = ("Free", "Destroy", "Release", "Pop", "Push", "push", "free", "End")
    driver = [call for call in kinds if not any(word in call for word in giving_back) and call[:1] != "_"]
    failed = set()
    for call in driver:
        for nth in range(1, 1 + gpu.calls.count(call)):
            gpu.fail(call, at=nth)
            try:
                life()
                if call in gpu._failures:  # it is called less often than that
                    del gpu._failures[call]
                    break
            except PosewarpError:
                failed.add(call)
            assert not gpu.blocks
            assert len(gpu.streams) == 1
    if provider == "cuda-python":
        assert {"cuMemAlloc", "cuMemHostAlloc", "cuMemcpyHtoDAsync", "cuStreamSynchronize"} <= failed
        assert "cuGraphInstantiate" not in failed  # then it runs without
    else:
        assert {"mem_alloc", "pagelocked_empty", "memcpy_htod_async", "Stream.synchronize"} <= failed


def test_a_gpu_that_has_failed_for_good_is_closed_without_an_exception(gpu, open_plan, provider, caplog):
    session = open_plan()
    run_and_check(session)
    calls = {
        "cuda-python": (
            "cuStreamSynchronize",
            "cuMemFree",
            "cuMemFreeHost",
            "cuStreamDestroy",
            "cuGraphExecDestroy",
        ),
        "pycuda": ("Stream.synchronize", "free device", "free pinned"),
    }[provider]
    for call in calls:
        gpu.fail(call, status="CUDA_ERROR_ILLEGAL_ADDRESS", forever=True)
    with pytest.raises(BackendError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        session.run(feeds())
    for each in gpu.streams.values():  # what such a GPU still had to do is lost
        each.queue.clear()
    session.close()
    assert any("CUDA_ERROR_ILLEGAL_ADDRESS" in record.message for record in caplog.records)
    gpu.blocks.clear()
    gpu.graphs.clear()
    for handle in [handle for handle in gpu.streams if handle != 1]:
        del gpu.streams[handle]


def test_a_failed_run_leaves_the_next_right(gpu, open_plan, provider):
    copy_out = {"cuda-python": "cuMemcpyDtoHAsync", "pycuda": "memcpy_dtoh_async"}[provider]
    with open_plan() as session:
        for seed in range(5):
            gpu.fail(copy_out)
            with pytest.raises(BackendError, match="CUDA failed"):
                session.run(feeds(seed=seed))
            run_and_check(session, seed=10 + seed)


# Options.


def test_options_that_make_no_sense_are_refused():
    for wrong, message in (
        ({"contexts": 0}, "contexts is 0, expected at least 1"),
        ({"shapes": -1}, "shapes is -1"),
        ({"provider": "cupy"}, "no provider 'cupy'; there are cuda-python, pycuda"),
        ({"library": "trt"}, "no library 'trt'; there are tensorrt, tensorrt_rtx, tensorrt_lean"),
    ):
        with pytest.raises(BackendError, match=message):
            EngineOptions(**wrong)


def test_engine_options_are_refused_for_other_files(double_model):
    with pytest.raises(BackendError, match=r"engine= says how a plan .*double\.onnx is none"):
        Session.open(double_model, engine=EngineOptions())


# The runtime cache of TensorRT-RTX.

RTX = pytest.mark.parametrize("edition", ["tensorrt_rtx"], indirect=True)


@RTX
def test_runtime_cache_is_written_when_the_session_closes_and_read_again(open_plan, tmp_path):
    path = tmp_path / "kernels.cache"
    with open_plan(options={"runtime_cache": path}) as session:
        run_and_check(session)
        assert not path.exists()
    assert path.read_bytes() == b"kernels kernel"
    with open_plan(options={"runtime_cache": path}) as session:
        run_and_check(session)
    assert path.read_bytes() == b"kernels kernel kernel"


@RTX
def test_runtime_cache_of_another_gpu_is_replaced_and_that_is_said(open_plan, tmp_path, caplog):
    path = tmp_path / "kernels.cache"
    path.write_bytes(b"of another driver")
    with open_plan(options={"runtime_cache": path}) as session:
        run_and_check(session)
    assert "is of another GPU, driver or TensorRT-RTX, or damaged; it will be replaced" in caplog.text
    assert path.read_bytes() == b"kernels kernel"


@RTX
def test_runtime_cache_that_cannot_be_written_does_not_spoil_the_close(open_plan, tmp_path, caplog):
    with open_plan(options={"runtime_cache": tmp_path / "missing" / "kernels.cache"}) as session:
        run_and_check(session)
    assert "cannot be written: the folder" in caplog.text
    with pytest.raises(EngineError, match=r"the runtime cache .* cannot be read: Is a directory"):
        open_plan(options={"runtime_cache": tmp_path})


def test_runtime_cache_is_refused_where_there_is_none(open_plan, tmp_path):
    with pytest.raises(EngineError, match=r"TensorRT 11\.1\.0\.106 has no runtime cache; only TensorRT-RTX"):
        open_plan(options={"runtime_cache": tmp_path / "cache"})
