"""FP32 graph to a strongly typed mixed one: which node computes in 16 bits is the caller's decision, the rest follows.

A node computes in one type. On an edge between two types stands one Cast; a constant is written in each type that it
is taken in. What ONNX defines no 16-bit form for stays FP32, and what only moves values moves them as they come.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from posewarp.export.graphs.graph import (
    Index,
    Variable,
    bodies,
    constant_value,
    fresh_name,
    inline_functions,
    node_id,
    tensor_types,
    variables,
)
from posewarp.export.graphs.inlining import OURS, STANDARD, graphs_of, opset_of
from posewarp.export.graphs.warps import RENAMED_OPSET, rewrite_warps, standard_mode
from posewarp.export.precision.emulation import is_mixed
from posewarp.runtime.contract import METADATA_KEY, Contract
from posewarp.runtime.errors import ExportError

PRECISION_KEY = "posewarp.precision"
LOW_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

# They move values, or choose among them: their result is exact in the type of what they are given.
MOVES = (
    "Cast", "CastLike", "Compress", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Identity", "Max", "MaxPool", "Min", "Neg", "Abs", "Pad", "Relu", "Reshape", "ReverseSequence",
    "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu",
    "Unsqueeze", "Where",
)  # fmt: skip
# Beside the parameters that share a type with the result or the first input: an engine wants one type there.
_SAME_TYPE = {("Pow", 1), ("GridSample", 1)}
# Convolutions have a bfloat16 form from opset 22 on. Between 18 and 22 the standard changed the meaning of one
# operator besides GridSample's words.
_BF16_OPSET, _RAISED_FROM, _CHANGED = 22, 18, "GroupNormalization"


def convert(model: ModelProto, kept: Mapping[str, str], dtype: str = "fp16") -> ModelProto:
    """Make a graph compute in 16 bits, except in the nodes that are kept.

    Args:
        model: all floats FP32; left as it is. Its local functions are inlined, except our warp.
        kept: why a node stays FP32, by its id in ``graph.inline_functions(model)`` (see ``graph.node_id``).
        dtype: ``fp16`` or ``bf16``.

    Returns: a new model. Inputs and outputs keep names and types, weights and tensors their names; recorded shapes
        of intermediate tensors are dropped; the metadata entry ``posewarp.precision`` tells dtype and kept nodes.
    Raises: ExportError if the model is converted already, holds sequences or optionals, names no such node, or its
        opset has no such type.
    """
    refuse_mixed(model)
    flat = inline_functions(model)
    if dtype == "bf16":
        flat = _raise_opset(flat)
    conversion = _Conversion(flat, kept, dtype)
    conversion.decide()
    conversion.write()
    properties = {entry.key: entry.value for entry in flat.metadata_props}
    properties[PRECISION_KEY] = json.dumps({"dtype": dtype, "kept": dict(kept)})
    helper.set_model_props(flat, properties)
    return flat


def refuse_mixed(model: ModelProto) -> None:
    """Raises: ExportError if a model is in mixed precision already."""
    if any(entry.key == PRECISION_KEY for entry in model.metadata_props) or is_mixed(model):
        raise ExportError("the model is already in fp16 or bf16; convert the fp32 file that it was made from")


def _raise_opset(model: ModelProto) -> ModelProto:
    opset = opset_of(model)
    if opset >= _BF16_OPSET:
        return model
    if opset < _RAISED_FROM or any(n.op_type == _CHANGED for g in graphs_of(model.graph) for n in g.node):
        what = f"opset {opset}" if opset < _RAISED_FROM else f"{_CHANGED}, which changed its meaning"
        raise ExportError(
            f"bf16 needs opset {_BF16_OPSET}, the first one with a bfloat16 Conv, and a model with {what} cannot be "
            f"raised to it; export with --opset {_BF16_OPSET}, or take fp16"
        )
    for entry in model.opset_import:
        if entry.domain in STANDARD:
            entry.version = _BF16_OPSET
    for graph in graphs_of(model.graph):
        for node in graph.node:
            if node.op_type == "GridSample" and opset < RENAMED_OPSET:
                for attribute in node.attribute:
                    if attribute.name == "mode":
                        attribute.s = standard_mode(attribute.s.decode(), _BF16_OPSET).encode()
    # Our function's body is of an opset too.
    return rewrite_warps(model, "portable") if model.functions else model


class _Conversion:
    """One conversion of a flat model, in place: first ``decide``, then ``write``."""

    def __init__(self, model: ModelProto, kept: Mapping[str, str], dtype: str):
        self.model, self.dtype, self.low_type = model, dtype, LOW_TYPES[dtype]
        _hoist_constants(model)
        self.index = index = Index(model)
        _refuse_containers(index)
        if unknown := set(kept) - set(index.nodes) - set(index.constants):
            raise ExportError(f"there is no node {', '.join(sorted(unknown))} to keep in fp32")
        _declare_foreign(model)
        types = {name: tensor.elem_type for name, tensor in tensor_types(model).items()}
        self.floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
        self.slots = {
            name: slots_of(node, opset_of(model), self.low_type) for name, node in index.nodes.items()
        }
        self.kept = set(kept)
        self.variables = [
            (node, variable)
            for node in index.nodes.values()
            for variable in variables(node)
            if set(variable.members) & self.floats
        ]
        # Names that the outside knows hold fp32.
        self.public = {value.name for value in model.graph.output} | _named_by_contract(model)
        self.low: set[str] = set()  # tensors
        self.low_nodes: set[str] = set()
        self.fp32_variables: set[int] = set()  # their places
        self.names: dict[tuple[str, bool], str] = {}  # of a tensor in the low type or not
        self.taken = {*types, *index.makers, *index.takers, *index.constants}
        self.taken_nodes = {node.name for node in index.nodes.values()}

    def decide(self) -> None:
        """Find the nodes that compute, and the tensors that are, in the low type."""
        self.low_nodes = {name for name, (taken, given) in self.slots.items() if taken or given} - self.kept
        while True:
            before = len(self.fp32_variables), len(self.low_nodes)
            self.low = {
                name
                for place, (_, variable) in enumerate(self.variables)
                if place not in self.fp32_variables
                for name in variable.members
            }
            for name, node in self.index.nodes.items():
                if name in self.low_nodes and not self._stays_low(node):
                    self.low_nodes.discard(name)
                if name in self.low_nodes:
                    given = self.slots[name][1]
                    self.low.update(o for i, o in enumerate(node.output) if i in given and o in self.floats)
            for place, (node, variable) in enumerate(self.variables):
                sources = [s for s in variable.sources(node) if s not in self.index.constants]
                if not sources or any(s in self.floats and s not in self.low for s in sources):
                    self.fp32_variables.add(place)
            if before == (len(self.fp32_variables), len(self.low_nodes)):
                break
        for name in self.index.constants:
            if name in self.floats and name not in self.public and all(self._wanted_low(name)):
                self.low.add(name)

    def _stays_low(self, node: NodeProto) -> bool:
        floats = [name for name in node.input if name in self.floats]
        if node.op_type not in MOVES and floats and any(name in self.floats for name in node.output):
            return True
        moved = [name for name in floats if name not in self.index.constants]
        if moved:
            return any(name in self.low for name in moved)
        # It makes floats of integers, or spreads constants: as those want them who take them.
        wanted = [low for name in node.output for low in self._wanted_low(name)]
        return bool(wanted) and all(wanted)

    def _wanted_low(self, tensor: str) -> Iterator[bool]:
        """Of everyone who takes a tensor: whether in the low type."""
        for node in self.index.takers[tensor]:
            handed = {variable.place for variable in variables(node)}
            for place, name in enumerate(node.input):
                if name == tensor and place not in handed:
                    yield self._takes_low(node, place)
        for place, (node, variable) in enumerate(self.variables):
            if tensor in variable.sources(node):
                yield place not in self.fp32_variables

    def _takes_low(self, node: NodeProto, place: int) -> bool:
        return node_id(node) in self.low_nodes and place in self.slots[node_id(node)][0]

    def write(self) -> None:
        """Type every tensor, and put casts where types meet."""
        for graph in graphs_of(self.model.graph):
            for node in graph.node:
                self._type_node(node)
        for place, (node, variable) in enumerate(self.variables):
            self._type_variable(node, variable, low=place not in self.fp32_variables)
        for graph in graphs_of(self.model.graph):
            del graph.value_info[:]
            self._write_constants(graph)
            nodes = [cast for value in graph.input for cast in self._casts(value.name)]
            for node in graph.node:
                results = list(node.output)
                node.output[:] = [self._own_name(name) for name in results]
                nodes += [node, *(cast for name in results for cast in self._casts(name))]
            del graph.node[:]
            graph.node.extend(nodes)

    def _type_variable(self, node: NodeProto, variable: Variable, low: bool) -> None:
        values = [body.output[place] for body, place in variable.results]
        for value in values:
            value.name = self._named(value.name, low)
        for value in (
            *values,
            *(v for body in bodies(node) for v in body.input if v.name in variable.members),
        ):
            value.type.tensor_type.elem_type = self.low_type if low else TensorProto.FLOAT
        if variable.place is not None:
            node.input[variable.place] = self._named(node.input[variable.place], low)

    def _type_node(self, node: NodeProto) -> None:
        low = node_id(node) in self.low_nodes
        taken, given = self.slots[node_id(node)]
        handed = {variable.place for variable in variables(node)}
        for place, name in enumerate(node.input):
            if name in self.floats and place not in handed:
                node.input[place] = self._named(name, low and place in taken)
        if low and given and node.output[0] in self.low:
            _retype(node, self.low_type)

    def _own_name(self, tensor: str) -> str:
        """What the tensor's maker calls it."""
        return self._named(tensor, tensor in self.low)

    def _named(self, tensor: str, low: bool) -> str:
        """Its name in the low type or in fp32; asking for it makes it be there."""
        if tensor not in self.floats:
            return tensor
        if (tensor, low) not in self.names:
            keeps = not low if tensor in self.public else low == (tensor in self.low)
            alias = f"{tensor}_{self.dtype if low else 'fp32'}"
            self.names[tensor, low] = tensor if keeps else fresh_name(alias, self.taken)
        return self.names[tensor, low]

    def _casts(self, tensor: str) -> Iterator[NodeProto]:
        """From a tensor's own type to the other, where someone takes that."""
        own = tensor in self.low
        if tensor in self.floats and ((tensor, not own) in self.names or (own and tensor in self.public)):
            target = self._named(tensor, not own)
            name = fresh_name(f"cast_{target}", self.taken_nodes)
            to = TensorProto.FLOAT if own else self.low_type
            yield helper.make_node("Cast", [self._own_name(tensor)], [target], name, to=to)

    def _write_constants(self, graph: GraphProto) -> None:
        for tensor in list(graph.initializer):
            if tensor.name not in self.floats:
                continue
            own = tensor.name in self.low
            halved = to_half(tensor, self.low_type)
            if own:
                tensor.CopyFrom(halved)
            elif (tensor.name, True) in self.names:
                halved.name = self._named(tensor.name, True)
                graph.initializer.append(halved)


