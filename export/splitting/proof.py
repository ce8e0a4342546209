"""Two parts against the whole that they were cut from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from posewarp.export.ladder.measures import distance
from posewarp.runtime.errors import ParityError
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import SplitSession

# The nodes are the whole's, so the arithmetic is too, but a runtime may fuse and lay out otherwise at the cut.
TOLERANCE = 1e-5
_STEPS = 1  # of 8 bits
_HALF = 2.0**-10  # of an fp16 output's scale: one rounding

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Of one output, over all that was compared.

    Attributes:
        output: its name.
        max_abs: largest difference, in its own unit.
        limit: what it may be.
    """

    output: str
    max_abs: float
    limit: float


def prove(whole: Session, parts: SplitSession, runs: Iterable[Feeds]) -> tuple[Difference, ...]:
    """Run parts and whole on the same inputs.

    Each batch goes through the parts as it is, and through ``parts``, which makes features one source at a time: so
    also proved is that features of single sources may be laid one behind the other.

    Raises: ParityError as ``compare``.
    """
    worst: dict[str, Difference] = {}
    for feeds in runs:
        expected = whole.run(feeds)
        features = parts.source.run({spec.name: feeds[spec.name] for spec in parts.source.contract.inputs})
        given = {
            spec.name: features.get(spec.name, feeds.get(spec.name)) for spec in parts.pose.contract.inputs
        }
        for results in ({**features, **parts.pose.run(given)}, parts.run(feeds)):
            for found in compare(results, expected, batch=len(next(iter(feeds.values())))):
                worst[found.output] = max(
                    found, worst.get(found.output, found), key=lambda d: d.max_abs / d.limit
                )
    return tuple(worst.values())


def compare(got: Feeds, expected: Feeds, batch: int) -> list[Difference]:
    """Each output of the parts beside the whole's.

    Raises: ParityError if one differs by more than 1e-5 of its scale (at least 1), or one 8-bit step.
    """
    return [_difference(name, got[name], reference, batch) for name, reference in expected.items()]


def _difference(name: str, got: np.ndarray, reference: np.ndarray, batch: int) -> Difference:
    if got.shape != reference.shape:
        raise ParityError(
            f"output {name} of the parts is {got.shape}, the whole's {reference.shape} at batch {batch}: "
            "samples do not stay apart in the features"
        )
    apart = distance(got, reference)
    largest = float(apart.max()) if apart.size else 0.0
    limit = _limit(reference)
    if not largest <= limit:
        raise ParityError(
            f"output {name} of the parts differs from the whole's by {largest:.2g} at batch {batch}, "
            f"expected at most {limit:.2g}",
            got=largest,
            expected=limit,
        )
    return Difference(name, largest, limit)


def _limit(reference: np.ndarray) -> float:
    if reference.dtype == np.uint8:
        return _STEPS
    if reference.dtype.kind != "f":
        return np.finfo(float).tiny  # equal
    finite = np.abs(reference[np.isfinite(reference)].astype(np.float64))
    scale = max(1.0, float(finite.max())) if finite.size else 1.0
    return scale * (_HALF if reference.dtype == np.float16 else TOLERANCE)
