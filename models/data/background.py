"""What a person stands before: a wall with shapes on it and a floor, with some texture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from posewarp.models.data.garments import rgb

# Numbers of cells that the colours of wall and floor, and the texture, are stretched from.
CELLS = (3, 3)
TEXTURE_CELLS = (12, 8)


@dataclass(frozen=True)
class Shape:
    """A "disc", "rectangle" or "triangle"; x from the frame's middle, y from its top, in frame heights."""

    kind: str
    x: float
    y: float
    radius: float
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Background:
    """Independent of the frame's size.

    Attributes:
        wall, floor: (3, 3, 3), colours in 0..255, stretched over the frame; the floor is below ``horizon``.
        horizon: in frame heights.
        shapes: on the wall and the floor.
        texture: (12, 8), 8-bit steps of lightness, stretched over the frame.
    """

    wall: np.ndarray
    floor: np.ndarray
    horizon: float
    shapes: tuple[Shape, ...]
    texture: np.ndarray


def sample_background(rng: np.random.Generator) -> Background:
    """Muted colours, so that the person stands out."""

    def muted() -> np.ndarray:
        return rgb(rng.random(), rng.uniform(0.03, 0.3), rng.uniform(0.55, 0.95))

    def shape() -> Shape:
        kind = str(rng.choice(("disc", "rectangle", "triangle")))
        x, y, radius = rng.uniform(-0.4, 0.4), rng.uniform(0, 0.8), rng.uniform(0.03, 0.11)
        return Shape(kind, float(x), float(y), float(radius), tuple(map(int, muted())))

    return Background(
        wall=(muted() + rng.uniform(-25, 25, (*CELLS, 1))).astype(np.float32),
        floor=(0.8 * muted() + rng.uniform(-15, 15, (*CELLS, 1))).astype(np.float32),
        horizon=float(rng.uniform(0.68, 0.92)),
        shapes=tuple(shape() for _ in range(rng.integers(0, 4))),
        texture=rng.normal(0, 5, TEXTURE_CELLS).astype(np.float32),
    )


def draw_background(background: Background, height: int, width: int) -> np.ndarray:
    """The empty frame, uint8 (height, width, 3)."""
    horizon = round(background.horizon * height)
    image = cv2.resize(background.wall, (width, height))
    image[horizon:] = cv2.resize(background.floor, (width, height))[horizon:]
    texture = cv2.resize(background.texture, (width, height), interpolation=cv2.INTER_CUBIC)
    image += texture[..., None]
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    for shape in background.shapes:
        x, y, radius = (
            round(v) for v in (width / 2 + shape.x * height, shape.y * height, shape.radius * height)
        )
        if shape.kind == "disc":
            cv2.circle(canvas, (x, y), radius, shape.colour, -1, cv2.LINE_AA)
        elif shape.kind == "rectangle":
            cv2.rectangle(
                canvas, (x - radius, y - 2 * radius), (x + radius, y + 2 * radius), shape.colour, -1
            )
        else:
            corners = np.array([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)])
            cv2.fillPoly(canvas, [corners], shape.colour, cv2.LINE_AA)
    return canvas
