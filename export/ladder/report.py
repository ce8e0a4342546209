"""What a comparison of two rungs found, for people and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from posewarp.export.ladder.divergence import Divergence
from posewarp.export.ladder.drift import WarpDrift
from posewarp.export.ladder.measures import OutputMeasures, Tolerance
from posewarp.runtime.errors import ParityError
from posewarp.runtime.sidecar import NOT_EXECUTED

FORMAT = 1


@dataclass(frozen=True)
class CaseResult:
    """One run.

    Attributes:
        sizes: of the dynamic axes, by name.
        outputs: differences, one entry an output.
    """

    sizes: Mapping[str, int]
    outputs: tuple[OutputMeasures, ...]

    @property
    def label(self) -> str:
        return ", ".join(f"{axis} {size}" for axis, size in self.sizes.items()) or "one run"


@dataclass(frozen=True)
class ParityReport:
    """Two rungs, side by side.

    Attributes:
        reference, candidate: what each is, and of which file.
        dtype: whose tolerances hold: ``fp32``, ``fp16`` or ``bf16``.
        tolerance: these.
        data: what the inputs were.
        cases: the runs.
        warps: movement of each warp's positions; none where a rung has no graph, or no warp.
        divergence: the first tensor that differs too much, if it was asked for and there is one.
        notes: what a reader must know.
        not_executed: why a rung could not run here; None if both ran.
    """

    reference: str
    candidate: str
    dtype: str
    tolerance: Tolerance
    data: str
    cases: tuple[CaseResult, ...] = ()
    warps: tuple[WarpDrift, ...] = ()
    divergence: Divergence | None = None
    notes: tuple[str, ...] = ()
    not_executed: str | None = None

    @property
    def failures(self) -> list[str]:
        """What is beyond its limit, a line each."""
        found = [
            f"{output.output} at {case.label}: {failure}"
            for case in self.cases
            for output in case.outputs
            for failure in output.failures
        ]
        for warp in self.warps:
            for kind, moved, limit in (
                ("with equal flows, max", warp.same_flow_max_px, self.tolerance.same_flow_px),
                ("with its own flow, p99.9", warp.own_flow_p999_px, self.tolerance.own_flow_px),
            ):
                if moved is not None and not moved <= limit:
                    found.append(f"warp {warp.warp} samples {moved:.3g} px off {kind} (limit {limit:g} px)")
        return found

    @property
    def status(self) -> str:
        """``passed``, ``failed`` or ``not executed``."""
        if self.not_executed is not None or not self.cases:
            return NOT_EXECUTED
        return "failed" if self.failures else "passed"

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def to_json(self) -> str:
        """Strict JSON: what is infinite or no number is a string, ``inf`` or ``nan``."""
        data = {"format": FORMAT, "status": self.status, "failures": self.failures, **asdict(self)}
        return json.dumps(plain(data), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ParityReport:
        """Read what ``to_json`` wrote.

        Raises: ParityError if it is something else.
        """
        try:
            data = json.loads(text)
            kept = {entry.name: data[entry.name] for entry in fields(cls)}
            divergence = kept["divergence"]
            return cls(
                **kept
                | {
                    "tolerance": _typed(Tolerance, kept["tolerance"]),
                    "cases": tuple(
                        CaseResult(
                            case["sizes"], tuple(_typed(OutputMeasures, output) for output in case["outputs"])
                        )
                        for case in kept["cases"]
                    ),
                    "warps": tuple(_typed(WarpDrift, warp) for warp in kept["warps"]),
                    "divergence": divergence and _typed(Divergence, divergence),
                    "notes": tuple(kept["notes"]),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ParityError(f"this is no report of parity: {type(exc).__name__}: {exc}") from exc

    def __str__(self) -> str:
        lines = [f"{self.reference} -> {self.candidate}: {self.status}"]
        if self.not_executed is not None:
            return "\n".join([*lines, f"  {self.not_executed}", *(f"  {note}" for note in self.notes)])
        lines.append(f"  inputs: {self.data}; tolerances of {self.dtype}")
        lines += [f"  {output_line(case.label, output)}" for case in self.cases for output in case.outputs]
        lines += [f"  {drift_line(warp)}" for warp in self.warps]
        if self.divergence is not None:
            lines.append(f"  {self.divergence}")
        return "\n".join(
            [*lines, *(f"  {note}" for note in self.notes), *(f"  FAILED {f}" for f in self.failures)]
        )


def output_line(label: str, output: OutputMeasures) -> str:
    """One line of a report on an output."""
    if output.non_finite:
        return f"{output.output}, {label}: {output.non_finite} values are NaN or infinite"
    ssim = "" if output.ssim is None else f", SSIM {output.ssim:.5f}"
    psnr = "equal" if math.isinf(output.psnr_db) else f"PSNR {output.psnr_db:.1f} dB"
    return (
        f"{output.output}, {label}: {psnr}{ssim}, cosine {output.cosine:.6f}, max {output.max_abs:.2g} "
        f"({output.steps:.2g} of 255), p99.9 {output.p999_abs:.2g}, mean {output.mean_abs:.2g}"
    )


def drift_line(warp: WarpDrift) -> str:
    """One line of a report on a warp."""

    def px(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.2g} px"

    said = (
        f"warp {warp.warp}: equal flows p99.9 {px(warp.same_flow_p999_px)}, max {px(warp.same_flow_max_px)}; "
        f"own flow p99.9 {px(warp.own_flow_p999_px)}, max {px(warp.own_flow_max_px)}"
    )
    return f"{said} ({warp.note})" if warp.note else said


def plain(value: Any) -> Any:
    """For strict JSON: numbers that it does not have, as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def _typed(kind: type, data: Mapping[str, Any]) -> Any:
    """A dataclass of ours from plain JSON."""
    special = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
    numbers = {entry.name for entry in fields(kind) if "float" in str(entry.type)}
    values = {key: special.get(each, each) if key in numbers else each for key, each in data.items()}
    return kind(**{key: tuple(each) if isinstance(each, list) else each for key, each in values.items()})
