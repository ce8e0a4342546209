"""Rows, the JSON lines that keep them, and two runs side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from posewarp.benchmarks.harness.statistics import Ratio, unpaired_ratio
from posewarp.runtime.errors import DataError
from posewarp.runtime.files import atomic_write

FORMAT = 1
MEASURED, NOT_MEASURED, WRONG, FAILED = "measured", "not measured", "wrong", "failed"
# Between two runs of the same code on one quiet machine medians moved by up to this much, their intervals apart.
MARGIN = 0.10


@dataclass(frozen=True)
class Row:
    """One contender at one batch and concurrency. What was not measured is None, never NaN.

    Attributes:
        network, model_sha256: what was run, and of which file it was made.
        contender, device, dtype, host_copies, cuda_graph: how; the contender's label says all of it.
        batch, callers: images a call, and calls at a time.
        status: ``measured``, ``not measured``, ``wrong`` or ``failed``.
        reason: of any other status than ``measured``.
        library: what ran, with its version.
        threads: of the CPU.
        calls: how many were timed.
        median_ms, p90_ms, p95_ms, p99_ms: of single calls.
        per_second: images.
        rounds_ms: the median of each round.
        drift: how much slower the second half of the rounds was than the first; ``stationary`` if that is noise.
        load_s, first_run_ms: to open, and the first call, compilation included.
        peak_mib, gpu_mib: the worker's memory, at its peak so far; and what it took of the GPU.
        max_abs: largest difference from the reference, in the output's unit.
        gflop, mb: of a run (see limits.py), with the machine's rates in the same rounds.
        limit_ms, share: the shortest time by these, and its share of the median; with Winograd it may pass 1.
        speedup: median of the baseline over this one's, with its 95 % interval.
    """

    network: str
    model_sha256: str
    contender: str
    device: str
    dtype: str
    host_copies: bool
    cuda_graph: bool
    batch: int
    callers: int
    status: str = NOT_MEASURED
    reason: str = ""
    library: str = ""
    threads: int | None = None
    calls: int | None = None
    median_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    per_second: float | None = None
    rounds_ms: tuple[float, ...] = ()
    drift: float | None = None
    stationary: bool | None = None
    load_s: float | None = None
    first_run_ms: float | None = None
    peak_mib: float | None = None
    gpu_mib: float | None = None
    max_abs: float | None = None
    gflop: float | None = None
    mb: float | None = None
    gemm_gflops: float | None = None
    copy_gb_s: float | None = None
    limit_ms: float | None = None
    share: float | None = None
    speedup: Ratio | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal in two runs where both measured the same thing."""
        return self.model_sha256, self.contender, self.batch, self.callers

    @property
    def heat(self) -> tuple[object, ...]:
        """Equal for rows that were measured in the same rounds."""
        return self.model_sha256, self.network, self.batch, self.callers


@dataclass
class Run:
    """A run: where it was made, and its rows.

    Attributes:
        machine: what must be equal for a comparison (see machine.py).
        surroundings: commit, versions and load.
        settings: rounds, length of a turn, and what the inputs were.
    """

    machine: Mapping[str, Any]
    surroundings: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write one JSON object a line, the run's own first."""
        head = {"format": FORMAT, **{name: getattr(self, name) for name in _HEAD}}
        lines = [json.dumps(entry, allow_nan=False) for entry in (head, *map(asdict, self.rows))]
        with atomic_write(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n")


_HEAD = ("machine", "surroundings", "settings")


def load(path: Path) -> Run:
    """Read what ``save`` wrote.

    Raises: DataError if it is something else.
    """
    try:
        lines = path.read_text().splitlines()
        if not lines:
            raise DataError(f"{path} is empty: no run of latency.py was saved in it")
        head, *rows = map(json.loads, lines)
        if head["format"] != FORMAT:
            raise DataError(f"{path} has format {head['format']}, expected {FORMAT}; measure it again")
        return Run(*(head[name] for name in _HEAD), [_row(entry) for entry in rows])
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{path} is no run of latency.py: {type(exc).__name__}: {exc}") from exc


def _row(entry: Mapping[str, Any]) -> Row:
    kept = {each.name: entry[each.name] for each in fields(Row)}
    kept |= {"rounds_ms": tuple(kept["rounds_ms"]), "speedup": kept["speedup"] and Ratio(*kept["speedup"])}
    return Row(**kept)


@dataclass(frozen=True)
class Comparison:
    """A row beside the same row of a saved run.

    Attributes:
        row, saved: both.
        change: median of this run over the saved one's, with its 95 % interval.
        machine: how much slower the machine itself was, by its GEMM or copy rate, whichever fell more; 1 if neither.
    """

    row: Row
    saved: Row
    change: Ratio
    machine: float

    @property
    def regressed(self) -> bool:
        """Slower beyond noise: the whole interval, the machine's own change taken off, lies above the margin."""
        return self.change.low / self.machine > 1 + MARGIN

    def __str__(self) -> str:
        machine = f"; the machine itself {self.machine:.2f} times slower" if self.machine > 1 else ""
        return (
            f"{self.row.network}, {self.row.contender}, batch {self.row.batch}, callers {self.row.callers}: "
            f"{self.saved.median_ms:.2f} -> {self.row.median_ms:.2f} ms, {self.change.value:.2f} times "
            f"({self.change.low:.2f} to {self.change.high:.2f}){machine}"
        )


def compare(run: Run, saved: Run) -> tuple[list[Comparison], list[str]]:
    """Rows of both runs, of the same machine, model and versions.

    Returns: the comparisons, and a line for each row of either that was skipped.
    """
    differing = [
        f"{name} is {run.machine.get(name)}, was {saved.machine.get(name)}"
        for name in {**saved.machine, **run.machine}
        if run.machine.get(name) != saved.machine.get(name)
    ]
    if differing:
        return [], [f"all rows: another machine ({'; '.join(differing)})"]
    old = {row.key: row for row in saved.rows}
    pairs, skipped = [], []
    for row in run.rows:
        before = old.pop(row.key, None)
        if reason := _incomparable(row, before):
            skipped.append(f"{_name(row)}: {reason}")
        else:
            change = unpaired_ratio(row.rounds_ms, before.rounds_ms)
            pairs.append(Comparison(row, before, change, max(_slower(row, before))))
    return pairs, skipped + [f"{_name(row)}: only in the saved run" for row in old.values()]


def _incomparable(row: Row, before: Row | None) -> str | None:
    if before is None:
        return "not in the saved run, or of another model"
    for one, name in ((row, "in this run"), (before, "in the saved run")):
        if one.status != MEASURED:
            return f"{one.status} {name}"
    if (row.library, row.threads) != (before.library, before.threads):
        return f"{row.library}, {row.threads} threads; was {before.library}, {before.threads} threads"
    return None


def _slower(row: Row, before: Row) -> Iterator[float]:
    yield 1.0
    for name in ("gemm_gflops", "copy_gb_s"):
        now, then = getattr(row, name), getattr(before, name)
        if now and then:
            yield then / now


def _name(row: Row) -> str:
    return f"{row.network}, {row.contender}, batch {row.batch}, callers {row.callers}"


def refusals(rows: Sequence[Row]) -> list[str]:
    """A line for each row that was wrong or failed."""
    return [f"{_name(row)}: {row.status}: {row.reason}" for row in rows if row.status in (WRONG, FAILED)]
