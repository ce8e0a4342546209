"""Which nodes of a graph 16 bits cannot serve, by what was measured of their tensors, and why.

A tensor is kept in FP32 where the low type would overflow, where what a division or root is taken of would underflow,
where an absolute precision is needed that its steps do not give, and where long sums and normalisations are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from posewarp.export.graphs.coordinates import Walker
from posewarp.export.graphs.graph import node_id
from posewarp.export.graphs.inlining import STANDARD
from posewarp.export.precision.half import LOW_TYPES
from posewarp.export.precision.ranges import Range

# Real inputs are samples: others may reach this much further.
HEADROOM = 4.0
# Relative loss of a constant, as the norm of its error; a rounding of normal numbers costs at most half of it.
MAX_CONSTANT_LOSS = 2.0**-8
# Absolute error of an argument that an exponential, an angle or a rounding to whole numbers bears.
MAX_ARGUMENT_ERROR = 2.0**-6
# A difference this much smaller than what it is taken of has lost as many of its bits.
CANCELLED = 2.0**-6
# Terms of a sum that 16 bits may hold on the way.
MAX_TERMS = 256

_NORMALISATIONS = (
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "LRN",
    "MeanVarianceNormalization", "RMSNormalization",
)  # fmt: skip
_SUMS = (
    "AveragePool", "CumSum", "GlobalAveragePool", "GlobalLpPool", "LpPool", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_SQUARED = ("ReduceL2", "ReduceSumSquare", "GlobalLpPool", "LpPool")
_PRECISE = ("Ceil", "Cos", "Exp", "Floor", "LogSoftmax", "Mod", "ReduceLogSumExp", "Round", "Sin", "Softmax")
# They bound their result, whatever the precision of what they are given.
_BOUNDING = ("Clip", "HardSigmoid", "Sigmoid", "Softmax", "Tanh")
# What a norm or a variance is made of. A longer walk back would find the whole network.
_NORM = (
    "Abs", "Add", "Cast", "Clip", "Div", "Exp", "Expand", "Identity", "Log", "Max", "Mul", "Pow", "ReduceL2",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "Reshape", "Softplus", "Sqrt", "Sub", "Transpose", "Unsqueeze",
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a 16-bit type holds.

    Attributes:
        name: ``fp16`` or ``bf16``.
        largest: its largest number.
        smallest_normal: below this it loses precision.
        rounding: largest relative error of a rounding.
    """

    name: str
    largest: float
    smallest_normal: float
    rounding: float


LIMITS = {
    "fp16": Limits("fp16", 65504.0, 2.0**-14, 2.0**-11),
    "bf16": Limits("bf16", 3.3895314e38, 2.0**-126, 2.0**-8),
}


def bounded_nodes(walker: Walker, ranges: Mapping[str, Range], dtype: str) -> dict[str, str]:
    """The nodes to keep in FP32, and why.

    Args:
        walker: of the flat FP32 model.
        ranges: of its tensors (see ``ranges.measure_ranges``).
        dtype: ``fp16`` or ``bf16``.

    Returns: a reason by node id.
    """
    kept: dict[str, str] = {}
    bounds = _Bounds(walker, ranges, LIMITS[dtype])
    for rule in (bounds.overflows, bounds.constants, bounds.operators, bounds.denominators, bounds.arguments):
        for name, reason in rule():
            kept.setdefault(name, reason)
    return kept


