"""Bisection over nodes, with tests that know the answer."""

import pytest

from posewarp.export.precision.search import smallest_set

NODES = [f"n{i}" for i in range(40)]


def counted(needed):
    tests = []

    def passes(held):
        tests.append(held)
        return set(needed) <= held

    return passes, tests


@pytest.mark.parametrize("needed", [["n0"], ["n17"], ["n39"], ["n3", "n4"], ["n2", "n36"], []])
def test_few_nodes_are_found_among_many(needed):
    passes, tests = counted(needed)
    assert smallest_set(NODES, passes, budget=60) == set(needed)
    assert len(tests) <= 60


def test_the_budget_is_kept_and_what_is_found_passes():
    passes, tests = counted(["n2", "n36"])
    found = smallest_set(NODES, passes, budget=5)
    assert len(tests) <= 5
    assert {"n2", "n36"} <= found


def test_nothing_is_found_where_all_nodes_do_not_help():
    assert smallest_set(NODES, lambda _: False, budget=20) is None
