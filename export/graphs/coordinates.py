"""Which nodes of a graph compute where a warp samples.

From a sampling grid the walk goes back through arithmetic: base grid, additions, normalisation, masks, resized and
warped flows, products of matrices of coordinates. It ends where a layer turns features into an offset or a position,
at the model's inputs, and at constants. What lies between must be fp32: at width 512 one rounding of a position to
fp16 moves it by up to 0.06 px.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import prod

from onnx import ModelProto, NodeProto, TensorProto, TypeProto

from posewarp.export.graphs.graph import Index, inline_functions, node_id, tensor_types
from posewarp.export.graphs.warps import DOMAIN, OP, Warp, find_warps

# A tensor of points has its 2 or 3 coordinates on one axis, a matrix of a transform up to 4 of them.
_COORDINATES = (2, 3)
_TRANSFORM = 4
# What varies over the picture has more values than a scale of coordinates.
_BASE_GRID_VALUES = 4

_LAYERS = (
    "DeformConv",
    "LSTM",
    "GRU",
    "RNN",
    "Attention",
    "ConvInteger",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
)
# They tell sizes and places, not values.
_SIZES = ("Shape", "Size")
_BASE_GRIDS = ("Range", "AffineGrid", "CumSum", "NonZero")
_SUMS = ("Add", "Sub", "Sum")
_PRODUCTS = ("Mul", "MatMul", "Gemm", "Einsum")


@dataclass(frozen=True)
class CoordinateSlice:
    """What computes one warp's grid.

    Attributes:
        warp: the warp.
        nodes: ids (see ``graph.node_id``) of the nodes between sources and grid.
        sources: tensors at which the walk stopped: what learned layers give, model inputs, constants.
        heads: the sources that learned layers give.
        positions: the heads that give a position, or a factor of one, and no offset: to what they give, no base grid is
            added. Their rounding is that of a position.
    """

    warp: Warp
    nodes: tuple[str, ...]
    sources: tuple[str, ...]
    heads: tuple[str, ...]
    positions: tuple[str, ...]


def coordinate_slices(model: ModelProto) -> list[CoordinateSlice]:
    """One slice for each warp of a model, those in functions and in bodies of If, Loop and Scan included.

    Names are those of ``graph.inline_functions(model)``, which are the model's own where it has no functions.
    """
    model = inline_functions(model)
    walker = Walker(model)
    return [_slice(walker, warp) for warp in find_warps(model)]


def _slice(walker: Walker, warp: Warp) -> CoordinateSlice:
    nodes, sources = walker.back([warp.grid])
    heads = tuple(
        name for name in sources if name in walker.index.makers and name not in walker.index.constants
    )
    positions = tuple(head for head in heads if walker.gives_position(head, warp.grid, nodes))
    return CoordinateSlice(warp, nodes, sources, heads, positions)


def input_nodes(walker: Walker) -> dict[str, str]:
    """Nodes between a model's inputs and Exp, Sin or Cos, to which no layer contributes: heat maps, encodings.

    Returns: the input that they compute with, by node id.
    """
    found = {}
    for node in walker.index.nodes.values():
        if node.op_type in ("Exp", "Sin", "Cos") and not node.domain:
            nodes, sources = walker.back(node.output[:1])
            variable = [name for name in sources if name not in walker.index.constants]
            if variable and all(name in walker.index.inputs for name in variable):
                found.update(dict.fromkeys(nodes, variable[0]))
    return found


class Walker:
    """Walks a flat model (see ``graph.inline_functions``) back from tensors to the layers that they come from."""

    def __init__(self, model: ModelProto, types: dict[str, TypeProto.Tensor] | None = None):
        self.index = Index(model)
        self._types = tensor_types(model) if types is None else types
        # Tensors that depend on no input's values: constants, what is computed of them and of sizes.
        self._fixed = set(self.index.constants)
        for node in self.index.nodes.values():
            computed = node.input and all(name in self._fixed for name in node.input if name)
            if node.op_type in _SIZES or (computed and node.output[0] not in self.index.feeds):  # of no body
                self._fixed.update(node.output)
        self._handed_on: dict[str, list[str]] = defaultdict(list)
        for target, origins in self.index.feeds.items():
            for origin in origins:
                self._handed_on[origin].append(target)

    def back(self, tensors: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids of the nodes between ``tensors`` and their sources, and these."""
        nodes: dict[str, None] = {}
        sources: dict[str, None] = {}
        seen, waiting = set(), deque(tensors)
        while waiting:
            name = waiting.popleft()
            if name in seen or not name:
                continue
            seen.add(name)
            maker = self.index.makers.get(name)
            if name in self.index.feeds:  # of a body: follow its values, not all that the node takes
                waiting.extend(self.index.feeds[name])
            elif maker is None or name in self.index.constants or self.is_layer(maker):
                sources[name] = None
            elif maker.op_type not in _SIZES:
                nodes[node_id(maker)] = None
                waiting.extend(maker.input)
        return tuple(nodes), tuple(sources)

    def computes_floats(self, node: str) -> bool:
        """Whether floats go into a node or come out; sizes and indices have no precision to choose."""
        found = self.index.nodes[node]
        names = (name for name in (*found.input, *found.output) if name in self._types)
        return any(self._types[name].elem_type == TensorProto.FLOAT for name in names)

    def is_layer(self, node: NodeProto) -> bool:
        """Whether a node makes something new of features, rather than computing with coordinates."""
        if node.domain not in ("", "ai.onnx"):
            return (node.domain, node.op_type) != (DOMAIN, OP)
        if node.op_type in ("Conv", "ConvTranspose"):
            return not self._filters_coordinates(node)
        if node.op_type in ("MatMul", "Gemm"):
            return not self._multiplies_coordinates(node)
        if node.op_type == "Einsum":
            return not set(self._shape(node.output[0])[-2:]) & set(_COORDINATES)
        return node.op_type in _LAYERS or self._adds_bias(node)

    def layers_of(self, source: str) -> list[str]:
        """Ids of the nodes that give what a walk ended at: none for inputs and constants, two with a bias apart."""
        maker = self.index.makers.get(source)
        if maker is None or source in self.index.constants:
            return []
        products = [name for name in maker.input if self._is_product(name)] if self._adds_bias(maker) else []
        return [node_id(maker), *(node_id(self.index.makers[name]) for name in products)]

    def _filters_coordinates(self, node: NodeProto) -> bool:
        """A fixed filter over a flow: as many channels out as in, which are a flow's, or one of them at a time.

        A layer that turns a picture into a flow, 3 channels into 2, is none.
        """
        shape = self._shape(node.input[1])
        if len(shape) < 3:
            return False
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        first, second = shape[:2]
        if not (isinstance(first, int) and isinstance(second, int)):
            return False
        volume = len(shape) == 5
        return first == second * groups and first in (1, _COORDINATES[volume])

    def _multiplies_coordinates(self, node: NodeProto) -> bool:
        left, right = node.input[:2]
        if left in self._fixed:  # a base grid, or a spline's matrix, times points; no layer is written so
            return True
        flags = {a.name: a.i for a in node.attribute}
        shapes = [self._shape(left), self._shape(right)]
        if flags.get("transA"):
            shapes[0] = shapes[0][::-1]
        if flags.get("transB"):
            shapes[1] = shapes[1][::-1]
        if not all(len(shape) >= 2 for shape in shapes):
            return right not in self.index.constants
        contracted = [size for size in (shapes[0][-1], shapes[1][-2]) if isinstance(size, int)]
        small = bool(contracted) and contracted[0] <= _TRANSFORM
        points = shapes[0][-2] in _COORDINATES and len(shapes[0]) > 2
        if right in self.index.constants:
            return points or (small and shapes[1][-1] <= _TRANSFORM)
        return points or small or shapes[1][-1] in _COORDINATES

    def _adds_bias(self, node: NodeProto) -> bool:
        """The bias of a layer that is written as MatMul and Add."""
        if node.op_type != "Add":
            return False
        return any(map(self._is_product, node.input)) and any(
            name in self.index.constants and len(self._shape(name)) <= 1 for name in node.input
        )

    def _is_product(self, tensor: str) -> bool:
        maker = self.index.makers.get(tensor)
        return maker is not None and maker.op_type == "MatMul" and self.is_layer(maker)

    def gives_position(self, head: str, grid: str, nodes: Iterable[str]) -> bool:
        """Whether ``head`` reaches ``grid``, over ``nodes``, on a way where no base grid is added to it."""
        between, seen, waiting = set(nodes), set(), deque([head])
        while waiting:
            name = waiting.popleft()
            if name == grid:
                return True
            if name in seen:
                continue
            seen.add(name)
            waiting.extend(self._handed_on[name])
            for node in self.index.takers[name]:
                if node_id(node) not in between or self._types[node.output[0]].elem_type == TensorProto.BOOL:
                    continue
                based = any(self._carries_base_grid(other) for other in node.input if other != name)
                if node.op_type == "AffineGrid" or (based and node.op_type in _PRODUCTS):
                    return True
                samples = node.op_type in ("GridSample", OP) and name == node.input[1]
                if not samples and not (based and node.op_type in _SUMS):
                    waiting.extend(node.output)
        return False

    @cache  # noqa: B019  a walker lives as long as one question
    def _carries_base_grid(self, tensor: str) -> bool:
        """Whether it varies over the picture by itself, or such a thing is part of it."""
        nodes, sources = self.back([tensor])
        if any(self.index.nodes[name].op_type in _BASE_GRIDS for name in nodes):
            return True
        return any(self._is_base_grid(name) for name in sources)

    def _is_base_grid(self, source: str) -> bool:
        constant = self.index.constants.get(source)
        if constant is None:
            return source in self.index.inputs
        return constant.data_type == TensorProto.FLOAT and prod(constant.dims) >= _BASE_GRID_VALUES

    def _shape(self, name: str) -> list[int | str | None]:
        tensor = self.index.constants.get(name)
        if tensor is not None:
            return list(tensor.dims)
        kind = self._types.get(name)
        return [d.dim_value or d.dim_param or None for d in kind.shape.dim] if kind is not None else []