class _Bounds:
    """The rules; each gives nodes and reasons."""

    def __init__(self, walker: Walker, ranges: Mapping[str, Range], limits: Limits):
        self.walker, self.index, self.ranges, self.limits = walker, walker.index, ranges, limits
        self.nodes = [n for n in self.index.nodes.values() if n.domain in STANDARD]

    def overflows(self) -> Iterator[tuple[str, str]]:
        """Tensors out of range, at either end: who makes and who takes them."""
        for tensor, found in self.ranges.items():
            if found.maximum * HEADROOM > self.limits.largest:
                reason = f"{tensor} reaches {found.maximum:.3g}; {self.limits.name} ends at {self.limits.largest:.4g}"
            elif 0 < found.maximum < self.limits.smallest_normal:
                reason = (
                    f"{tensor} is at most {found.maximum:.1e}, where {self.limits.name} has few digits left"
                )
            else:
                continue
            makers = [self.index.makers[tensor]] if tensor in self.index.makers else []
            yield from ((node_id(node), reason) for node in (*makers, *self.index.takers[tensor]))

    def constants(self) -> Iterator[tuple[str, str]]:
        """Constants out of range, or that lose more than a rounding does, such as an epsilon of 1e-8."""
        for name, tensor in self.index.constants.items():
            if tensor.data_type != TensorProto.FLOAT or not self.index.takers[name]:
                continue
            value = numpy_helper.to_array(tensor).astype(np.float64)
            value = value[np.isfinite(value)]
            largest, norm = np.abs(value).max(initial=0), np.linalg.norm(value)
            if largest > self.limits.largest:
                reason = f"its constant {name} is {largest:.3g}; {self.limits.name} ends at {self.limits.largest:.4g}"
            elif norm and np.linalg.norm(self._rounded(value) - value) > MAX_CONSTANT_LOSS * norm:
                reason = f"its constant {name} is at most {largest:.1e}, too small for {self.limits.name}"
            else:
                continue
            yield from ((node_id(node), reason) for node in self.index.takers[name])

    def operators(self) -> Iterator[tuple[str, str]]:
        """Normalisations, and long or large sums."""
        for node in self.nodes:
            if node.op_type in _NORMALISATIONS:
                yield node_id(node), f"{node.op_type}: its variance needs fp32"
            if node.op_type not in _SUMS or not {node.input[0], node.output[0]} <= self.ranges.keys():
                continue
            taken, given = self.ranges[node.input[0]], self.ranges[node.output[0]]
            terms = (
                taken.elements / max(given.elements, 1)
                if node.op_type not in ("AveragePool", "LpPool")
                else 1
            )
            each = taken.maximum**2 if node.op_type in _SQUARED else taken.maximum
            if terms > MAX_TERMS or terms * each * HEADROOM > self.limits.largest:
                yield node_id(node), f"{node.op_type} over {terms:.0f} terms of up to {each:.3g}"

    def denominators(self) -> Iterator[tuple[str, str]]:
        """What a division, root or logarithm is taken of, where it may be small, and the norm that makes it."""
        for node in self.nodes:
            tensor = _denominator(node, self.index.constants)
            found = self.ranges.get(tensor)
            # Four steps of a power of two above the end of full precision.
            if found is None or not found.elements or found.minimum >= 16 * self.limits.smallest_normal:
                continue
            reason = f"{node.op_type} by {tensor}, which goes down to {found.minimum:.1e}"
            yield node_id(node), reason
            yield from ((name, reason) for name in self._norm(tensor))

    def arguments(self) -> Iterator[tuple[str, str]]:
        """What needs its argument precisely, and differences of almost equal values: with all that computes these."""
        for node in self.nodes:
            if node.op_type in _PRECISE or _makes_integers(node):
                found = self.ranges.get(node.input[0])
                error = found.maximum * self.limits.rounding if found else 0
                if error > MAX_ARGUMENT_ERROR and np.isfinite(error):
                    reason = (
                        f"{node.op_type} of {node.input[0]}, which reaches {found.maximum:.3g}: "
                        f"{self.limits.name} would round it by up to {error:.2g}"
                    )
                    yield from self._with_layers(node, node.input[:1], reason)
            if node.op_type in ("Add", "Sub") and node.output[0] in self.ranges:
                largest = max(map(self._largest, node.input))
                left = self.ranges[node.output[0]].maximum
                if 0 < left < largest * CANCELLED:
                    reason = f"{node.op_type} leaves {left:.2g} of values up to {largest:.3g}"
                    yield from self._with_layers(node, node.input, reason)

    def _largest(self, tensor: str) -> float:
        constant = self.index.constants.get(tensor)
        if constant is not None:
            return float(np.abs(numpy_helper.to_array(constant)).max(initial=0))
        return self.ranges[tensor].maximum if tensor in self.ranges else 0.0

    def _with_layers(self, node: NodeProto, tensors: list[str], reason: str) -> Iterator[tuple[str, str]]:
        nodes, sources = self.walker.back(tensors)
        yield from ((name, reason) for name in (node_id(node), *nodes))
        if any(self.index.nodes[name].op_type in _BOUNDING for name in nodes):
            return
        yield from ((name, reason) for source in sources for name in self.walker.layers_of(source))

    def _norm(self, tensor: str) -> Iterator[str]:
        """Nodes that make a denominator, up to the features that it is the norm of."""
        seen, waiting = set(), [tensor]
        while waiting:
            maker = self.index.makers.get(waiting.pop())
            if (
                maker is None
                or node_id(maker) in seen
                or maker.op_type not in _NORM
                or self.walker.is_layer(maker)
            ):
                continue
            # The sum of two features is no part of a norm: there a residual network would be followed to its start.
            if maker.op_type == "Add" and not set(maker.input) & set(self.index.constants):
                continue
            seen.add(node_id(maker))
            waiting.extend(maker.input)
        yield from seen

    def _rounded(self, value: np.ndarray) -> np.ndarray:
        kind = helper.tensor_dtype_to_np_dtype(LOW_TYPES[self.limits.name])
        with np.errstate(over="ignore", under="ignore"):
            return value.astype(kind).astype(np.float64)


def _denominator(node: NodeProto, constants: Mapping[str, TensorProto]) -> str:
    if node.op_type == "Div":
        return node.input[1]
    if node.op_type in ("Reciprocal", "Sqrt", "Log"):
        return node.input[0]
    if node.op_type == "Pow" and node.input[1] in constants:
        exponent = numpy_helper.to_array(constants[node.input[1]])
        return node.input[0] if (exponent < 1).any() else ""
    return ""


def _makes_integers(node: NodeProto) -> bool:
    whole = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64)
    return node.op_type == "Cast" and node.attribute[0].i in whole
