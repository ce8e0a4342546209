"""Engines, over a fake TensorRT on a fake GPU that finds leaks, races, stale graphs and missing waits."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.tensorrt import expected


def feeds(batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(batch, 3)).astype(np.float32),
        "k": rng.normal(size=(batch, 2)).astype(np.float32),
    }


def check(results, given):
    wanted = expected(**given)
    assert results.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(results[name], value)


EDITIONS = pytest.mark.parametrize("edition", ["tensorrt", "tensorrt_rtx", "tensorrt_lean"], indirect=True)


@EDITIONS
def test_each_edition_runs_a_plan_without_side_car(open_plan, edition):
    with open_plan() as session:
        for seed in range(5):
            check(session.run(feeds(seed=seed)), feeds(seed=seed))
        assert session.device == "cuda"
        assert session.backend.name.startswith("TensorRT")
