"""What a service does to a session, of each backend that runs on a CPU: many threads, many sessions, an exit."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from posewarp.export.split import split
from posewarp.export.to_mnn import to_mnn
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import SplitSession

CHANNELS = 96  # 324 KiB of weights: a session that is not given back shows


@pytest.fixture(scope="module", params=["onnx", "mnn", "split"])
def files(request, tmp_path_factory) -> tuple[Path, ...]:
    """out = tanh(a layer of a picture a + a pose b): one file, or two parts."""
    graph = parser.parse_model(f"""<ir_version: 10, opset_import: ["": 18]>
        g (float[batch, {CHANNELS}, 8, 8] a, float[batch, {CHANNELS}, 8, 8] b)
        => (float[batch, {CHANNELS}, 8, 8] out) {{
            feature = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (a, weight)
            sum = Add (feature, b)
            out = Tanh (sum)
        }}""")
    weight = np.random.default_rng(0).normal(0, 0.02, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    onnx.save(graph, path)
    if request.param == "mnn":
        pytest.importorskip("MNN")
        return (Path(to_mnn(path, data="random").path),)
    if request.param == "split":
        report = split(path, ["a"], data="random")
        return Path(report.source), Path(report.pose)
    return (path,)


def opened(files) -> Session | SplitSession:
    return SplitSession.open(*files, threads=1) if len(files) == 2 else Session.open(*files, threads=1)


def feeds(seed: int) -> dict[str, np.ndarray]:
    """Batches of 1 to 3; each source of a split serves several poses."""
    shape = (1 + seed % 3, CHANNELS, 8, 8)
    return {
        "a": np.random.default_rng(seed % 30).standard_normal(shape, np.float32),
        "b": np.random.default_rng(1000 + seed).standard_normal(shape, np.float32),
    }


def test_four_threads_with_fifty_inputs_each_get_the_serial_answers(files):
    with opened(files) as session:
        serial = [session.run(feeds(seed))["out"] for seed in range(200)]
        start = threading.Barrier(4)

        def work(number: int) -> list[np.ndarray]:
            start.wait(30)
            return [session.run(feeds(seed))["out"] for seed in range(number, 200, 4)]

        with ThreadPoolExecutor(4) as pool:
            threaded = list(pool.map(work, range(4)))
    for number, results in enumerate(threaded):
        assert len(results) == 50
        for expected, got in zip(serial[number::4], results, strict=True):
            np.testing.assert_array_equal(got, expected)
    assert len({result.tobytes() for result in serial}) == 200


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc/self/statm")
def test_two_hundred_sessions_leave_their_memory_behind(files):
    def resident_mib(cycles: int) -> float:
        for seed in range(cycles):
            with opened(files) as session:
                session.run(feeds(seed))
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = resident_mib(20)
    assert resident_mib(200) - before < 20


def test_a_session_may_be_run_and_closed_in_threads_that_did_not_open_it(files):
    session = opened(files)
    with ThreadPoolExecutor(1) as other:
        got = other.submit(session.run, feeds(1)).result()["out"]
    np.testing.assert_array_equal(got, session.run(feeds(1))["out"])
    with ThreadPoolExecutor(1) as other:
        other.submit(session.close).result()


@pytest.mark.parametrize("ending", ["session.close()", "pass"], ids=["closed", "left open"])
def test_a_process_that_used_one_in_a_thread_ends_well_and_has_stdout_to_itself(files, ending):
    code = f"""
import sys, threading, numpy as np
from posewarp.runtime import Session, SplitSession
files = sys.argv[1:]
session = (SplitSession if len(files) == 2 else Session).open(*files)
array = np.zeros((1, {CHANNELS}, 8, 8), np.float32)
thread = threading.Thread(target=lambda: print(session.run({{"a": array, "b": array}})["out"].sum()))
thread.start()
thread.join()
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.0\n", "")
