"""The process of one contender: pools and memory of contenders do not disturb each other, and a crash is one row.

The worker reads pickled requests from stdin and writes pickled replies; what libraries print
goes to stderr. It ends when its stdin ends, so that it does not outlive its parent.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from posewarp.runtime.errors import DataError, PosewarpError

_WORST_LINES = 300  # characters of a message: a compiler's would fill pages


@dataclass(frozen=True)
class Job:
    """How a contender is to run.

    Attributes:
        threads: of the CPU.
        device: ``cpu`` or ``cuda``.
        dtype: ``fp32``, ``fp16`` or ``bf16``.
        host_copies: whether inputs come from, and outputs go to, the host's memory in each call.
        cuda_graph: whether a call replays a CUDA graph.
        contract: an ONNX file that says what the model takes and gives.
    """

    threads: int = 1
    device: str = "cpu"
    dtype: str = "fp32"
    host_copies: bool = True
    cuda_graph: bool = False
    contract: str | None = None


class Bound(NamedTuple):
    """Inputs bound to a model: a call that returns when all its work is done, and the last call's outputs."""

    call: Callable[[], object]
    outputs: Callable[[], Mapping[str, np.ndarray]]


class Runner(Protocol):
    """An opened contender; ``name`` is the library and its version, and the device it really took."""

    name: str

    def bind(self, feeds: Mapping[str, np.ndarray]) -> Bound: ...


class Timed(NamedTuple):
    """One turn: milliseconds of each call, and seconds that the turn took."""

    calls_ms: list[float]
    wall_s: float


def load_factory(entry: str) -> Callable[[str, Job], Runner]:
    """The function that opens a contender: ``package.module:function`` or ``path/to/file.py:function``."""
    source, _, name = entry.rpartition(":")
    if not source.endswith(".py"):
        return getattr(importlib.import_module(source), name)
    spec = importlib.util.spec_from_file_location(f"_posewarp_contender_{Path(source).stem}", source)
    if spec is None or not Path(source).is_file():
        raise DataError(f"contender {entry}: {source} does not exist")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


class _Served:
    """What a parent may ask for."""

    def __init__(self) -> None:
        self.bound: list[Bound] = []
        self.gpu_taken = 0

    def open(self, entry: str, file: str, job: Job) -> tuple[str, float]:
        """Returns: the runner's name, and seconds from import to ready."""
        started = time.perf_counter()
        self.runner = load_factory(entry)(file, job)
        return self.runner.name, time.perf_counter() - started

    def bind(self, feeds: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        """Bind inputs; returns milliseconds of the very first call, and its outputs."""
        self.feeds, self.bound = feeds, []  # what the last batch took goes first
        started = time.perf_counter()
        first = self.runner.bind(feeds)
        first.call()
        elapsed_ms = (time.perf_counter() - started) * 1e3
        self.bound = [first]
        return elapsed_ms, {name: np.asarray(value) for name, value in first.outputs().items()}

    def settle(self, callers: int) -> None:
        """Bind for further callers, and call each twice: captures, autotuning and caches settle."""
        self.bound += [self.runner.bind(self.feeds) for _ in range(callers - 1)]
        for each in self.bound:
            each.call()
            each.call()

    def time(self, seconds: float) -> Timed:
        """A turn of about ``seconds``, after one call that is not timed."""
        if len(self.bound) == 1:
            call = self.bound[0].call
            call()  # the other contenders' turns have emptied the caches
            started = time.perf_counter()
            samples = _time_calls(call, seconds)
            return Timed(samples, time.perf_counter() - started)
        samples_of: list[list[float]] = [[] for _ in self.bound]
        errors: list[Exception] = []

        def caller(index: int) -> None:
            try:
                samples_of[index] = _time_calls(self.bound[index].call, seconds)
            except Exception as exc:
                errors.append(exc)

        threads = [threading.Thread(target=caller, args=(index,)) for index in range(len(self.bound))]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return Timed([ms for samples in samples_of for ms in samples], time.perf_counter() - started)

    def memory(self) -> tuple[float, float]:
        """MiB: the process's largest resident size so far; and of the GPU, what this worker has taken."""
        return _peak_mib(), self.gpu_taken / 2**20


def _time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    samples, end = [], time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        samples.append((now - start) * 1e3)
        if now >= end:
            return samples


def _peak_mib() -> float:
    try:
        # Not getrusage, whose peak may be the parent's from before exec.
        line = next(row for row in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in row)
        return int(line.split()[1]) / 2**10
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _gpu_free() -> int:
    """Bytes of the GPU that nobody has taken; 0 without one."""
    from cuda.bindings import runtime

    status, free, _ = runtime.cudaMemGetInfo()
    return free if status == runtime.cudaError_t.cudaSuccess else 0


def serve() -> None:
    """Be the worker."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print on stdout
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    served, on_gpu = _Served(), False
    while True:
        try:
            method, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        try:
            if method == "open":
                on_gpu = arguments[2].device == "cuda"
            # Workers take turns, so what the card lacks after a request is what this one took.
            free = _gpu_free() if on_gpu else 0
            reply = (True, getattr(served, method)(*arguments))
            if on_gpu:
                served.gpu_taken += free - _gpu_free()
        except Exception as exc:  # a library may raise anything
            text = " ".join(str(exc).split())[:_WORST_LINES]
            reply = (False, text if isinstance(exc, PosewarpError) else f"{type(exc).__name__}: {text}")
        pickle.dump(reply, replies)
        replies.flush()
    os._exit(0)  # not through the libraries' destructors, some of which crash
