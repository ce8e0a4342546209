"""Which side of a cut each tensor of a graph belongs to, by the inputs that it depends on.

Sizes depend on no input: that a tensor has three samples says nothing of their values. Both parts take them from
their own inputs, so that features of one picture serve a batch of poses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from posewarp.export.graphs.graph import bodies, fresh_name, tensor_types
from posewarp.export.graphs.inlining import nodes_of

SOURCE, POSE = "source", "pose"

# Drawn anew in every run: never kept.
_RANDOM = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
)
# Sizes of what they give, or of what their bodies give, follow from values.
_SIZED_BY_VALUES = ("NonZero", "Compress", "Unique", "NonMaxSuppression", "Loop", "Scan", "If")

Dims = tuple["int | str | None", ...]


@dataclass(frozen=True)
class Shapes:
    """What is known of the tensors' shapes.

    Attributes:
        types: element type by name; a name that is missing is no tensor, or of unknown type.
        one: shape of each tensor in a run of one sample, or of a fixed batch.
        three: in a run of three; empty where the batch is fixed.
        dims: an axis is a number, the name of a dynamic axis of the inputs, or None where neither is known.
    """

    types: dict[str, int]
    one: dict[str, tuple[int, ...]]
    three: dict[str, tuple[int, ...]]
    dims: dict[str, Dims]

    @classmethod
    def of(
        cls,
        model: ModelProto,
        one: dict[str, tuple[int, ...]],
        three: dict[str, tuple[int, ...]],
    ) -> Shapes:
        """From what a flat model declares, and from measured shapes where the batch alone is dynamic."""
        types = tensor_types(model)
        axes = {
            dim.dim_param
            for value in model.graph.input
            for dim in value.type.tensor_type.shape.dim
            if not dim.HasField("dim_value")
        }
        only_batch = (
            three
            and len(axes) == 1
            and "" not in axes
            and not any(node.op_type in _SIZED_BY_VALUES for node in nodes_of(model.graph.node))
        )
        batch = next(iter(axes)) if only_batch else None

        def dims(name: str, shape: tuple[int, ...]) -> Dims:
            declared = list(types[name].shape.dim) if name in types else []
            found: list[int | str | None] = []
            for axis, size in enumerate(shape):
                said = declared[axis] if len(declared) == len(shape) else None
                if said is not None and said.HasField("dim_value"):
                    found.append(said.dim_value)
                elif said is not None and said.dim_param in axes - {""}:
                    found.append(said.dim_param)
                elif not axes or (batch and three[name][axis] == size):
                    found.append(size)
                elif batch and (size, three[name][axis]) == (1, 3):
                    found.append(batch)
                else:
                    found.append(None)
            return tuple(found)

        return cls(
            {name: kind.elem_type for name, kind in types.items()},
            one,
            three,
            {name: dims(name, shape) for name, shape in one.items()},
        )

    def bytes_of(self, name: str) -> int:
        """Of one sample's tensor."""
        itemsize = helper.tensor_dtype_to_np_dtype(self.types[name]).itemsize
        return int(np.prod(self.one[name], dtype=np.int64)) * itemsize

    def is_stack(self, name: str) -> bool:
        """Whether samples lie one behind the other along the first axis."""
        one, three = self.one[name], self.three.get(name)
        return three is None or (bool(one) and three == (3 * one[0], *one[1:]) and one[0] == 1)

    def is_shared(self, name: str) -> bool:
        """Whether all samples of a run have one such tensor."""
        return self.three.get(name) == self.one[name]


def captures(node: NodeProto) -> Iterator[str]:
    """Names that the bodies of a node take from outside."""
    for body in bodies(node):
        inside = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        inside |= {tensor.values.name for tensor in body.sparse_initializer}
        inside |= {name for inner in body.node for name in inner.output}
        taken = [name for inner in body.node for name in taken_by(inner)]
        yield from (name for name in [*taken, *(v.name for v in body.output)] if name and name not in inside)


