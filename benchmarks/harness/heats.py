"""Heats: all contenders of one network, batch and concurrency, in turn, round by round.

So a busy moment of the machine, or its throttling, hits all of them alike; the order changes from round to round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from posewarp.benchmarks.harness import limits
from posewarp.benchmarks.harness.contenders import BASELINE, Contender
from posewarp.benchmarks.harness.limits import Work
from posewarp.benchmarks.harness.process import Worker, WorkerError
from posewarp.benchmarks.harness.results import FAILED, MEASURED, NOT_MEASURED, WRONG, Row
from posewarp.benchmarks.harness.statistics import drift, paired_ratio, percentiles
from posewarp.benchmarks.harness.worker import Job, Timed
from posewarp.export.ladder.measures import LIBRARIES_ATOL, TOLERANCES, Tolerance, measure_output
from posewarp.runtime.errors import ParityError

Arrays = Mapping[str, np.ndarray]

_RUNTIMES = replace(TOLERANCES["fp32"], atol=LIBRARIES_ATOL)
# Threads of another worker spin for a while after they have worked.
_SETTLE_S = 0.01
_PROBE_S = 0.05


@dataclass(frozen=True)
class Pace:
    """How long is measured.

    Attributes:
        rounds: of a heat, at most.
        turn_s: of a contender in a round; a call that takes longer is one turn.
        heat_s: after which no further round begins; but three are always made.
    """

    rounds: int
    turn_s: float
    heat_s: float


_LEAST_ROUNDS = 3


@dataclass
class Entrant:
    """A contender, opened or not.

    Attributes:
        failure: why it is out: of opening, or of the heat in hand.
    """

    contender: Contender
    threads: int
    worker: Worker | None = None
    library: str = ""
    load_s: float | None = None
    failure: tuple[str, str] | None = None
    first_run_ms: float | None = None
    max_abs: float | None = None
    turns: list[Timed] = field(default_factory=list)

    def open(self) -> Entrant:
        if self.contender.missing:
            self.failure = (NOT_MEASURED, self.contender.missing)
            return self
        if self.contender.failure:
            self.failure = (FAILED, self.contender.failure)
            return self
        self.worker = Worker(self.threads)
        job = replace(self.contender.job, threads=self.threads)
        try:
            self.library, self.load_s = self.worker.open(self.contender.entry, self.contender.file, job)
        except WorkerError as exc:
            self.close()
            self.failure = (FAILED, str(exc))
        return self

    def enter(self, feeds: Arrays, expected: Arrays, callers: int) -> None:
        """Bind and validate for one heat; a failure of an earlier heat is forgotten if the worker still lives."""
        if self.worker is None:
            return
        self.failure, self.turns, self.max_abs = None, [], None
        try:
            self.first_run_ms, outputs = self.worker.bind(feeds)
            self.max_abs, problem = _validate(outputs, expected, self.contender.job.dtype)
            if problem:
                self.failure = (WRONG, problem)
            else:
                self.worker.settle(callers)
        except WorkerError as exc:
            self.failure = (FAILED, str(exc))

    def turn(self, seconds: float) -> None:
        if self.failure:
            return
        time.sleep(_SETTLE_S)
        try:
            self.turns.append(self.worker.time(seconds))
        except WorkerError as exc:
            self.failure = (FAILED, str(exc))

    @property
    def rounds_ms(self) -> tuple[float, ...]:
        return tuple(float(np.median(turn.calls_ms)) for turn in self.turns)

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def probes_for(
    contenders: Iterable[Contender], threads: int
) -> dict[tuple[str, str], tuple[Entrant, Entrant]]:
    """What measures the machine: GEMM and copy, for each device and type that a contender runs on."""
    kinds = {(each.job.device, each.job.dtype) for each in contenders if not each.missing}
    # The CPU computes FP16 files in FP32.
    kinds = {(device, "fp32" if device == "cpu" else dtype) for device, dtype in kinds}
    return {
        (device, dtype): tuple(
            Entrant(
                Contender(name, f"{limits.__name__}:{name}", "", Job(device=device, dtype=dtype)), threads
            )
            for name in ("GemmRunner", "CopyRunner")
        )
        for device, dtype in sorted(kinds)
    }


def run_heat(
    entrants: Sequence[Entrant],
    probes: Mapping[tuple[str, str], tuple[Entrant, Entrant]],
    blank: Row,
    feeds: Arrays,
    expected: Arrays,
    work: Work | None,
    pace: Pace,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Validate, then time.

    Args:
        entrants, probes: opened.
        blank: the rows' network, batch and callers.
        feeds, expected: inputs, and the outputs that are right.
        work: of one run at this batch; None where it is unknown.
        pace: how long.
        tell: called with what goes on.

    Returns: a row for each entrant, in their order.
    """
    for entrant in entrants:
        tell(f"{entrant.contender.label}: first run")
        entrant.enter(feeds, expected, blank.callers)
    meters = [probe for pair in probes.values() for probe in pair]
    for probe in meters:
        probe.enter({}, {}, 1)
    # No round is timed for probes alone.
    if any(not entrant.failure for entrant in entrants):
        order, started = np.random.default_rng(0), time.perf_counter()
        for index in range(pace.rounds):
            if index >= _LEAST_ROUNDS and time.perf_counter() - started > pace.heat_s:
                break
            tell(f"round {index + 1} of {pace.rounds}")
            everyone = [*((each, pace.turn_s) for each in entrants), *((each, _PROBE_S) for each in meters)]
            for place in order.permutation(len(everyone)):
                each, seconds = everyone[place]
                each.turn(seconds)
    rows = [_row(entrant, probes, blank, work) for entrant in entrants]
    measured = [row for row in rows if row.status == MEASURED]
    baseline = next((row for row in measured if row.contender == BASELINE), measured[0] if measured else None)
    return [
        replace(row, speedup=paired_ratio(baseline.rounds_ms, row.rounds_ms)) if row in measured else row
        for row in rows
    ]


