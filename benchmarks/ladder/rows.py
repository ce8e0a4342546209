"""What was found: one row for each rung, batch and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from posewarp.benchmarks.ladder.pictures import Picture
from posewarp.export.ladder.report import ParityReport, plain

FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One rung at one batch and size.

    Attributes:
        network, contract: of what; the contract's io.
        rung, precision: by what.
        report: what was measured, by what limits.
        size, batch: of the inputs; empty and None where nothing was run.
        float64_ratio: mean error over PyTorch's own, both against float64; None where that is not known.
        float64_limit: what it may be.
        error: how a rung failed that should run here.
    """

    network: str
    contract: str
    rung: str
    precision: str
    report: ParityReport
    size: str = ""
    batch: int | None = None
    float64_ratio: float | None = None
    float64_limit: float | None = None
    error: str = ""

    @property
    def label(self) -> str:
        """Which row it is, in words."""
        at = f", {self.size}, batch {self.batch}" if self.batch else ""
        return f"{self.network} ({self.contract}), {self.rung}, {self.precision}{at}"

    @property
    def failures(self) -> list[str]:
        """What is beyond its limit, or went wrong, in words; empty if nothing is."""
        found = [self.error] if self.error else list(self.report.failures)
        ratio, limit = self.float64_ratio, self.float64_limit
        if ratio is not None and limit is not None and not ratio <= limit:
            found.append(f"mean error to float64 is {ratio:.3g} times PyTorch's (limit {limit:g})")
        return found

    @property
    def status(self) -> str:
        """``passed``, ``failed`` or ``not executed``."""
        return "failed" if self.failures else self.report.status

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the report's one case is unfolded."""
        own = asdict(self)
        report = own.pop("report")
        kept = {
            key: report[key]
            for key in ("reference", "candidate", "dtype", "tolerance", "warps", "not_executed")
        }
        outputs = report["cases"][0]["outputs"] if report["cases"] else ()
        return {**own, "status": self.status, "failures": self.failures, **kept, "outputs": outputs}


@dataclass
class Run:
    """All rows of one call of the command, and where they were measured.

    Attributes:
        machine, surroundings: see harness/machine.py.
        data: what the inputs were.
        rows, pictures: what was found.
        notes: what a reader must know besides.
        seconds: that it took.
    """

    machine: Mapping[str, Any]
    surroundings: Mapping[str, Any]
    data: str
    rows: list[Row] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def of_status(self, status: str) -> list[Row]:
        """The rows of a status."""
        return [row for row in self.rows if row.status == status]

    def to_dict(self) -> dict[str, Any]:
        """For strict JSON; the pictures are in the page alone."""
        return plain(
            {
                "format": FORMAT,
                "machine": self.machine,
                "surroundings": self.surroundings,
                "data": self.data,
                "seconds": self.seconds,
                "notes": self.notes,
                "rows": [row.to_dict() for row in self.rows],
            }
        )
