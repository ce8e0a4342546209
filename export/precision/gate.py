"""Whether a mixed graph still gives the FP32 graph's results, emulated on the CPU, and samples where that does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from posewarp.export.graphs.execution import open_model
from posewarp.export.ladder.drift import WarpDrift, coordinate_drift
from posewarp.export.ladder.measures import TOLERANCES, OutputMeasures, measure_output
from posewarp.export.ladder.sample_data import read_contract
from posewarp.export.precision.emulation import emulate


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        outputs: one entry an output, of its worst run.
        drifts: one entry a warp.
        moved: warps whose positions moved by more than they may.
    """

    outputs: tuple[OutputMeasures, ...]
    drifts: tuple[WarpDrift, ...]
    moved: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.moved and all(output.passed for output in self.outputs)

    def failures(self) -> str:
        """What did not pass, in one line."""
        said = [
            f"{output.output}: {', '.join(output.failures)}" for output in self.outputs if not output.passed
        ]
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
        """
        Args:
            reference: FP32.
            runs: inputs by name.
            dtype: ``fp16`` or ``bf16``, whose tolerances are taken.
            tolerance: instead of the absolute and relative one (see ``measures.Tolerance``).
        """
        self.reference, self.runs, self.dtype = reference, list(runs), dtype
        self.tolerance = TOLERANCES[dtype]
        if tolerance is not None:
            self.tolerance = replace(self.tolerance, atol=tolerance, rtol=tolerance)
        # A picture in [-1, 1] has full scale 2, however dark it is.
        self._full_scale = 2.0 if read_contract(reference).io == "tensors" else None
        self.expected = self._run(reference)

    def drifts(self, mixed: ModelProto) -> tuple[WarpDrift, ...]:
        """How far a mixed graph moves each warp's positions; of one run, which is every position of a picture."""
        return tuple(coordinate_drift(self.reference, mixed, self.runs[:1]))

    def moved(self, drifts: Sequence[WarpDrift]) -> tuple[str, ...]:
        """The warps whose positions moved by more than they may."""
        return tuple(
            drift.warp
            for drift in drifts
            if not (drift.own_flow_p999_px or 0) <= self.tolerance.own_flow_px  # so that NaN fails
            or not (drift.same_flow_p999_px or 0) <= self.tolerance.same_flow_px
        )

    def judge(self, mixed: ModelProto, drifts: Sequence[WarpDrift] | None = None) -> Verdict:
        """Run a mixed graph, emulated, and compare.

        Args:
            mixed: the graph.
            drifts: its drifts, where these are known.
        """
        got = self._run(emulate(mixed))
        outputs = tuple(self._compare(name, got) for name in self.expected[0])
        drifts = self.drifts(mixed) if drifts is None else tuple(drifts)
        return Verdict(outputs, drifts, self.moved(drifts))

    def _run(self, model: ModelProto) -> list[dict[str, np.ndarray]]:
        with open_model(model) as session:
            return [session.run(feeds) for feeds in self.runs]

    def _compare(self, name: str, got: Sequence[Mapping[str, np.ndarray]]) -> OutputMeasures:
        measured = [
            measure_output(name, run[name], expected[name], self.tolerance, self._full_scale)
            for run, expected in zip(got, self.expected, strict=True)
        ]
        return max(measured, key=lambda each: (not each.passed, each.worst))
