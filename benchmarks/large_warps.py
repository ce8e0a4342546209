"""A network of large warps, shaped as first-order-motion and thin-plate animation models are."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from posewarp.export.graphs.warps import rewrite_warps

CHANNELS = (64, 128, 256)


def large_warps(align_corners: bool, size: int = 256, seed: int = 0) -> ModelProto:
    """An encoder of three scales, each scale's features warped by one motion field, a decoder that joins them.

    Inputs ``source`` (B, 3, size, size) and ``motion`` (B, 2, size/4, size/4), absolute positions in -1..1;
    output ``animated`` (B, 3, size, size). Random weights; the warps are spelled portably.
    """
    rng = np.random.default_rng(seed)
    nodes, weights = [], []

    def add(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    def conv(x: str, name: str, inputs: int, outputs: int, stride: int = 1) -> str:
        values = rng.standard_normal((outputs, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))
        weight = constant(f"{name}.weight", values.astype(np.float32))
        x = add("Conv", [x, weight], f"{name}.conv", pads=[1] * 4, strides=[stride] * 2)
        return add("Relu", [x], name)

    def resize(x: str, name: str, factor: int) -> str:
        scales = constant(f"{name}.scales", np.float32([1, 1, factor, factor]))
        return add("Resize", [x, "", scales], name, mode="linear")

    x, features = "source", []
    for scale, (inputs, outputs) in enumerate(zip((3, *CHANNELS), CHANNELS, strict=False)):
        x = conv(x, f"encoder{scale}", inputs, outputs, stride=1 if scale == 0 else 2)
        features.append(x)
    joined = None
    for scale in (2, 1, 0):
        positions = resize("motion", f"positions{scale}", 2 ** (2 - scale)) if scale < 2 else "motion"
        grid = add("Transpose", [positions], f"grid{scale}", perm=[0, 2, 3, 1])
        warped = add(
            "GridSample",
            [features[scale], grid],
            f"warped{scale}",
            mode="bilinear",
            padding_mode="zeros",
            align_corners=int(align_corners),
        )
        joined = warped if joined is None else add("Add", [warped, joined], f"joined{scale}")
        if scale > 0:
            joined = conv(joined, f"decoder{scale}", CHANNELS[scale], CHANNELS[scale - 1])
            joined = resize(joined, f"upsampled{scale}", 2)
    last = constant("last.weight", (rng.standard_normal((3, CHANNELS[0], 3, 3)) / 24).astype(np.float32))
    add("Conv", [joined, last], "picture", pads=[1] * 4)
    add("Tanh", ["picture"], "animated")

    def value(name: str, *shape: object) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])

    graph = helper.make_graph(
        nodes,
        "large_warps",
        [value("source", 3, size, size), value("motion", 2, size // 4, size // 4)],
        [value("animated", 3, size, size)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return rewrite_warps(model, "portable")


def large_warps_feeds(size: int = 256, batch: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """A smooth random picture, and a motion of up to a tenth of its size."""
    rng = np.random.default_rng(seed)
    ticks = (2 * np.arange(size // 4) + 1) / (size // 4) - 1  # pixel centres, -1 and 1 the outer edges
    y, x = np.meshgrid(ticks, ticks, indexing="ij")
    phase = rng.uniform(0, 6, (batch, 1, 1))
    motion = np.stack([x + 0.2 * np.sin(4 * y + phase), y + 0.2 * np.cos(3 * x + phase)], 1)
    picture = rng.uniform(-1, 1, (batch, 3, size // 8, size // 8)).repeat(8, 2).repeat(8, 3)
    return {"source": picture.astype(np.float32), "motion": motion.astype(np.float32)}
