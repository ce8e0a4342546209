"""Where two spellings of one graph part: every intermediate tensor, in the order of computation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import ModelProto, TensorProto

from posewarp.export.graphs.execution import open_model
from posewarp.export.graphs.graph import Index, inline_functions, tensor_types
from posewarp.export.graphs.inlining import OP
from posewarp.export.graphs.warps import find_warps
from posewarp.export.ladder.measures import Tolerance, distance, p999
from posewarp.export.precision.emulation import emulate, is_mixed

# Tensors are returned besides the outputs in parts of this size, so that memory stays bounded.
_PART_MIB = 256
_UNKNOWN_MIB = 16  # where shape inference cannot tell


@dataclass(frozen=True)
class Divergence:
    """The first tensor that is too far from the reference's.

    Attributes:
        tensor: its name in both graphs.
        op: what makes it.
        p999: 99.9th percentile of the difference, infinite where one is NaN or infinite and the other is not.
        limit: what it may be.
        unit: ``px`` for a warp's grid; else ``of its largest value``.
        warp: the nearest warp, forwards or backwards, and how many nodes away; empty if there is none.
        compared: tensors that were compared up to it, of ``common``.
        common: tensors that both graphs have.
    """

    tensor: str
    op: str
    p999: float
    limit: float
    unit: str
    warp: str
    compared: int
    common: int

    def __str__(self) -> str:
        near = f"; the nearest warp: {self.warp}" if self.warp else ""
        return (
            f"first tensor above tolerance: {self.tensor} ({self.op}), p99.9 {self.p999:.2g} {self.unit} (limit "
            f"{self.limit:g}), number {self.compared} of {self.common} that both graphs have{near}"
        )


def first_divergence(
    reference: ModelProto, converted: ModelProto, feed: Mapping[str, np.ndarray], tolerance: Tolerance
) -> Divergence | None:
    """Walk all float tensors that both graphs have by name; a mixed-precision graph is run emulated.

    A tensor may differ by ``tolerance.rtol`` (``atol`` in FP32) of its largest value, a warp's grid by
    ``tolerance.own_flow_px`` pixels: there a small number is a large shift.

    Args:
        reference: FP32.
        converted: the same network, spelled or typed in another way.
        feed: one run's inputs, by name.
        tolerance: see above.

    Returns: the first one too far, or None.
    Raises: BackendError if a graph does not run.
    """
    reference, typed = inline_functions(reference), inline_functions(converted)
    converted = emulate(typed) if is_mixed(typed) else typed
    index, grids = Index(reference), {warp.grid: warp for warp in find_warps(reference)}
    sizes = _mib(reference, feed)
    theirs = {name for node in converted.graph.node for name in node.output}
    common = [
        name
        for node in reference.graph.node
        for name in node.output
        if name in theirs and name in sizes and name not in index.constants
    ]
    limit = tolerance.rtol or tolerance.atol
    compared = 0
    for part in _parts(common, sizes):
        with open_model(reference, extra_outputs=part) as session:
            expected = session.run(feed)
        with open_model(converted, extra_outputs=part) as session:
            got = session.run(feed)
        for name in part:
            compared += 1
            if got[name].shape != expected[name].shape:
                found, bound, unit = np.inf, 0.0, f"(shape {got[name].shape}, not {expected[name].shape})"
            elif name in grids:
                # (N, [Do,] Ho, Wo, 2|3): taken to sample features of its own size, x from W.
                pixels = np.array(expected[name].shape[-2:0:-1]) / 2
                found = p999(distance(got[name], expected[name]) * pixels)
                bound, unit = tolerance.own_flow_px, "px"
            else:
                scale = max(float(np.abs(expected[name]).max(initial=0)), 1e-6)
                found, bound, unit = (
                    p999(distance(got[name], expected[name])) / scale,
                    limit,
                    "of its largest value",
                )
            if not found <= bound:
                op = index.makers[name].op_type
                return Divergence(name, op, found, bound, unit, _nearest(index, name), compared, len(common))
    return None


def _mib(model: ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Size of each float tensor at the inputs' own sizes."""
    sized = ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, feed[value.name].shape, strict=True):
            axis.dim_value = size
    del sized.graph.value_info[:]  # of symbolic sizes
    mib = {}
    for name, tensor in tensor_types(sized).items():
        if tensor.elem_type == TensorProto.FLOAT:
            known = tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in tensor.shape.dim)
            values = prod(axis.dim_value for axis in tensor.shape.dim)
            mib[name] = values * 4 / 2**20 if known else _UNKNOWN_MIB
    return mib


def _parts(names: list[str], mib: Mapping[str, float]) -> Iterator[list[str]]:
    part, size = [], 0.0
    for name in names:
        if part and size + mib[name] > _PART_MIB:
            yield part
            part, size = [], 0.0
        part.append(name)
        size += mib[name]
    if part:
        yield part


def _nearest(index: Index, tensor: str) -> str:
    """The nearest warp, on the way on from a tensor or on the way back, and how far off it is."""
    found = []
    for onwards in (True, False):
        steps, waiting = {tensor: 0}, deque([tensor])
        while waiting:
            name = waiting.popleft()
            maker = [index.makers[name]] if name in index.makers else []
            nodes = index.takers[name] if onwards else maker
            warp = next((node for node in nodes if node.op_type in ("GridSample", OP)), None)
            if warp is not None:
                way = "onwards" if onwards else "back"
                found.append((steps[name], f"{warp.output[0]}, {steps[name]} nodes {way}"))
                break
            for other in (each for node in nodes for each in (node.output if onwards else node.input)):
                if other and other not in steps:
                    steps[other] = steps[name] + 1
                    waiting.append(other)
    return min(found)[1] if found else ""
