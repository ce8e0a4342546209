"""Figures of timed calls: percentiles, drift over the rounds, and intervals of ratios.

Calls of one turn share the machine's state of that moment, so what is resampled is rounds, never single calls; and
where two contenders ran in the same rounds, both are resampled by the same rounds (paired bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PERCENTILES = (50, 90, 95, 99)
_RESAMPLES = 2000
# Half of a run may differ from the other by this much before it is called drift.
_DRIFT = 0.05


class Ratio(NamedTuple):
    """Of two medians, with its 95 % interval."""

    value: float
    low: float
    high: float


def percentiles(calls_ms: Sequence[float]) -> tuple[float, ...]:
    """Median, p90, p95 and p99; each is a call that was made, the next slower one where it falls between two."""
    return tuple(
        float(np.percentile(calls_ms, p, method="higher" if p > 50 else "linear")) for p in PERCENTILES
    )


def paired_ratio(over: Sequence[float], under: Sequence[float], seed: int = 0) -> Ratio:
    """Median of ``over`` to that of ``under``, both by round, of the same rounds."""
    over, under = np.asarray(over), np.asarray(under)
    if len(over) != len(under):
        raise ValueError(f"{len(over)} rounds beside {len(under)}; paired rounds are equally many")
    rounds = np.random.default_rng(seed).integers(len(over), size=(_RESAMPLES, len(over)))
    return _ratio(over, under, over[rounds], under[rounds])


def unpaired_ratio(over: Sequence[float], under: Sequence[float], seed: int = 0) -> Ratio:
    """The same, of two runs that had no round in common."""
    over, under, rng = np.asarray(over), np.asarray(under), np.random.default_rng(seed)
    drawn = (rng.choice(values, (_RESAMPLES, len(values))) for values in (over, under))
    return _ratio(over, under, *drawn)


def drift(rounds_ms: Sequence[float]) -> tuple[float, bool]:
    """Whether a run was stationary: how much slower its second half was than its first, and whether that is noise.

    Returns: the change, 0.1 for 10 % slower; and True if it is within 5 %, or its 95 % interval holds none at all.
    """
    half = len(rounds_ms) // 2
    if half < 2:
        return 0.0, True
    ratio = unpaired_ratio(rounds_ms[-half:], rounds_ms[:half])
    return ratio.value - 1, abs(ratio.value - 1) <= _DRIFT or ratio.low <= 1 <= ratio.high


def _ratio(over: np.ndarray, under: np.ndarray, over_drawn: np.ndarray, under_drawn: np.ndarray) -> Ratio:
    drawn = np.median(over_drawn, axis=1) / np.median(under_drawn, axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Ratio(float(np.median(over) / np.median(under)), float(low), float(high))
