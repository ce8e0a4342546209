"""Convolutions of few outputs, written as ones of many: ONNX Runtime rounds the outputs on a CPU up to 16.

What gives K maps computes a pixel of each; the same with the kernel laid at each of s x s neighbouring places gives
s x s pixels at once, as K s s maps at stride s, which DepthToSpace puts side by side:

    Conv(x; w, stride 1) = DepthToSpace_s(Conv(x; v, stride s)),    v[(dy, dx, k)] = w[k] shifted by (dy, dx)

with the same pads, where the result's height and width are multiples of s. The kernel grows by s - 1, by zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from posewarp.export.graphs.convolutions import attributes_of, inputs_of, weights_of
from posewarp.export.graphs.graph import fresh_name, tensor_types
from posewarp.export.graphs.inlining import STANDARD, all_nodes, graphs_of

_PLAIN = {"group": [1], "strides": [1, 1], "dilations": [1, 1]}


def widen_narrow(model: ModelProto) -> tuple[ModelProto, int]:
    """Write every convolution of few outputs, where that is faster, as one of many and a DepthToSpace.

    It suits kernels with stride 1, one group, no dilation, and fp32 weights that are in the file, where the result's
    height and width are known from the inputs' and even. In ONNX Runtime the results are the same bits, but where it
    convolves one of the two as a product of matrices: of 16 or more inputs that are no multiple of 4, of weights that
    are inputs, or behind an empty name for the bias. Then they differ by rounding, 1e-6 of the largest.
    A NaN or an infinity of the features spreads over the pixels that are made together.

    Args:
        model: without functions that hold convolutions; left as it is.

    Returns: a new model, and how many were found.
    """
    widened = ModelProto()
    widened.CopyFrom(model)
    types = _inferred(widened)
    taken = {name for node in all_nodes(widened) for name in (*node.input, *node.output)}
    taken.update(tensor.name for graph in graphs_of(widened.graph) for tensor in graph.initializer)
    found = 0
    for graph in graphs_of(widened.graph):
        weights = weights_of(graph)
        nodes: list[NodeProto] = []
        for node in graph.node:
            stride = _stride_for(node, weights, types)
            nodes.extend(_widen(node, stride, graph, weights, taken) if stride > 1 else [node])
            found += stride > 1
        del graph.node[:]
        graph.node.extend(nodes)
    if found:
        _drop_unused(widened)
    return widened, found


def stride_of(outputs: int, kernel: tuple[int, int], height: int, width: int) -> int:
    """The stride at which a convolution of so many outputs is fastest; 1 where it is best left alone.

    Measured: ms of a convolution at strides 1, 2, 4, DepthToSpace included (ONNX Runtime 1.32, 2 threads, AVX-512;
    the smallest of 9 to 15 runs in turns, quiet machine):

        last of deepfashion  64 -> 3, 7x7, 256x176:  15.7  5.2  3.6        32 -> 3, 3x3, 128x128:  0.43  0.23  0.23
        last of demo         24 -> 3, 7x7, 128x64:   1.68  0.65 0.40       32 -> 4, 5x5, 128x128:  1.45  0.49  0.57
        first-order network  12 -> 3, 7x7, 256x192:  3.08  1.22 1.01       32 -> 8, 7x7, 128x128:  3.09  1.48  2.13
        its mask             12 -> 1, 7x7, 64x48:    0.25  0.11 0.07       32 -> 8, 5x5, 128x128:  1.43  0.83  2.65
        its keypoints        12 -> 6, 7x7, 64x48:    0.26  0.18 0.18       32 -> 5, 3x3, 128x128:  0.43  0.43  0.60

    A kernel of fewer than 9 values, such as 1x7, gains next to nothing.
    """
    area = kernel[0] * kernel[1]
    strides: tuple[int, ...] = ()
    if outputs <= 4 and area >= 25:
        strides = (4, 2)
    elif (outputs <= 4 and area >= 9) or (outputs <= 8 and area >= 25):
        strides = (2,)
    return next((s for s in strides if height % s == width % s == 0), 1)


def _inferred(model: ModelProto) -> dict[str, TypeProto.Tensor]:
    """Types by the inputs alone: sizes that a file declares of its results may be those of one run of its exporter."""
    blank = ModelProto()
    blank.CopyFrom(model)
    for graph in graphs_of(blank.graph):
        del graph.value_info[:]
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
    return tensor_types(blank)


def _stride_for(
    node: NodeProto, weights: Mapping[str, TensorProto], types: Mapping[str, TypeProto.Tensor]
) -> int:
    if node.op_type != "Conv" or node.domain not in STANDARD:
        return 1
    weight, result = weights.get(node.input[1]), types.get(node.output[0])
    if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 4:
        return 1
    if any(name not in weights for name in inputs_of(node)[2:]):
        return 1
    attributes = attributes_of(node, weight)
    if any(attributes[name] != wanted for name, wanted in _PLAIN.items()):
        return 1
    # An unknown size is 0 here, a shape that is not known at all has none.
    sizes = [axis.dim_value for axis in result.shape.dim[2:]] if result is not None else []
    return stride_of(weight.dims[0], tuple(weight.dims[2:]), *sizes) if all(sizes) and sizes else 1


def _widen(
    node: NodeProto, stride: int, graph: GraphProto, weights: Mapping[str, TensorProto], taken: set[str]
) -> list[NodeProto]:
    """The two nodes that take its place; their weights are added to the graph."""
    weight = numpy_helper.to_array(weights[node.input[1]])
    outputs, inputs, *kernel = weight.shape
    wide = np.zeros((stride, stride, outputs, inputs, *(side + stride - 1 for side in kernel)), np.float32)
    for dy, dx in np.ndindex(stride, stride):
        wide[dy, dx, :, :, dy : dy + kernel[0], dx : dx + kernel[1]] = weight
    arrays = [wide.reshape(-1, *wide.shape[3:])]
    given = inputs_of(node)
    if len(given) > 2:
        arrays.append(np.tile(numpy_helper.to_array(weights[given[2]]), stride * stride))
    names = [fresh_name(f"{name}_wide", taken) for name in given[1:]]
    graph.initializer.extend(map(numpy_helper.from_array, arrays, names))
    convolved = fresh_name(f"{node.output[0]}_wide", taken)
    return [
        helper.make_node(
            "Conv",
            [node.input[0], *names],
            [convolved],
            node.name,
            strides=[stride, stride],
            pads=attributes_of(node, weights[node.input[1]])["pads"],
        ),
        helper.make_node("DepthToSpace", [convolved], list(node.output), blocksize=stride),
    ]


def _drop_unused(model: ModelProto) -> None:
    """Without the weights that no node takes any more."""
    used = {name for node in all_nodes(model) for name in node.input}
    for graph in graphs_of(model.graph):
        used |= {value.name for value in (*graph.input, *graph.output)}
    for graph in graphs_of(model.graph):
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
