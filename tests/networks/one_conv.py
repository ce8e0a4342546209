"""A file of one convolution."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PADS = {"pads": [1, 1, 1, 1]}


def conv_model(
    channels=(16, 16), kernel=3, bias=True, weight_is_input=False, relu=False, size=("H", "W"), **attributes
) -> onnx.ModelProto:
    """One convolution of random weights, ``x`` (N, C, H, W) to ``y``; ``kernel`` is a side, or height and width."""
    inputs, outputs = channels
    group = attributes.get("group", 1)
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(outputs, inputs // group, *sides)).astype(np.float32)
    tensors = [numpy_helper.from_array(weight, "w")]
    if bias:
        tensors.append(numpy_helper.from_array(rng.normal(size=outputs).astype(np.float32), "b"))
    convolved = "convolved" if relu else "y"
    nodes = [helper.make_node("Conv", ["x", "w", *(["b"] if bias else [])], [convolved], **attributes)]
    if relu:
        nodes.append(helper.make_node("Relu", [convolved], ["y"]))
    value = helper.make_tensor_value_info
    given = [value("x", TensorProto.FLOAT, ["N", inputs, *size])]
    if weight_is_input:
        given.append(value("w", TensorProto.FLOAT, weight.shape))
    graph = helper.make_graph(
        nodes, "conv", given, [value("y", TensorProto.FLOAT, ["N", outputs, "Ho", "Wo"])], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
