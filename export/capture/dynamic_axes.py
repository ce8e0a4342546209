"""Axes that shall stay dynamic through torch.export, and the proof that they did."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import CodeType

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from posewarp.export.spec import BATCH, ExportSpec
from posewarp.runtime.errors import ExportError

# Size of an input in torch.export's conditions: TensorModule takes them as *inputs.
_SIZE = re.compile(r"L\['inputs'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
# Sizes that the conditions are tried at: up to this many times the example's.
_REACH = 4


class SymbolicGrids(TorchFunctionMode):
    """While active, ``torch.linspace`` and ``affine_grid`` keep a dynamic size dynamic.

    Both take their sizes as plain integers, so that torch.export would write the example's size into the
    graph: the usual way in which a base grid freezes.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.linspace:
            return _linspace(*args, **kwargs)
        if function in (nn.functional.affine_grid, torch.affine_grid_generator):
            return _affine_grid(*args, **kwargs)
        return function(*args, **kwargs)


def _linspace(start, end, steps, **options) -> Tensor:
    dtype = options.get("dtype") or torch.get_default_dtype()
    if not isinstance(steps, torch.SymInt) or not dtype.is_floating_point:
        return torch.linspace(start, end, steps, **options)
    # As torch computes it: from either end to the middle.
    step = (end - start) / (steps - 1)
    index = torch.arange(steps, dtype=dtype, device=options.get("device"))
    return torch.where(index < steps // 2, start + step * index, end - step * (steps - 1 - index))


def _affine_grid(theta, size, align_corners=None) -> Tensor:
    if not any(isinstance(length, torch.SymInt) for length in size[2:]):
        return nn.functional.affine_grid(theta, size, align_corners)
    axes = []
    for length in size[2:]:
        centres = _linspace(-1.0, 1.0, length, dtype=theta.dtype, device=theta.device)
        axes.append(centres if align_corners else centres * ((length - 1) / length))
    positions = torch.meshgrid(*axes, indexing="ij")  # [z,] y, x
    base = torch.stack((*reversed(positions), torch.ones_like(positions[0])), dim=-1)
    grid = base.reshape(1, -1, base.shape[-1]) @ theta.transpose(1, 2)  # (N, points, 2 or 3)
    return grid.reshape(size[0], *size[2:], base.shape[-1] - 1)


def check_dynamic(spec: ExportSpec, program: ExportedProgram) -> dict[str, int]:
    """Check the conditions on sizes under which torch.export's graph is the module's.

    A size that became a Python number, or that the module branched on, left a condition such as height == 64.

    Returns: the smallest size of each axis, where it is more than the axis' step.
    Raises: ExportError if a dynamic axis is frozen, tied to another, or works for some sizes only.
    """
    conditions = _conditions(spec, program)
    minima = {}
    for axis, example in spec.axis_sizes.items():
        step = spec.multiple_of.get(axis, 1)
        # torch.export assumes batches of 2 and more; that 1 runs too, the proof shows.
        tried = range(2 if axis == BATCH else step, _REACH * example + 1, step)
        broken = {
            size: text
            for size in tried
            for text, code in conditions
            if not eval(code, {"math": math}, {**spec.axis_sizes, axis: size})
        }
        smallest = min(size for size in tried if size not in broken)
        if any(size > smallest for size in broken):
            raise ExportError(_explain(spec, axis, tried, broken))
        if smallest > tried[0]:
            minima[axis] = smallest
    return minima


def _conditions(spec: ExportSpec, program: ExportedProgram) -> list[tuple[str, CodeType]]:
    """Each condition as text, in the axes' own names, and compiled.

    torch.export keeps them in an attribute that is not public; there is no other way to them.
    """

    def named(match: re.Match) -> str:
        place, index = int(match[1]), int(match[2])
        axes = spec.dynamic_axes.get(spec.input_names[place], {})
        return str(axes.get(index, spec.example_inputs[place].shape[index]))

    texts = sorted({_SIZE.sub(named, guard) for guard in program._guards_code})
    return [(text, compile(text, "<condition>", "eval")) for text in texts]


def _explain(spec: ExportSpec, axis: str, tried: range, broken: Mapping[int, str]) -> str:
    good = [size for size in tried if size not in broken]
    text = next(broken[size] for size in tried if size in broken and size > good[0])
    what = f"the dynamic axis {axis} ({_where(spec, axis)})"
    others = [other for other in spec.axis_sizes if other != axis and re.search(rf"\b{other}\b", text)]
    factor = math.gcd(*good)
    if others:
        return f"{what} is tied to {others[0]}: the module needs {text}. Give both one name, or fix them"
    if len(good) == 1:
        return (
            f"{what} is frozen at {good[0]}: its size became a Python number in the module, by int(), "
            ".item(), numpy or a branch. Use the tensor's size itself, as in torch.arange(x.shape[-1])"
        )
    if factor > tried.step and good == [size for size in tried if size % factor == 0 and size >= good[0]]:
        return f"{what} works in multiples of {factor} only; say so with multiple_of={{{axis!r}: {factor}}}"
    return f"{what} does not work at every size: the module needs {text}"


def _where(spec: ExportSpec, axis: str) -> str:
    return ", ".join(
        f"axis {index} of {name}"
        for name in spec.input_names
        for index, other in spec.dynamic_axes.get(name, {}).items()
        if other == axis
    )
