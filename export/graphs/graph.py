"""ONNX files and graphs: read, written, made flat, typed, and walked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    external_data_helper,
    helper,
    numpy_helper,
    shape_inference,
)

from posewarp.export.graphs.inlining import DOMAIN, OP, OURS, STANDARD, graphs_of, inline, key_of
from posewarp.runtime.errors import ExportError
from posewarp.runtime.files import atomic_write

# A protobuf message can be no larger; what is, has its weights in a file beside it.
MAX_BYTES = 2**31 - 1
_BESIDE_WEIGHTS = 2**26  # room for all that is no weight
# Shape inference computes with small constants (sizes, axes, pads); it needs no value of the larger ones.
_KNOWN_VALUES = 1024


def load_model(path: str | Path) -> ModelProto:
    """Read an ONNX file, weights in files beside it included.

    Raises: ExportError, one line, if it is missing, truncated, no ONNX model, or lacks its external data.
    """
    model = read_graph(path)
    try:
        external_data_helper.load_external_data_for_model(model, str(Path(path).resolve().parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as exc:
        raise ExportError(f"{path} lacks its external data: {' '.join(str(exc).split())}") from exc
    return model


def read_graph(path: str | Path) -> ModelProto:
    """Read an ONNX file alone, not the weights that it keeps in files beside it.

    Raises: ExportError, one line, if it is missing, truncated or no ONNX model.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as exc:
        raise ExportError(f"{path} is not an ONNX file, or is truncated: it does not parse") from exc
    except OSError as exc:
        raise ExportError(f"{path} cannot be read: {exc.strerror}") from exc
    if not model.ir_version or not model.opset_import or not (model.graph.node or model.graph.output):
        raise ExportError(f"{path} is not an ONNX file, or is truncated: it holds no graph")
    return model


def save_model(model: ModelProto, path: str | Path) -> None:
    """Write an ONNX file, whole or not at all; above 2 GiB its weights go to ``<name>.data`` beside it.

    Raises: ExportError if it cannot be written.
    """
    path = Path(path)
    tensors = (tensor for graph in graphs_of(model.graph) for tensor in graph.initializer)
    if sum(len(tensor.raw_data) for tensor in tensors) < MAX_BYTES - _BESIDE_WEIGHTS:
        with atomic_write(path, ExportError) as temporary:
            onnx.save(model, temporary, format="protobuf")
        return
    data = path.with_name(path.name + ".data")
    outside = ModelProto()
    outside.CopyFrom(model)
    with atomic_write(data, ExportError) as weights, atomic_write(path, ExportError) as temporary:
        external_data_helper.convert_model_to_external_data(outside, location=weights.name)
        onnx.save(outside, temporary, format="protobuf")  # writes the weights, and forgets them
        for graph in graphs_of(outside.graph):
            for tensor in graph.initializer:
                for entry in tensor.external_data:
                    if entry.key == "location":
                        entry.value = data.name
        temporary.write_bytes(outside.SerializeToString())


def inline_functions(model: ModelProto) -> ModelProto:
    """A model without local functions, except ours, whose node a plugin may take.

    Names are made unique over all graphs, since the branches of an If may use the same ones, and weights that
    are also listed as inputs, as old files do, become plain weights.

    Returns: a new model.
    """
    flat = inline(model, (key_of(function) for function in model.functions if key_of(function) != OURS))
    constants = {tensor.name for tensor in flat.graph.initializer}
    inputs = [value for value in flat.graph.input if value.name not in constants]
    del flat.graph.input[:]
    flat.graph.input.extend(inputs)
    taken: set[str] = set()
    _make_unique(flat.graph, {}, taken, reserved={name for g in graphs_of(flat.graph) for name in _names(g)})
    return flat


def _names(graph: GraphProto) -> list[str]:
    """What a graph defines: inputs, initializers, results of nodes."""
    names = [value.name for value in graph.input]
    names += [tensor.name for tensor in graph.initializer]
    names += [tensor.values.name for tensor in graph.sparse_initializer]
    return list(dict.fromkeys(names + [name for node in graph.node for name in node.output if name]))


