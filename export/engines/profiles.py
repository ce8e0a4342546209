"""Optimisation profiles: the smallest, the most used and the largest shape of each dynamic input.

Grammar of shapes as in trtexec: ``source:1x3x256x176,keypoints:1x18x2``; a name may be in single quotes, a
scalar is ``name:`` or ``name:scalar``. Several profiles are given as several texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posewarp.runtime.contract import Contract, TensorSpec
from posewarp.runtime.errors import ContractError

Shape = tuple[int, ...]
# For each dynamic input: its shapes under ``min``, ``opt`` and ``max``.
Profile = dict[str, dict[str, Shape]]

KINDS = ("min", "opt", "max")
LARGEST_BATCH = 8
_BATCH_NAMES = ("batch", "batch_size", "n", "b")


@dataclass(frozen=True)
class Shapes:
    """What a caller says of profiles: for each, one text in trtexec's grammar under each name."""

    min: Sequence[str] = ()
    opt: Sequence[str] = ()
    max: Sequence[str] = ()


def parse_shapes(text: str, flag: str) -> dict[str, Shape]:
    """Read shapes in trtexec's grammar.

    Raises: ContractError naming ``flag`` and the part that cannot be read.
    """
    shapes: dict[str, Shape] = {}
    for part in text.split(","):
        name, colon, sizes = part.strip().rpartition(":")
        name = name.strip("'")
        numbers = [] if sizes in ("", "scalar") else sizes.split("x")
        if not colon or not name or not all(n.isdecimal() for n in numbers):
            raise ContractError(f"{flag} has {part.strip()!r}, expected name:1x3x256x176", got=text)
        if name in shapes:
            raise ContractError(f"{flag} names input {name} twice", got=text)
        shapes[name] = tuple(map(int, numbers))
    return shapes


def format_shapes(profile: Profile, kind: str) -> str:
    """One of a profile's three shapes in trtexec's grammar."""
    return ",".join(
        f"{name}:{'x'.join(map(str, shapes[kind])) or 'scalar'}" for name, shapes in profile.items()
    )


def make_profiles(contract: Contract, shapes: Shapes) -> list[Profile]:
    """Complete and check profiles against the inputs of a model.

    Without any shapes there is one profile: batch 1 to 8, most used 1; height and width from half to the
    contract's own, most used the own. With some, opt is the default brought between min and max, or max where
    there is no default; opt alone stands for all three, as in trtexec.

    Args:
        contract: of the model, or what it declares of its inputs.
        shapes: the user's.

    Returns: the profiles, with dynamic inputs only; none if no input is dynamic.
    Raises: ContractError naming the input: it is dynamic and has no shape, is unknown, has another rank or
        fixed size, min > opt or opt > max, a size that the contract excludes, or a size that differs from
        another input's of the same axis.
    """
    flags = {kind: f"--{kind}Shapes" for kind in KINDS}
    given = {kind: [parse_shapes(text, flags[kind]) for text in getattr(shapes, kind)] for kind in KINDS}
    count = max(map(len, given.values()))
    if given["opt"] and not given["min"] and not given["max"]:
        given["min"] = given["max"] = given["opt"]
        flags = dict.fromkeys(KINDS, "--optShapes")
    if {len(given["min"]), len(given["max"]), len(given["opt"]) or count} != {count}:
        times = ", ".join(f"{flags[kind]} {len(given[kind])} times" for kind in KINDS)
        raise ContractError(
            f"given are {times}; expected --minShapes and --maxShapes once for each profile, and --optShapes as "
            "often or not at all, or --optShapes alone",
            got={kind: len(parsed) for kind, parsed in given.items()},
            expected=count,
        )
    dynamic = [spec for spec in contract.inputs if any(isinstance(size, str) for size in spec.shape)]
    if not count:
        profiles = [_default(contract, dynamic)] if dynamic else []
    else:
        profiles = [
            _given(contract, dynamic, {k: given[k][i] for k in KINDS if given[k]}, flags)
            for i in range(count)
        ]
    for profile in profiles:
        _check(contract, profile)
    return [profile for profile in profiles if profile]


def _default(contract: Contract, dynamic: Sequence[TensorSpec]) -> Profile:
    profile: Profile = {spec.name: dict.fromkeys(KINDS, ()) for spec in dynamic}
    for spec in dynamic:
        for size in spec.shape:
            triple = (size,) * 3 if isinstance(size, int) else _default_sizes(contract, spec, size)
            if triple is None:
                raise ContractError(
                    f"input {spec} is dynamic, and no size of its axis {size} is known; give --minShapes, "
                    f"--optShapes and --maxShapes {spec.name}:..."
                )
            for kind, length in zip(KINDS, triple, strict=True):
                profile[spec.name][kind] += (length,)
    return profile


