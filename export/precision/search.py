"""The fewest nodes to hold in FP32 until a test passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def smallest_set(
    candidates: Sequence[str], passes: Callable[[set[str]], bool], budget: int
) -> set[str] | None:
    """Bisect over nodes in their order, from either end, then drop what is not needed.

    The result is the smallest set that was found, not the smallest that there is: a test costs a run of the network.

    Args:
        candidates: ids of the nodes that are not held yet, in the graph's order.
        passes: whether the test passes with a set held; assumed to pass with more if it passes with fewer.
        budget: tests at most, at least 3.

    Returns: a set that passes, or None if not even all of them do.
    """
    tests = 0

    def holds(names: Sequence[str]) -> bool:
        nonlocal tests
        tests += 1
        return passes(set(names))

    if not holds(candidates):
        return None
    best = list(candidates)
    for order in (list(candidates), list(candidates)[::-1]):
        low, high = 0, min(len(order), len(best))  # too few; enough, or no better than the best
        while high - low > 1 and tests < budget:
            middle = (low + high) // 2
            if holds(order[:middle]):
                best, high = order[:middle], middle
            else:
                low = middle
    part = max(len(best) // 2, 1)
    while tests < budget:
        for start in range(0, len(best), part):
            rest = best[:start] + best[start + part :]
            if tests < budget and holds(rest):
                best = rest
                break
        else:
            if part == 1:
                break
            part //= 2
    return set(best)