def _make_unique(graph: GraphProto, outer: dict[str, str], taken: set[str], reserved: set[str]) -> None:
    renamed = dict(outer)
    for name in _names(graph):
        renamed[name] = new = fresh_name(name, taken | reserved) if name in taken else name
        taken.add(new)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)
    for tensor in graph.sparse_initializer:
        tensor.values.name = renamed.get(tensor.values.name, tensor.values.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        for inner in bodies(node):
            _make_unique(inner, renamed, taken, reserved)


def fresh_name(stem: str, taken: set[str]) -> str:
    """``stem``, or with the first number that makes it unlike the taken ones; it is taken then."""
    name, number = stem, 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name


def tensor_types(model: ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and, where it can be known, shape of every tensor by name, those inside If, Loop and Scan included.

    Tensors inside local functions are not (see ``inline_functions``). Our node gives the type of its features.
    """
    light = ModelProto()
    light.opset_import.extend(model.opset_import)
    light.ir_version = model.ir_version
    light.functions.extend(function for function in model.functions if key_of(function) != OURS)
    light.graph.CopyFrom(_without_values(model.graph))
    for graph in graphs_of(light.graph):
        for node in graph.node:
            if (node.domain, node.op_type) == (DOMAIN, OP):
                # By its schema the standard operator takes two types, and gives the first.
                node.CopyFrom(helper.make_node("GridSample", list(node.input), list(node.output)))
    inferred = shape_inference.infer_shapes(light, data_prop=True)
    types = {}
    for graph in graphs_of(inferred.graph):
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.HasField("tensor_type"):
                types[value.name] = value.type.tensor_type
        for tensor in graph.initializer:
            types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims).tensor_type
    return types


def _without_values(graph: GraphProto) -> GraphProto:
    """A graph whose large constants have a type and shape only."""
    light = GraphProto(name=graph.name, input=graph.input, output=graph.output, value_info=graph.value_info)
    for tensor in graph.initializer:
        if len(tensor.raw_data) <= _KNOWN_VALUES and not tensor.external_data:
            light.initializer.append(tensor)
        else:
            light.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for node in graph.node:
        copy = light.node.add()
        copy.CopyFrom(node)
        for attribute in copy.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                attribute.g.CopyFrom(_without_values(attribute.g))
    return light


def bodies(node: NodeProto) -> list[GraphProto]:
    """The graphs inside a node, those inside these not included."""
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH] + [
        graph for a in node.attribute for graph in a.graphs
    ]


def node_id(node: NodeProto) -> str:
    """What a node is known by, also when it has no name: its first result."""
    return next((name for name in node.output if name), node.name)


def constant_value(node: NodeProto) -> TensorProto:
    """What a Constant node holds, whichever of its attributes says it."""
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return value
    if attribute.name == "sparse_value":
        raise ExportError(
            f"the Constant {node.output[0]!r} is sparse, which few runtimes read; make it dense"
        )
    kind = {"float": np.float32, "int": np.int64, "string": object}[
        attribute.name.split("_")[1].removesuffix("s")
    ]
    return numpy_helper.from_array(np.array(value, kind))


class Index:
    """Who makes and who takes each tensor of a flat model, bodies of If, Loop and Scan included.

    Attributes:
        nodes: every node by its id, in order; a node stands before those inside it.
        makers: the node that makes a tensor. Graph inputs and constants have none.
        takers: nodes that take a tensor.
        constants: initializers, and the values of Constant nodes.
        inputs: names of the model's own inputs.
        feeds: further makers of a tensor through a body: a result of an If is fed by its branches' results,
            a Loop's carried value by the initial one and by the body's result.
    """

    def __init__(self, model: ModelProto):
        self.nodes: dict[str, NodeProto] = {}
        self.makers: dict[str, NodeProto] = {}
        self.takers: dict[str, list[NodeProto]] = defaultdict(list)
        self.constants: dict[str, TensorProto] = {}
        self.inputs = {value.name for value in model.graph.input}
        self.feeds: dict[str, list[str]] = defaultdict(list)
        for graph in graphs_of(model.graph):
            self.constants.update((tensor.name, tensor) for tensor in graph.initializer)
            for node in graph.node:
                self._add(node)

    def _add(self, node: NodeProto) -> None:
        self.nodes[node_id(node)] = node
        for name in node.output:
            self.makers[name] = node
        for name in dict.fromkeys(node.input):
            self.takers[name].append(node)
        if node.op_type == "Constant" and node.domain in STANDARD:
            self.constants[node.output[0]] = constant_value(node)
        for variable in variables(node):
            for name in filter(None, variable.members):
                self.feeds[name].extend(variable.sources(node))


@dataclass(frozen=True)
class Variable:
    """A value that a node of bodies (If, Loop, Scan) hands in, round or out; it has one type.

    Attributes:
        members: its names: the body's input and the node's result, where it has these.
        results: where a body gives it: a body, and the place among its outputs.
        place: where the node takes its first value, among the node's inputs; None if it takes none.
    """

    members: tuple[str, ...]
    results: tuple[tuple[GraphProto, int], ...] = ()
    place: int | None = None

    def sources(self, node: NodeProto) -> list[str]:
        """The tensors that it may be."""
        first = [] if self.place is None else [node.input[self.place]]
        return first + [body.output[place].name for body, place in self.results]


def variables(node: NodeProto) -> list[Variable]:
    """What passes the borders of a node's bodies; empty for a node without."""
    graphs = bodies(node)
    if node.domain not in STANDARD or not graphs:
        return []
    if node.op_type == "If":
        return [Variable((name,), tuple((g, i) for g in graphs)) for i, name in enumerate(node.output)]
    (body,) = graphs
    # A Loop's body takes the trip and the condition first, and gives the condition.
    skipped, ahead = (2, 1) if node.op_type == "Loop" else (0, 0)
    rows = 0 if node.op_type == "Loop" else next(a.i for a in node.attribute if a.name == "num_scan_inputs")
    taken = [value.name for value in body.input][skipped:]
    carried = len(taken) - rows
    found = [
        Variable((name, node.output[i]), ((body, ahead + i),), skipped + i)
        for i, name in enumerate(taken[:carried])
    ]
    found += [Variable((name,), (), skipped + carried + i) for i, name in enumerate(taken[carried:])]
    stacked = range(carried, len(node.output))
    return found + [Variable((node.output[i],), ((body, ahead + i),)) for i in stacked]