def _row(
    entrant: Entrant,
    probes: Mapping[tuple[str, str], tuple[Entrant, Entrant]],
    blank: Row,
    work: Work | None,
) -> Row:
    job = entrant.contender.job
    row = replace(
        blank,
        contender=entrant.contender.label,
        device=job.device,
        dtype=job.dtype,
        host_copies=job.host_copies,
        cuda_graph=job.cuda_graph,
        library=entrant.library,
        threads=entrant.threads,
        load_s=entrant.load_s,
        max_abs=entrant.max_abs,
    )
    memory = None
    if not entrant.failure:
        try:
            memory = entrant.worker.memory()
        except WorkerError as exc:
            entrant.failure = (FAILED, str(exc))
    if entrant.failure:
        status, reason = entrant.failure
        return replace(row, status=status, reason=reason)
    calls_ms = [ms for turn in entrant.turns for ms in turn.calls_ms]
    median, p90, p95, p99 = percentiles(calls_ms)
    moved, stationary = drift(entrant.rounds_ms)
    row = replace(
        row,
        status=MEASURED,
        calls=len(calls_ms),
        median_ms=median,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        per_second=row.batch * len(calls_ms) / sum(turn.wall_s for turn in entrant.turns),
        rounds_ms=entrant.rounds_ms,
        drift=moved,
        stationary=stationary,
        first_run_ms=entrant.first_run_ms,
        peak_mib=memory[0],
        gpu_mib=memory[1] if job.device == "cuda" else None,
    )
    meters = probes.get((job.device, "fp32" if job.device == "cpu" else job.dtype), ())
    if work is None or not meters or any(meter.failure for meter in meters):
        return row
    gemm, copy = meters
    rates = (
        limits.gemm_gflops(float(np.median(gemm.rounds_ms)), job.device),
        limits.copy_gb_s(float(np.median(copy.rounds_ms)), job.device),
    )
    dtype = "fp32" if job.device == "cpu" else job.dtype
    limit_ms = work.limit_ms(dtype, *rates)
    return replace(
        row,
        gflop=work.flops / 1e9,
        mb=work.bytes(dtype) / 1e6,
        gemm_gflops=rates[0],
        copy_gb_s=rates[1],
        limit_ms=limit_ms,
        # By throughput: callers share the machine.
        share=limit_ms * row.per_second / row.batch / 1e3,
    )


def _validate(outputs: Arrays, expected: Arrays, dtype: str) -> tuple[float | None, str | None]:
    """Largest difference from what is right, and what is wrong; None if nothing is."""
    tolerance: Tolerance = _RUNTIMES if dtype == "fp32" else TOLERANCES[dtype]
    worst, problems = 0.0, []
    for name, reference in expected.items():
        if name not in outputs:
            return None, f"it gave no output {name}, only {', '.join(outputs)}"
        try:
            measured = measure_output(name, outputs[name], reference, tolerance)
        except ParityError as exc:
            return None, str(exc)
        if measured.non_finite:
            return None, f"output {name}: {'; '.join(measured.failures)}"
        worst = max(worst, measured.max_abs)
        problems += [f"output {name}: {failure}" for failure in measured.failures]
    return worst, "; ".join(problems) or None
