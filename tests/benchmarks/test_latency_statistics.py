"""The harness's statistics: percentiles of calls that were made, intervals that hold the truth, drift that is seen."""

from __future__ import annotations

import numpy as np
import pytest

from posewarp.benchmarks.harness.statistics import drift, paired_ratio, percentiles, unpaired_ratio


def test_percentiles_of_a_hundred():
    assert percentiles(list(range(1, 101))) == (50.5, 91, 96, 100)


def test_percentiles_of_one_call_are_that_call():
    assert percentiles([7.0]) == (7.0,) * 4


def test_paired_interval_is_narrow_where_drift_hits_both():
    rng = np.random.default_rng(0)
    machine = np.linspace(1.0, 2.0, 20)  # twice as slow in the end
    fast = 10 * machine * rng.normal(1, 0.005, 20)
    slow = 13 * machine * rng.normal(1, 0.005, 20)
    paired, unpaired = paired_ratio(slow, fast), unpaired_ratio(slow, fast)
    assert paired.low <= 1.3 * 1.02
    assert paired.high >= 1.3 * 0.98
    assert paired.high - paired.low < 0.25 * (unpaired.high - unpaired.low)


def test_interval_holds_the_truth_in_most_runs():
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(60):
        fast, slow = rng.normal(10, 0.5, 15), rng.normal(12, 0.5, 15)
        ratio = paired_ratio(slow, fast, seed)
        held += ratio.low <= 1.2 <= ratio.high
    assert held >= 52  # of a 95 % interval 57, less what few rounds cost a bootstrap


def test_paired_rounds_must_be_equally_many():
    with pytest.raises(ValueError, match="3 rounds beside 2"):
        paired_ratio([1, 2, 3], [1, 2])


def test_steady_rounds_are_stationary():
    change, stationary = drift(list(np.random.default_rng(2).normal(10, 0.2, 20)))
    assert stationary
    assert abs(change) < 0.05


def test_slowing_rounds_are_not_stationary():
    change, stationary = drift(list(np.linspace(10, 15, 20)))
    assert not stationary
    assert change == pytest.approx(0.22, abs=0.03)


def test_two_rounds_tell_nothing_of_drift():
    assert drift([1.0, 9.0]) == (0.0, True)
