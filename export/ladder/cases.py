"""At which batches and sizes two rungs are compared, and the inputs of each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from posewarp.export.engines.profiles import KINDS, Profile, Shapes, make_profiles
from posewarp.export.ladder.sample_data import Feeds, fixed_batch, load_inputs
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import DataError

DEFAULT_BATCHES = (1, 3)
_RECORDED = (".npz", ".json")


@dataclass(frozen=True)
class Case:
    """One run: its inputs, and what it is called by.

    Attributes:
        sizes: of the dynamic axes, by name; of the batch, where that is fixed.
        feeds: the inputs, by name.
    """

    sizes: dict[str, int]
    feeds: Feeds


def make_cases(
    contract: Contract,
    data: str | Path | None,
    batches: Sequence[int] | None,
    profile: Profile | None,
) -> tuple[list[Case], list[str]]:
    """Choose the runs, and load their inputs.

    Batches come at the most used size. Where further axes are dynamic, their smallest, largest and middle size
    follow, with the profile's own batch if there is one. Recorded inputs come in the sizes that they have.

    Args:
        contract: of the rung with the fewer dynamic axes.
        data: see ``sample_data``.
        batches: None for 1 and 3, as far as model and recorded data allow.
        profile: of an engine, or None for what ``profiles.make_profiles`` takes by default.

    Returns: the runs, the first batches first; and notes on what was left out.
    Raises: DataError if inputs cannot be had; ContractError if the size of an axis is not known.
    """
    fixed, firsts = fixed_batch(contract), _first_axes(contract)
    notes: list[str] = []
    if fixed is not None and batches is None:
        batches = [fixed]
        notes.append(f"the batch is fixed at {fixed}: no other was compared")
    if Path(str(data)).suffix in _RECORDED:
        usual, *corners = [{}]
    else:
        usual, *corners = _sizes(contract, profile)
    runs = [(_within(profile, firsts, contract, batch), usual) for batch in batches or DEFAULT_BATCHES]
    runs += [(corner.get(min(firsts, default=""), runs[0][0]), corner) for corner in corners]
    cases: list[Case] = []
    for batch, sizes in runs:
        try:
            case = _load(contract, data, batch, {**sizes, **dict.fromkeys(firsts, batch)})
        except DataError as exc:
            if batches is not None or batch != DEFAULT_BATCHES[1]:
                raise
            notes.append(f"batch {batch} was not compared: {exc}")
            with suppress(DataError):
                cases.append(_load(contract, data, 2, dict.fromkeys(firsts, 2)))
            continue
        if case.sizes not in [other.sizes for other in cases]:
            cases.append(case)
    return cases, notes


def _load(contract: Contract, data: str | Path | None, batch: int, sizes: dict[str, int]) -> Case:
    (feeds,) = load_inputs(data, contract, batch=batch, size=sizes)
    return Case(_sizes_of(contract, feeds), feeds)


def recorded_cases(contract: Contract, feeds: Sequence[Feeds]) -> list[Case]:
    """The runs that were recorded, as they were."""
    return [Case(_sizes_of(contract, each), contract.prepare(each)) for each in feeds]


def _first_axes(contract: Contract) -> set[str]:
    """Names of the dynamic batch."""
    return {axis for spec in contract.inputs for axis in spec.shape[:1] if isinstance(axis, str)}


def _within(profile: Profile | None, firsts: set[str], contract: Contract, batch: int) -> int:
    """The batch brought into the profile."""
    for spec in contract.inputs:
        if profile and spec.shape and spec.shape[0] in firsts and spec.name in profile:
            batch = min(max(batch, profile[spec.name]["min"][0]), profile[spec.name]["max"][0])
    return batch


def _sizes(contract: Contract, profile: Profile | None) -> list[dict[str, int]]:
    """Sizes of the dynamic axes: most used, smallest, largest, middle; of the batch too, in a given profile."""
    firsts = _first_axes(contract)
    axes = {axis for spec in contract.inputs for axis in spec.shape if isinstance(axis, str)}
    if profile is None and axes <= firsts:
        return [{}]
    chosen = profile or make_profiles(contract, Shapes())[0]
    by_kind: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    for spec in contract.inputs:
        for kind, shape in chosen.get(spec.name, {}).items():
            by_kind[kind].update(
                (axis, size)
                for axis, size in zip(spec.shape, shape, strict=True)
                if isinstance(axis, str) and (profile or axis not in firsts)
            )
    least, usual, most = (by_kind[kind] for kind in KINDS)
    step = contract.settings.get("size_multiple", 1)
    middle = {
        axis: max((size + most[axis]) // 2 // step * step, size)
        if axis not in firsts
        else (size + most[axis]) // 2
        for axis, size in least.items()
    }
    return [usual, least, most, middle]


def _sizes_of(contract: Contract, feeds: Feeds) -> dict[str, int]:
    named = {
        axis: size
        for spec in contract.inputs
        for axis, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }
    fixed = fixed_batch(contract)
    return named if fixed is None else {"batch": fixed, **named}
