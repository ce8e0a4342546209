"""The harness's processes: what is timed is the call alone, and whatever ends a worker is one line."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from posewarp.benchmarks.harness.process import Worker, WorkerError
from posewarp.benchmarks.harness.worker import Job

STUBS = Path(__file__).with_name("latency_stubs.py")
LIMITS = (60.0, 60.0, 60.0)


def opened(name: str, limits=LIMITS) -> Worker:
    worker = Worker(1, limits)
    try:
        worker.open(f"{STUBS}:{name}", "", Job())
    except BaseException:
        worker.close()
        raise
    return worker


def test_sleep_of_20_ms_reads_20_to_25_ms():
    with closing(opened("sleeper")) as worker:
        worker.bind({})
        worker.settle(1)
        turn = worker.time(0.5)
    # The quickest: on a busy machine a sleep may take longer, never less.
    assert 20 <= min(turn.calls_ms) < 25
    assert turn.wall_s >= 0.5
    assert sum(turn.calls_ms) == pytest.approx(turn.wall_s * 1e3, rel=0.05)


def test_opening_and_first_run_are_told_apart_from_calls():
    with closing(Worker(1)) as worker:
        name, load_s = worker.open(f"{STUBS}:sleeper", "", Job())
        first_ms, _ = worker.bind({})
    assert name == "stub 1.0 on cpu"
    assert load_s >= 0.3
    assert first_ms >= 320


def test_two_callers_sleep_at_a_time():
    with closing(opened("sleeper")) as worker:
        worker.bind({})
        worker.settle(2)
        turn = worker.time(0.5)
    assert len(turn.calls_ms) * 20 > 1.4 * turn.wall_s * 1e3


def test_peak_memory_is_the_workers_own():
    ballast = bytearray(200 * 2**20)  # of this process: a peak taken over from it would show
    with closing(opened("sleeper")) as worker:
        peak_mib, gpu_mib = worker.memory()
    assert 10 < peak_mib < 180
    assert gpu_mib == 0
    del ballast


@pytest.mark.parametrize(
    ("stub", "message"),
    [
        ("fails_to_open", "^the stub does not open; open another$"),
        ("out_of_memory", "^MemoryError: no room$"),
        ("not_there", "^AttributeError: .*not_there"),
    ],
)
def test_error_in_a_worker_is_one_line(stub, message):
    with pytest.raises(WorkerError, match=message):
        opened(stub)


@pytest.mark.parametrize(
    ("stub", "message"),
    [
        ("crashes", "SIGSEGV; it last said: .*last words"),
        ("is_killed", "SIGKILL, as the system does when memory"),
    ],
)
def test_end_of_a_worker_is_one_line(stub, message):
    with closing(opened(stub)) as worker, pytest.raises(WorkerError, match=message):
        _run_until_it_ends(worker)


def _run_until_it_ends(worker):
    worker.bind({})
    for _ in range(5):
        worker.time(0.0)


def test_worker_that_hangs_is_ended():
    with (
        closing(opened("hangs", (60.0, 0.5, 60.0))) as worker,
        pytest.raises(WorkerError, match=r"bind took more than 0\.5 s"),
    ):
        worker.bind({})


def test_request_after_the_end_is_a_line_too():
    with closing(opened("is_killed")) as worker:
        for _ in range(2):
            with pytest.raises(WorkerError, match="SIGKILL"):
                worker.bind({})
