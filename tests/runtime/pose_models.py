"""Stubs of RTMPose, RTMO and YOLOX as ONNX files, and photos that the first of them understands.

The stub of RTMPose looks: joint k is where the picture has colour k. So its keypoints are right only if the picture
went in upright, scaled and in RGB, and the answer came back into the photo's frame.
"""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

COLORS = np.array([colorsys.hsv_to_rgb(k / 17, 1, 1) for k in range(17)], np.float32) * 255
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, as rtmlib has them
GREY = 128


def photo(coco: np.ndarray, height: int, width: int, radius: float = 5) -> np.ndarray:
    """Grey, with a disc of colour k at joint k; (17, 2), NaN leaves one out."""
    picture = np.full((height, width, 3), GREY, np.uint8)
    y, x = np.mgrid[:height, :width]
    for (joint_x, joint_y), color in zip(coco, COLORS, strict=True):
        picture[np.hypot(x - joint_x, y - joint_y) <= radius] = color.round()
    return picture


def rtmpose(path: Path, scores=1.0, height: int = 256, width: int = 192) -> Path:
    """simcc_x and simcc_y peak at the centre of each colour's pixels, by a joint's score; zero where it is nowhere."""
    constants = {
        "mean": np.float32(MEAN).reshape(1, 3, 1, 1),
        "std": np.float32(STD).reshape(1, 3, 1, 1),
        "colors": COLORS.reshape(1, 17, 3, 1, 1),
        "tolerance": np.float32(40**2),
        "one": np.float32(1),
        "tiny": np.float32(1e-6),
        "sure": np.float32(1 / 3),  # of three pixels
        "scores": np.broadcast_to(np.float32(scores), (1, 17, 1)).copy(),
        "x": np.arange(width, dtype=np.float32),
        "y": np.arange(height, dtype=np.float32).reshape(-1, 1),
        "bins_x": np.arange(2 * width, dtype=np.float32) / 2,
        "bins_y": np.arange(2 * height, dtype=np.float32) / 2,
        "length": np.float32(max(height, width)),
        "second": np.array([1]),
        "third": np.array([2]),
        "plane": np.array([2, 3]),
        "last": np.array([3]),
    }
    return _save(
        path,
        constants,
        f"(float[batch, 3, {height}, {width}] input)",
        f"(float[batch, 17, {2 * width}] simcc_x, float[batch, 17, {2 * height}] simcc_y)",
        """
        scaled = Mul(input, std)
        rgb = Add(scaled, mean)
        one_joint = Unsqueeze(rgb, second)
        off = Sub(one_joint, colors)
        square = Mul(off, off)
        distance = ReduceSum <keepdims = 0> (square, third)
        share = Div(distance, tolerance)
        left = Sub(one, share)
        map = Relu(left)
        mass4 = ReduceSum(map, plane)
        mass = Squeeze(mass4, last)
        enough = Mul(mass, sure)
        seen = Min(enough, one)
        score = Mul(seen, scores)
        safe = Add(mass, tiny)
        map_x = Mul(map, x)
        sum_x4 = ReduceSum(map_x, plane)
        sum_x = Squeeze(sum_x4, last)
        center_x = Div(sum_x, safe)
        off_x = Sub(bins_x, center_x)
        far_x = Abs(off_x)
        down_x = Div(far_x, length)
        peak_x = Sub(one, down_x)
        simcc_x = Mul(peak_x, score)
        map_y = Mul(map, y)
        sum_y4 = ReduceSum(map_y, plane)
        sum_y = Squeeze(sum_y4, last)
        center_y = Div(sum_y, safe)
        off_y = Sub(bins_y, center_y)
        far_y = Abs(off_y)
        down_y = Div(far_y, length)
        peak_y = Sub(one, down_y)
        simcc_y = Mul(peak_y, score)
        """,
    )


def yolox(path: Path, boxes: np.ndarray, size: int = 640) -> Path:
    """Always these boxes, (n, 4) in pixels of its input, but nobody unless the first pixel is blue, in BGR."""
    constants = {
        "boxes": np.float32(boxes)[None],
        "first": np.array([0, 0, 0, 0]),
        "second": np.array([1, 1, 1, 1]),
        "shape": np.array([1, 1, 1]),
        "count": np.array([1, len(boxes), 1]),
        "full": np.float32(255),
    }
    return _save(
        path,
        constants,
        f"(float[1, 3, {size}, {size}] input)",
        f"(float[1, {len(boxes)}, 5] dets)",
        """
        pixel = Slice(input, first, second)
        blue = Div(pixel, full)
        one_score = Reshape(blue, shape)
        score = Expand(one_score, count)
        dets = Concat <axis = 2> (boxes, score)
        """,
    )


def rtmo(path: Path, people: np.ndarray, size: int = 640) -> Path:
    """Always these people, (n, 17, 3) in pixels of its input with scores, each in the box around its joints."""
    people = np.float32(people)
    boxes = np.concatenate((people[..., :2].min(1), people[..., :2].max(1)), 1)
    return _save(
        path,
        {
            "found": np.column_stack((boxes, np.full(len(people), 0.9))).astype(np.float32)[None],
            "joints": people[None],
            "zero": np.float32(0),
        },
        f"(float[1, 3, {size}, {size}] input)",
        f"(float[1, {len(people)}, 5] dets, float[1, {len(people)}, 17, 3] keypoints)",
        """
        total = ReduceSum <keepdims = 0> (input)
        nothing = Mul(total, zero)
        dets = Add(found, nothing)
        keypoints = Add(joints, nothing)
        """,
    )


def _save(path: Path, constants: dict[str, np.ndarray], inputs: str, outputs: str, body: str) -> Path:
    text = f'<ir_version: 8, opset_import: ["": 17]> stub {inputs} => {outputs} {{{body}}}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
