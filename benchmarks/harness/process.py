"""A worker as its parent sees it: requests with a time limit; whatever ends the process is one line."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from posewarp.benchmarks.harness import worker
from posewarp.benchmarks.harness.worker import Job, Timed

# torch.compile of a large network took minutes on two cores.
OPEN_S, BIND_S, TURN_S = 300.0, 900.0, 300.0
_LAST_LINES = 3


class WorkerError(Exception):
    """A request failed, or the worker ended: why, in one line."""


class Worker:
    """A process that holds one contender.

    Args:
        threads: for the pools that are sized by the environment.
        limits: seconds that opening, binding and a turn may take, the turn's own time apart.
    """

    def __init__(self, threads: int, limits: tuple[float, float, float] = (OPEN_S, BIND_S, TURN_S)):
        pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        self._limits = limits
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (until close)
        # Compiled kernels of former runs would make the first run's time theirs.
        self._cache = tempfile.TemporaryDirectory(prefix="posewarp-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {worker.__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={
                **os.environ,
                **dict.fromkeys(pools, str(threads)),
                "PYTHONSAFEPATH": "1",  # no module of the folder that the user is in
                "TORCHINDUCTOR_CACHE_DIR": self._cache.name,
            },
        )

    def open(self, entry: str, file: str, job: Job) -> tuple[str, float]:
        """Returns: the runner's name, and seconds that it took to open."""
        return self._ask("open", (entry, file, job), self._limits[0])

    def bind(self, feeds: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        """Returns: milliseconds of the first run, and its outputs."""
        return self._ask("bind", (dict(feeds),), self._limits[1])

    def settle(self, callers: int) -> None:
        """Make ready for turns of so many calls at a time."""
        self._ask("settle", (callers,), self._limits[1])

    def time(self, seconds: float) -> Timed:
        """A turn of calls."""
        return self._ask("time", (seconds,), seconds + self._limits[2])

    def memory(self) -> tuple[float, float]:
        """Returns: MiB at the peak, and of the GPU."""
        return self._ask("memory", (), self._limits[2])

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # what was still in the buffer had no reader
                pipe.close()
        self._process.wait()
        self._stderr.close()
        self._cache.cleanup()

    def _ask(self, method: str, arguments: tuple[Any, ...], limit_s: float) -> Any:
        try:
            pickle.dump((method, arguments), self._process.stdin)
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], limit_s)[0]:
                self._process.kill()
                raise WorkerError(f"{method} took more than {limit_s:g} s, and was ended")
            done, value = pickle.load(self._process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as exc:
            raise WorkerError(self._post_mortem()) from exc
        if not done:
            raise WorkerError(value)
        return value

    def _post_mortem(self) -> str:
        code = self._process.wait()
        ended = f"its process ended with code {code}"
        if code < 0:
            ended = f"its process was ended by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                ended += ", as the system does when memory runs out"
        self._stderr.seek(0)
        said = [line.strip() for line in self._stderr if line.strip()][-_LAST_LINES:]
        return f"{ended}; it last said: {' | '.join(said) or 'nothing'}"
