"""Whether a mixed graph still gives the FP32 graph's results, emulated on the CPU, and samples where that does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from posewarp.export.drift import WarpDrift, coordinate_drift
from posewarp.export.emulation import emulate
from posewarp.export.execution import open_model

# 99.9 % of an output's values are this near, as a share of full scale; 255 for pictures.
TOLERANCE = {"fp16": 5e-3, "bf16": 4e-2}
MIN_COSINE = 0.997
# Of a warp's positions inside the frame; with the same flow, where only coordinate arithmetic differs.
MAX_DRIFT_PX = {"fp16": 0.05, "bf16": 0.4}
MAX_SAME_FLOW_PX = 1e-3


@dataclass(frozen=True)
class OutputParity:
    """Difference of an output of the emulated mixed graph from FP32, over all runs.

    Attributes:
        output: its name.
        p999, max, mean: of the absolute difference, in the output's units.
        psnr_db: against full scale; infinite where nothing differs.
        cosine: of the two, as vectors.
        scale: full scale: 255 for uint8, else the largest absolute value.
        limit: what ``p999`` may be.
        finite: whether all values are.
    """

    output: str
    p999: float
    max: float
    mean: float
    psnr_db: float
    cosine: float
    scale: float
    limit: float
    finite: bool

    @property
    def passed(self) -> bool:
        return self.finite and self.p999 <= self.limit and self.cosine >= MIN_COSINE

    def __str__(self) -> str:
        if not self.finite:
            return f"{self.output}: NaN or infinity"
        return (
            f"{self.output}: PSNR {self.psnr_db:.1f} dB, p99.9 {self.p999:.2g} (limit {self.limit:.2g}), "
            f"max {self.max:.2g}, cosine {self.cosine:.6f}"
        )


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        outputs: one entry an output.
        drifts: one entry a warp.
        moved: warps whose positions moved by more than they may.
    """

    outputs: tuple[OutputParity, ...]
    drifts: tuple[WarpDrift, ...]
    moved: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.moved and all(output.passed for output in self.outputs)

    def failures(self) -> str:
        """What did not pass, in one line."""
        said = [str(output) for output in self.outputs if not output.passed]
        said += [
            f"{drift.warp} samples {drift.own_flow_p999_px:.3f} px off (p99.9)"
            for drift in self.drifts
            if drift.warp in self.moved
        ]
        return "; ".join(said)


class Gate:
    """Judges mixed graphs against one FP32 graph on the same inputs; what the reference gives is computed once."""

    def __init__(
        self,
        reference: ModelProto,
        runs: Sequence[Mapping[str, np.ndarray]],
        dtype: str,
        tolerance: float | None = None,
    ):
        self.reference, self.runs, self.dtype = reference, list(runs), dtype
        self.tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
        self.expected = self._run(reference)

    def judge(self, mixed: ModelProto) -> Verdict:
        """Run a mixed graph, emulated, and compare."""
        got = self._run(emulate(mixed))
        outputs = tuple(
            self._compare(name, [run[name] for run in got], [run[name] for run in self.expected])
            for name in self.expected[0]
        )
        # Of one run: it is every position of a picture.
        drifts = tuple(coordinate_drift(self.reference, mixed, self.runs[:1]))
        moved = tuple(
            drift.warp
            for drift in drifts
            if (drift.own_flow_p999_px or 0) > MAX_DRIFT_PX[self.dtype]
            or (drift.same_flow_p999_px or 0) > MAX_SAME_FLOW_PX
        )
        return Verdict(outputs, drifts, moved)

    def _run(self, model: ModelProto) -> list[dict[str, np.ndarray]]:
        with open_model(model) as session:
            return [session.run(feeds) for feeds in self.runs]

    def _compare(self, name: str, got: list[np.ndarray], expected: list[np.ndarray]) -> OutputParity:
        is_picture = expected[0].dtype == np.uint8
        first, second = (np.concatenate([x.ravel() for x in xs]).astype(np.float64) for xs in (got, expected))
        finite = bool(np.isfinite(first).all())
        apart = np.abs(first - second) if finite else np.full(1, np.inf)
        scale = 255.0 if is_picture else float(np.abs(second).max(initial=0)) or 1.0
        norms = np.linalg.norm(first) * np.linalg.norm(second)
        power = float(np.mean(apart**2)) if apart.size else 0.0
        return OutputParity(
            output=name,
            p999=float(np.quantile(apart, 0.999)) if apart.size else 0.0,
            max=float(apart.max(initial=0)),
            mean=float(apart.mean()) if apart.size else 0.0,
            psnr_db=10 * np.log10(scale**2 / power) if power else np.inf,
            cosine=float(first @ second / norms) if norms and finite else float(finite),
            scale=scale,
            limit=max(self.tolerance * scale, 1.0 if is_picture else 0.0),
            finite=finite,
        )
