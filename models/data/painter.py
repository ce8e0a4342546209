"""The brush: fill an outline with a texture that is wrapped around a cylinder, anti-aliased."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from posewarp.models.data.garments import TEXELS

LIGHT_FROM = 0.25  # half widths left of the axis
ARC = np.linspace(0, 1, 7)  # corners of a limb's round end


class Painter:
    """A picture and, for each of its pixels, the label of what it shows (0 for the background).

    Args:
        image: uint8 (H, W, 3), painted on in place.
    """

    def __init__(self, image: np.ndarray):
        self.image = image
        self.labels = np.zeros(image.shape[:2], dtype=np.uint8)

    def paint(self, outline: np.ndarray, sprite: np.ndarray, to_sprite: np.ndarray, label: int) -> None:
        """Fill an outline (n, 2) in px with a sprite; ``to_sprite`` (2, 3) maps px to its columns, rows."""
        height, width = self.labels.shape
        points = np.rint(outline * 16).astype(np.int32)  # 4 fractional bits
        (left, top), (right, bottom) = (points.min(axis=0) >> 4).tolist(), (points.max(axis=0) >> 4).tolist()
        left, top, right, bottom = (
            max(left - 1, 0),
            max(top - 1, 0),
            min(right + 3, width),
            min(bottom + 3, height),
        )
        if right <= left or bottom <= top:
            return
        cover = np.zeros((bottom - top, right - left), dtype=np.uint8)
        cv2.fillPoly(cover, [points], 255, cv2.LINE_AA, 4, (-16 * left, -16 * top))
        matrix = to_sprite.copy()
        matrix[:, 2] += to_sprite[:, :2] @ (left, top)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (right - left, bottom - top)
        colour = cv2.warpAffine(sprite, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        window = np.s_[top:bottom, left:right]
        weight = cover * np.float32(1 / 255)
        self.image[window] = cv2.blendLinear(colour, self.image[window], weight, 1 - weight)
        self.labels[window][cover >= 128] = label


def front(texture: np.ndarray, radius: float, yaw: float, middle: int | None = None) -> np.ndarray:
    """The half of a wrapped texture that faces the viewer, shaded towards its sides.

    A texel at angle a from the front of the part is seen at a + yaw from the line of sight, so at the sine of
    that from the part's axis.

    Args:
        texture: (length, around, 3), uint8.
        radius: of the part, in body heights.
        yaw: of the part, in radians.
        middle: the texture's column on the part's front; its middle column if not given.

    Returns: (length, columns, 3), uint8, TEXELS a body height.
    """
    columns = max(3, round(2 * radius * TEXELS))
    angle, light = _cylinder(columns)
    around = texture.shape[1]
    girth = min(around, 2 * np.pi * radius * TEXELS)
    turn = (angle - yaw / (2 * np.pi)) % 1.0 - 0.5
    index = np.rint(turn * girth).astype(int) + (around // 2 if middle is None else middle)
    return ((texture.take(index, axis=1, mode="wrap") * light) >> 8).astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _cylinder(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each column across a cylinder: its angle from the line of sight, in turns plus a half, and its light
    (columns, 1) of 256."""
    position = (np.arange(columns) + 0.5) * (2 / columns) - 1
    light = np.minimum(1.04 - 0.34 * np.square(position + LIGHT_FROM), 1.0)
    return np.arcsin(position) / (2 * np.pi) + 0.5, np.rint(256 * light).astype(np.uint16)[:, None]


def axis(first: np.ndarray, last: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Length of a bone (px), its direction, and the one across it (to the right where it hangs down)."""
    x, y = (last[:2] - first[:2]).tolist()
    length = max(math.hypot(x, y), 1e-6)
    return length, np.array([x / length, y / length]), np.array([y / length, -x / length])


def capsule(
    first: np.ndarray, along: np.ndarray, length: float, r0: float, r1: float, flat: bool
) -> np.ndarray:
    """Outline (n, 2) of two discs and what lies between them; ``flat`` cuts the second end straight."""
    heading = math.atan2(along[1], along[0])
    tangent = math.acos(min(1.0, max(-1.0, (r0 - r1) / length)))
    arcs = (
        heading + tangent + ARC * (2 * np.pi - 2 * tangent),
        heading - tangent + (ARC[[0, -1]] if flat else ARC) * 2 * tangent,
    )
    outline = np.exp(1j * np.concatenate(arcs)).view(np.float64).reshape(-1, 2)  # cosine, sine
    outline[: len(ARC)] *= r0
    outline[len(ARC) :] *= r1
    outline[len(ARC) :] += length * along
    return outline + first


def sprite_map(
    origin: np.ndarray, along: np.ndarray, length: float, half_width: float, shape: tuple[int, ...]
) -> np.ndarray:
    """Affine map (2, 3) from pixels to a sprite's columns and rows.

    Args:
        origin: (2,), in px, where the middle of the sprite's upper edge lies.
        along: (2,), unit vector, down the sprite.
        length, half_width: of the whole sprite, in px.
        shape: of the sprite, (rows, columns, ...).
    """
    (x, y), (cos, sin) = origin.tolist(), along.tolist()
    across, down = shape[1] / 2 / half_width, shape[0] / length
    return np.array(
        [
            [across * sin, -across * cos, shape[1] / 2 - 0.5 - across * (sin * x - cos * y)],
            [down * cos, down * sin, -0.5 - down * (cos * x + sin * y)],
        ]
    )