def taken_by(node: NodeProto) -> list[str]:
    """Names of all that a node takes, its bodies included."""
    return [*filter(None, node.input), *captures(node)]


def dependence(model: ModelProto, by: Iterable[str], sizes: Iterable[str]) -> dict[str, frozenset[str]]:
    """On what each tensor of a flat model's main graph depends: ``SOURCE``, ``POSE``, both, or nothing.

    Args:
        model: see ``graph.inline_functions``.
        by: the inputs that are the source; all others are the pose.
        sizes: ids of the Shape nodes that both parts can tell.
    """
    by, sizes = set(by), set(sizes)
    found = {value.name: frozenset({SOURCE if value.name in by else POSE}) for value in model.graph.input}
    for node in model.graph.node:
        depends = frozenset().union(*(found.get(name, frozenset()) for name in taken_by(node)))
        if any(inner.op_type in _RANDOM for inner in nodes_of([node])):
            depends |= {POSE}
        if node.output[0] in sizes:
            depends = frozenset()
        found.update((name, depends) for name in node.output)
    return found


def settle_sizes(model: ModelProto, shapes: Shapes, by: Iterable[str]) -> dict[str, Dims]:
    """Write known sizes as constants, in place; tell which other Shape nodes both parts can replace.

    Returns: what each such node gives, by its id: numbers, and names of axes that inputs of both sides have.
    """
    by = set(by)
    sides = [
        {axis for value in model.graph.input if (value.name in by) == side for axis in axis_names(value)}
        for side in (True, False)
    ]
    known, replaceable = {}, {}
    for node in model.graph.node:
        if node.op_type != "Shape" or node.domain or node.input[0] not in shapes.dims:
            continue
        dims = shapes.dims[node.input[0]]
        cut = {a.name: a.i for a in node.attribute}
        dims = dims[cut.get("start", 0) : cut.get("end", len(dims))]
        if all(isinstance(dim, int) for dim in dims):
            known[node.output[0]] = dims
        elif all(isinstance(dim, int) or all(dim in side for side in sides) for dim in dims):
            replaceable[node.output[0]] = dims
    nodes = [node for node in model.graph.node if not node.output or node.output[0] not in known]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(dims, np.int64), name) for name, dims in known.items()
    )
    return replaceable


def axis_names(value: ValueInfoProto) -> list[str]:
    """Dynamic axes of an input, by name."""
    return [dim.dim_param for dim in value.type.tensor_type.shape.dim if dim.dim_param]


def size_nodes(graph: GraphProto, name: str, dims: Dims, taken: set[str]) -> list[NodeProto]:
    """Nodes that give a Shape's result from the sizes of a part's own inputs.

    Args:
        graph: of the part, whose inputs are there; constants are added to it.
        name: of the result.
        dims: see ``settle_sizes``.
        taken: names; those of new tensors are added.
    """
    nodes, pieces = [], []
    for dim in dims:
        piece = fresh_name(f"{name}_{dim}", taken)
        pieces.append(piece)
        if isinstance(dim, int):
            graph.initializer.append(numpy_helper.from_array(np.array([dim], np.int64), piece))
            continue
        value = next(value for value in graph.input if dim in axis_names(value))
        axis = [d.dim_param for d in value.type.tensor_type.shape.dim].index(dim)
        shape, place = fresh_name(f"{piece}_shape", taken), fresh_name(f"{piece}_axis", taken)
        graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), place))
        nodes += [
            helper.make_node("Shape", [value.name], [shape]),
            helper.make_node("Gather", [shape, place], [piece], axis=0),
        ]
    return [*nodes, helper.make_node("Concat", pieces, [name], axis=0)]


def is_tensor(shapes: Shapes, name: str) -> bool:
    """Whether something can be handed from part to part."""
    return shapes.types.get(name, TensorProto.UNDEFINED) != TensorProto.UNDEFINED and name in shapes.one
