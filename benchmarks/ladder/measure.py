"""Runs every rung on the same inputs as the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from posewarp.benchmarks.harness.networks import Network
from posewarp.benchmarks.ladder.pictures import difference_picture
from posewarp.benchmarks.ladder.reference import Reference, open_reference
from posewarp.benchmarks.ladder.rows import Row, Run
from posewarp.benchmarks.ladder.rungs import Arrays, Rung
from posewarp.export.ladder.measures import OutputMeasures, Tolerance, measure_output
from posewarp.export.ladder.report import CaseResult, ParityReport
from posewarp.export.ladder.rungs import NotExecuted
from posewarp.export.ladder.sample_data import Feeds, fixed_batch, load_inputs
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import DataError, ParityError, PosewarpError

BATCHES = (1, 3, 8)
_RECORDED = (".npz", ".json")


@dataclass(frozen=True)
class Step:
    """One run, which every rung makes.

    Attributes:
        size: height x width of our networks; of others the first input's shape without its batch.
        batch: samples.
        feeds: the inputs, by name.
        drift: whether the warps' positions are compared too; at one batch of each size.
        picture: whether a picture of the difference is kept; the same.
    """

    size: str
    batch: int
    feeds: Feeds
    drift: bool
    picture: bool


def steps_of(
    contract: Contract,
    data: str | None = None,
    batches: Sequence[int] | None = None,
    sizes: Sequence[Mapping[str, int]] | None = None,
) -> tuple[list[Step], list[str]]:
    """Every batch at every size.

    Args:
        contract: of the network.
        data: inputs (see sample_data.py).
        batches: by default 1, 3 and 8, as far as the model and recorded data allow.
        sizes: of the dynamic axes besides, by name. By default the contract's own, and where height and width are
            dynamic another one: a quarter more in height, half as much again in width, so that their ratio changes.

    Returns: the runs, and notes on what was left out.
    Raises: DataError if there are no such inputs.
    """
    fixed = fixed_batch(contract)
    asked = batches or (BATCHES if fixed is None else (fixed,))
    if Path(str(data)).suffix in _RECORDED:
        sizes = [{}]  # those that they were recorded at
    steps, notes = [], []
    for size in sizes or _default_sizes(contract):
        loaded = []
        for batch in asked:
            try:
                loaded += [(batch, *load_inputs(data, contract, batch=batch, size=size))]
            except DataError as exc:
                if batches is not None or batch == asked[0]:
                    raise
                notes.append(f"batch {batch} was not run: {exc}")
        steps += [
            Step(_size(contract, feeds), batch, feeds, place == len(loaded) // 2, place == len(loaded) - 1)
            for place, (batch, feeds) in enumerate(loaded)
        ]
    return steps, notes


def _default_sizes(contract: Contract) -> list[dict[str, int]]:
    settings = contract.settings
    step = settings.get("size_multiple")
    if step is None:
        return [{}]
    other = {"height": settings["height"] * 5 // 4, "width": settings["width"] * 3 // 2}
    return [{}, {axis: size // step * step for axis, size in other.items()}]


def _size(contract: Contract, feeds: Feeds) -> str:
    axes = {"image": slice(1, 3), "tensors": slice(2, 4)}.get(contract.io, slice(1, None))
    return "x".join(map(str, feeds[contract.inputs[0].name].shape[axes]))


def measure(
    network: Network,
    rungs: Sequence[Rung],
    steps: Sequence[Step],
    run: Run,
    folder: Path,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Run every rung on every step, and add rows and pictures to ``run``.

    Args:
        network, rungs, steps: what is run.
        run: what is added to.
        folder: for files that are made.
        tell: called with what goes on.

    Raises: PosewarpErrors of the reference. A rung's own become rows that failed.
    """
    title = f"{network.name} ({network.contract.io})"
    with open_reference(network, folder) as reference:
        tell(f"{title}: {reference.name}")
        expected = [reference.run(step.feeds) for step in steps]
        exact = _exact(reference, steps, run)
    for rung in rungs:
        tell(f"{title}: {rung.name}, {rung.precision}")
        report = ParityReport(reference.name, rung.name, rung.precision, rung.tolerance, run.data)
        row = Row(network.name, network.contract.io, rung.name, rung.precision, report)
        try:
            with rung.open() as opened:
                for step, want, truth in zip(steps, expected, exact, strict=True):
                    row = replace(row, size=step.size, batch=step.batch, report=report)
                    got = opened.run(step.feeds)
                    outputs = _outputs(network.contract, got, want, rung.tolerance)
                    case = CaseResult({"batch": step.batch}, outputs)
                    warps = tuple(opened.drift(step.feeds, want)) if step.drift else ()
                    row = replace(
                        row,
                        report=replace(report, cases=(case,), warps=warps),
                        float64_ratio=None if truth is None else _ratio(network.contract, got, want, truth),
                        float64_limit=rung.float64_limit,
                    )
                    run.rows.append(row)
                    if step.picture:
                        run.pictures += difference_picture(row.label, network.contract, got, want)
        except NotExecuted as exc:
            said = " ".join(str(exc).split())
            run.rows.append(replace(row, report=replace(report, not_executed=said)))
        except PosewarpError as exc:
            said = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
            run.rows.append(replace(row, report=report, error=said))


def _exact(reference: Reference, steps: Sequence[Step], run: Run) -> list[Arrays | None]:
    if reference.exact is None:
        return [None] * len(steps)
    try:
        return [reference.exact(step.feeds) for step in steps]
    except Exception as exc:  # a user's module that makes fp32 tensors of its own fails in its own way
        run.notes.append(f"no error to float64: {type(exc).__name__}: {exc}")
        return [None] * len(steps)


def _outputs(
    contract: Contract, got: Arrays, expected: Arrays, tolerance: Tolerance
) -> tuple[OutputMeasures, ...]:
    measured = []
    for spec in contract.outputs:
        if spec.name not in got:
            raise ParityError(f"it gives no output {spec.name!r}; it gives {', '.join(got)}")
        picture = contract.io == "tensors" and spec.name == "generated"  # in [-1, 1]
        full_scale = 2.0 if picture else None
        measured.append(measure_output(spec.name, got[spec.name], expected[spec.name], tolerance, full_scale))
    return tuple(measured)


def _ratio(contract: Contract, got: Arrays, expected: Arrays, exact: Arrays) -> float:
    """The worst output's mean error over PyTorch's own, both against float64."""
    ratios = []
    for name in (spec.name for spec in contract.outputs if spec.dtype == "float32"):
        error, own = (float(np.abs(arrays[name] - exact[name]).mean()) for arrays in (got, expected))
        ratios.append(error / own if own else (np.inf if error else 1.0))
    return max(ratios)
