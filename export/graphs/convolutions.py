"""Convolutions that Winograd's filtering computes with a quarter of the multiplications, spelled so that a CPU may.

Such a convolution becomes a call of the model-local function posewarp::WinogradConv, whose body is the standard Conv,
or, with the Relu that alone takes its result, posewarp::WinogradConvRelu: the file runs everywhere, and ONNX Runtime
takes the operators of these names where libposewarp_cpu.so is registered.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from posewarp.export.graphs.graph import fresh_name
from posewarp.export.graphs.inlining import DOMAIN, STANDARD, all_nodes, graphs_of, opset_of

CONV, CONV_RELU = "WinogradConv", "WinogradConvRelu"
# With fewer channels transforming the maps costs more than is saved.
FEWEST_CHANNELS = 16

_FUNCTIONS_IR = 8  # the IR version that brought model-local functions
_PLAIN = {"group": [1], "strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}


def use_winograd(model: ModelProto) -> tuple[ModelProto, int]:
    """Spell every convolution that Winograd's filtering suits as our function.

    It suits 3x3 kernels with stride 1, one pixel of zeros around, one group, fp32 weights that are in the file, and
    ``FEWEST_CHANNELS`` or more on both sides.

    Returns: a new model, and how many were found.
    """
    rewritten = ModelProto()
    rewritten.CopyFrom(model)
    taken = {name for node in all_nodes(rewritten) for name in (*node.input, *node.output)}
    outputs = {value.name for graph in graphs_of(rewritten.graph) for value in graph.output}
    takers = Counter(name for node in all_nodes(rewritten) for name in node.input)
    used: list[str] = []
    for graph in graphs_of(rewritten.graph):
        weights = weights_of(graph)
        relus = {node.input[0]: node for node in graph.node if _is_relu(node)}
        fused = set()
        for node in graph.node:
            if not _suits(node, weights):
                continue
            inputs = inputs_of(node)
            if len(inputs) == 2:
                inputs.append(fresh_name(f"{node.output[0]}_bias", taken))
                zeros = np.zeros(weights[inputs[1]].dims[0], np.float32)
                graph.initializer.append(numpy_helper.from_array(zeros, inputs[2]))
            (result,) = node.output
            relu = relus.get(result) if takers[result] == 1 and result not in outputs else None
            if relu is not None:
                fused.add(result)
                result = relu.output[0]
            used.append(CONV if relu is None else CONV_RELU)
            node.CopyFrom(helper.make_node(used[-1], inputs, [result], node.name, domain=DOMAIN))
        kept = [node for node in graph.node if not (_is_relu(node) and node.input[0] in fused)]
        del graph.node[:]
        graph.node.extend(kept)
    for name in sorted(set(used)):
        _add_function(rewritten, name)
    return rewritten, len(used)


def count_winograd(model: ModelProto) -> int:
    """How many convolutions are spelled as our function already."""
    return sum(node.domain == DOMAIN and node.op_type in (CONV, CONV_RELU) for node in all_nodes(model))


def weights_of(graph: GraphProto) -> dict[str, TensorProto]:
    """Constants of a graph by name; not those that are inputs too, which a caller may replace."""
    given = {value.name for value in graph.input}
    nodes = (node for node in graph.node if node.op_type == "Constant" and node.domain in STANDARD)
    held = {node.output[0]: each.t for node in nodes for each in node.attribute if each.name == "value"}
    return held | {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}


def inputs_of(node: NodeProto) -> list[str]:
    """Features, weight and, if there is one, bias: an optional input may be left out by an empty name."""
    return [name for name in node.input if name]


def attributes_of(node: NodeProto, weight: TensorProto) -> dict[str, list[int]]:
    """Attributes of a Conv over two axes spelled out, with ``pads`` in place of ``auto_pad``.

    Those of ``SAME`` are for stride 1 without dilation.
    """
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    auto_pad = given.pop("auto_pad", b"NOTSET")
    attributes = {"group": 1, "strides": [1, 1], "dilations": [1, 1], "kernel_shape": weight.dims[2:]}
    attributes |= {"pads": [0, 0, 0, 0], **given}
    if auto_pad in (b"SAME_UPPER", b"SAME_LOWER"):
        less, more = ([(side - 1) // 2 for side in weight.dims[2:]], [side // 2 for side in weight.dims[2:]])
        attributes["pads"] = less + more if auto_pad == b"SAME_UPPER" else more + less
    elif auto_pad == b"VALID":
        attributes["pads"] = [0, 0, 0, 0]
    return {name: np.ravel(value).tolist() for name, value in attributes.items()}


def _is_relu(node: NodeProto) -> bool:
    return node.op_type == "Relu" and node.domain in STANDARD


def _suits(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    if node.op_type != "Conv" or node.domain not in STANDARD:
        return False
    weight = weights.get(node.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT or list(weight.dims[2:]) != [3, 3]:
        return False
    if min(weight.dims[:2]) < FEWEST_CHANNELS or any(name not in weights for name in inputs_of(node)[2:]):
        return False
    return attributes_of(node, weight) == _PLAIN


def _add_function(model: ModelProto, name: str) -> None:
    inputs, (convolved, result) = ["features", "weight", "bias"], ("convolved", "result")
    body = [helper.make_node("Conv", inputs, [convolved], kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    if name == CONV_RELU:
        body.append(helper.make_node("Relu", [convolved], [result]))
    opsets = [helper.make_opsetid("", opset_of(model))]
    model.functions.append(helper.make_function(DOMAIN, name, inputs, list(body[-1].output), body, opsets))
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.ir_version = max(model.ir_version, _FUNCTIONS_IR)
