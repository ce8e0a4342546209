"""A graph of one warp, as it should be and with planted faults: for tests of what measures them."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from posewarp.export.graphs.warps import rewrite_warps

FAULTS = ("rounded grid", "swapped axes", "nearest", "batch", "nan")


def one_warp(
    height: int,
    width: int,
    *,
    half: bool = False,
    fault: str = "",
    flow_is_input: bool = False,
    opset: int = 18,
) -> ModelProto:
    """``warped`` = ``image`` (N, 3, H, W), sampled at a base grid plus a flow of up to some 8 px; align_corners.

    1x1 Convs, the last one ``head``, give the flow in px from the image; or it is the input ``flow`` (N, 2, H, W).

    Args:
        height, width: of the picture.
        half: image and head in FP16, coordinates in FP32, our node; else FP32 and GridSample.
        fault: one of ``FAULTS``: the grid rounded to FP16; x and y swapped; sampled nearest; all but the first of
            a batch sampled without flow; the result divided by zero.
        flow_is_input: whether the flow is an input.
        opset: of the standard operators.
    """
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    dtype = np.float16 if half else np.float32
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    weights = {
        "base": np.stack([x, y], -1)[None].astype(np.float32),
        "scale": np.array([2 / (width - 1), 2 / (height - 1)], np.float32),
        "lift": np.eye(8, 3, dtype=dtype).reshape(8, 3, 1, 1),
        "filter": np.pad(np.array([[6, 1, 1], [-1, 6, -1]], dtype), ((0, 0), (0, 5))).reshape(2, 8, 1, 1),
        "order": np.array([1, 0] if fault == "swapped axes" else [0, 1]),
        "zero": np.array(0, np.float32),
        "first": np.array([0]),
        "one": np.array([1]),
    }
    grid_kinds = (
        (TensorProto.FLOAT16, TensorProto.FLOAT) if fault == "rounded grid" else (TensorProto.FLOAT,) * 2
    )
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["features"], to=kind),
        node("Conv", ["features", "lift"], ["lifted"]),
        node("Conv", ["lifted", "filter"], ["head"]),
        node("Cast", ["flow" if flow_is_input else "head"], ["flow_fp32"], to=TensorProto.FLOAT),
        node("Transpose", ["flow_fp32"], ["offset"], perm=[0, 2, 3, 1]),
        node("Mul", ["offset", "scale"], ["normalised"]),
        node("Add", ["base", "normalised"], ["moved"]),
        node("Gather", ["moved", "order"], ["ordered"], axis=3),
        node("Cast", ["ordered"], ["rounded"], to=grid_kinds[0]),
        node("Cast", ["rounded"], ["grid"], to=grid_kinds[1]),
        node(
            "GridSample",
            ["features", "grid"],
            ["sampled"],
            mode="nearest" if fault == "nearest" else "linear" if opset >= 20 else "bilinear",
            padding_mode="border",
            align_corners=1,
        ),
        node("Cast", ["sampled"], ["warped"], to=TensorProto.FLOAT),
    ]
    if fault == "batch":
        nodes[7:8] = [
            node("Gather", ["moved", "first"], ["moved_first"], axis=0),
            node("Shape", ["moved"], ["moved_shape"]),
            node("Expand", ["base", "moved_shape"], ["still"]),
            node("Slice", ["still", "one", "batch_end", "first"], ["still_rest"]),
            node("Concat", ["moved_first", "still_rest"], ["ordered"], axis=0),
        ]
        weights["batch_end"] = np.array([2**31])
    if fault == "nan":
        nodes[-1].output[0] = "finite"
        nodes += [
            node("Mul", ["finite", "zero"], ["nothing"]),
            node("Div", ["finite", "nothing"], ["warped"]),
        ]
    shape = ["batch", 3, height, width]
    inputs = {"image": shape} | ({"flow": ["batch", 2, height, width]} if flow_is_input else {})
    used = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "one_warp",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in inputs.items()],
        [helper.make_tensor_value_info("warped", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return rewrite_warps(model, "portable") if half else model