def slots_of(node: NodeProto, opset: int, low_type: int) -> tuple[set[int], set[int]]:
    """Places of a node's inputs and outputs that ONNX lets be of the low type; its other floats stay fp32."""
    if (node.domain, node.op_type) == OURS:
        return {0}, {0}
    if node.domain not in STANDARD or bodies(node) or "Linear" in node.op_type:  # QuantizeLinear and its like
        return set(), set()
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return set(), set()
    if {"dtype", "output_datatype"} & set(schema.attributes):  # makers of random numbers
        return set(), set()
    low = f"tensor({TensorProto.DataType.Name(low_type).lower()})"
    able = {c.type_param_str for c in schema.type_constraints if low in c.allowed_type_strs}
    # A parameter of a type of its own is none of features: a region, a ratio, a threshold.
    leading = {p.type_str for p in (*schema.outputs, *schema.inputs[:1])}
    taken, given = (
        {i for i in range(len(names)) if _parameter(parameters, i).type_str in able & leading}
        for names, parameters in ((node.input, schema.inputs), (node.output, schema.outputs))
    )
    return taken | {i for op, i in _SAME_TYPE if op == node.op_type and i < len(node.input)}, given


def _parameter(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], place: int) -> object:
    return parameters[min(place, len(parameters) - 1)]  # the last one may be variadic