def _default_sizes(contract: Contract, spec: TensorSpec, axis: str) -> tuple[int, int, int] | None:
    """Smallest, most used and largest size of a dynamic axis, where the contract tells."""
    settings = contract.settings
    if axis in ("height", "width") and axis in settings:
        own, step = settings[axis], settings.get("size_multiple", 1)
        smallest = max(settings.get("minimum", {}).get(axis, 1), own // 2)
        return min(-(-smallest // step) * step, own), own, own
    if axis == spec.shape[0] and axis.lower() in _BATCH_NAMES:
        least = settings.get("minimum", {}).get(axis, 1)
        return least, least, max(least, LARGEST_BATCH)
    return None


def _given(
    contract: Contract,
    dynamic: Sequence[TensorSpec],
    shapes: Mapping[str, Mapping[str, Shape]],
    flags: Mapping[str, str],
) -> Profile:
    """A profile of the shapes under min, max and perhaps opt; ``flags`` are the options that they came by."""
    inputs = {spec.name: spec for spec in contract.inputs}
    for kind, given in shapes.items():
        for name, shape in given.items():
            if name not in inputs:
                raise ContractError(
                    f"{flags[kind]} names input {name}; the model takes {', '.join(inputs)}",
                    got=name,
                    expected=list(inputs),
                )
            declared = inputs[name].shape
            fits = len(shape) == len(declared) and all(
                isinstance(d, str) or d == s for s, d in zip(shape, declared, strict=True)
            )
            if not fits:
                raise ContractError(
                    f"{flags[kind]} gives input {name} the shape {'x'.join(map(str, shape))}, which does not "
                    f"fit {inputs[name]}",
                    got=shape,
                    expected=declared,
                )
    profile: Profile = {}
    for spec in dynamic:
        for kind in ("min", "max"):
            if spec.name not in shapes[kind]:
                raise ContractError(f"input {spec} is dynamic, and {flags[kind]} does not name it")
        least, most = shapes["min"][spec.name], shapes["max"][spec.name]
        opt = shapes.get("opt", {}).get(spec.name)
        if opt is None:
            if "opt" in shapes:
                raise ContractError(f"input {spec} is dynamic, and --optShapes does not name it")
            usual = [
                _default_sizes(contract, spec, d) if isinstance(d, str) else (d, d, d) for d in spec.shape
            ]
            opt = tuple(
                high if u is None else min(max(u[1], low), high)
                for u, low, high in zip(usual, least, most, strict=True)
            )
        profile[spec.name] = {"min": least, "opt": opt, "max": most}
    return profile


def _check(contract: Contract, profile: Profile) -> None:
    inputs = {spec.name: spec for spec in contract.inputs}
    for name, shapes in profile.items():
        for low, high in (("min", "opt"), ("opt", "max")):
            if any(a > b for a, b in zip(shapes[low], shapes[high], strict=True)):
                raise ContractError(
                    f"the profile of input {name} has {low} {'x'.join(map(str, shapes[low]))} above {high} "
                    f"{'x'.join(map(str, shapes[high]))}; expected min <= opt <= max on each axis",
                    got=shapes,
                )
    for kind in KINDS:
        sizes: dict[str, tuple[int, str]] = {}
        for name, shapes in profile.items():
            for size, axis in zip(shapes[kind], inputs[name].shape, strict=True):
                if isinstance(axis, str):
                    _check_size(contract, kind, name, axis, size)
                    first, other = sizes.setdefault(axis, (size, name))
                    if first != size:
                        raise ContractError(
                            f"the profile's {kind} has {axis} = {size} for input {name}, but {first} for "
                            f"input {other}; they must agree"
                        )


def _check_size(contract: Contract, kind: str, name: str, axis: str, size: int) -> None:
    settings = contract.settings
    step = settings.get("size_multiple", 1) if axis in ("height", "width") else 1
    least = settings.get("minimum", {}).get(axis, 1)
    if size < least or size % step:
        multiple = f" and a multiple of {step}" if step > 1 else ""
        raise ContractError(
            f"the profile's {kind} has {axis} = {size} for input {name}, expected at least {least}{multiple}",
            got=size,
            expected=least,
        )
