"""From the frame of a data set's files to the frame that is trained on: pictures, label maps, keypoints alike.

Convention: heights are scaled onto each other and the middles agree. What is wider is cut at left and right, what is
narrower gets white columns; of (nearly) equal aspect, the whole is resized. So 256x256 becomes 256x176 without its 40
outer columns, 256x176 becomes 256x256 with 40 white ones, and 1101x750 becomes 256x176 as a whole. Pixel centres are at
integers: a pixel covers x - 0.5 to x + 0.5.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from posewarp.runtime.keypoints import MISSING, is_missing, scale_keypoints, visible

Size = tuple[int, int]  # (height, width), in pixels
# 750 / 1101 is 0.9 % off 176 / 256: the same frame at another resolution.
ASPECT_TOLERANCE = 0.02


def frame_image(image: np.ndarray, size: Size) -> np.ndarray:
    """uint8 (H, W, 3) to uint8 (*size, 3), by Pillow's bicubic filter, which averages when it shrinks."""
    return _frame(image, size, Image.Resampling.BICUBIC, 255)


def frame_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """uint8 (H, W) to uint8 ``size``, by the nearest label; 0 where there was nothing."""
    return _frame(labels, size, Image.Resampling.NEAREST, 0)


def frame_keypoints(keypoints: np.ndarray, frame: Size, size: Size) -> np.ndarray:
    """(..., 2) in pixels of ``frame`` to float32 (..., 2) in pixels of ``size``; outside of it is missing, (-1, -1)."""
    points = np.asarray(keypoints, np.float64)
    scale_x, scale_y, left = _placement(frame, size)
    moved = scale_keypoints(points, (scale_x, scale_y), (left, 0.0))
    keep = ~is_missing(points) & visible(points, *frame) & visible(moved, *size)
    return np.where(keep[..., None], moved, MISSING).astype(np.float32)


def same_aspect(frame: Size, size: Size) -> bool:
    """Whether one is the other at another resolution."""
    return abs(frame[1] * size[0] / (frame[0] * size[1]) - 1) < ASPECT_TOLERANCE


def _placement(frame: Size, size: Size) -> tuple[float, float, float]:
    """Scales along x and y, and where the frame's left edge comes to lie, in pixels of ``size``."""
    scale = size[0] / frame[0]
    if same_aspect(frame, size):
        return size[1] / frame[1], scale, 0.0
    return scale, scale, (size[1] - frame[1] * scale) / 2


def _frame(array: np.ndarray, size: Size, resample: Image.Resampling, fill: int) -> np.ndarray:
    frame = array.shape[:2]
    if frame == size:
        return array
    scale_x, _, left = _placement(frame, size)
    # What remains of the picture, in its own columns; and the columns that it fills.
    cut = max(-left / scale_x, 0.0)
    box = (cut, 0, frame[1] - cut, frame[0])
    margin = max(round(left), 0)
    resized = np.asarray(Image.fromarray(array).resize((size[1] - 2 * margin, size[0]), resample, box=box))
    if not margin:
        return resized
    framed = np.full((*size, *array.shape[2:]), fill, np.uint8)
    framed[:, margin : size[1] - margin] = resized
    return framed