def to_half(tensor: TensorProto, low_type: int) -> TensorProto:
    """A constant in the low type, rounded half to even; what is out of its range becomes infinite."""
    with np.errstate(over="ignore"):
        values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(low_type))
    return numpy_helper.from_array(values, tensor.name)


def _retype(node: NodeProto, low_type: int) -> None:
    """Nodes that say the type of what they make."""
    if node.op_type == "Cast":
        node.attribute[0].CopyFrom(helper.make_attribute("to", low_type))
    if node.op_type == "ConstantOfShape":
        values = [a.t for a in node.attribute] or [helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])]
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", to_half(values[0], low_type)))


def _hoist_constants(model: ModelProto) -> None:
    """Float Constant nodes as initializers, which may be of two types."""
    for graph in graphs_of(model.graph):
        for node in list(graph.node):
            if node.op_type == "Constant" and node.domain in STANDARD:
                value = constant_value(node)
                if value.data_type == TensorProto.FLOAT:
                    graph.initializer.append(value)
                    graph.initializer[-1].name = node.output[0]
                    graph.node.remove(node)


def _refuse_containers(index: Index) -> None:
    for node in index.nodes.values():
        if "Sequence" in node.op_type or "Optional" in node.op_type:
            raise ExportError(
                f"{node.op_type} ({node_id(node)}) makes or takes a sequence or optional, which cannot be converted; "
                "export the network without lists that grow (unroll the loop)"
            )


def _declare_foreign(model: ModelProto) -> None:
    """What an operator of another domain gives is taken for float32, unless the file says what it is."""
    for graph in graphs_of(model.graph):
        known = {value.name for value in (*graph.value_info, *graph.output)}
        for node in graph.node:
            if node.domain not in STANDARD and (node.domain, node.op_type) != OURS:
                for name in set(node.output) - known - {""}:
                    graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def _named_by_contract(model: ModelProto) -> set[str]:
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    return {Contract.from_json(text).settings.get("flow") for text in texts} - {None}
