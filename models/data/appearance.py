"""Who is in the picture: garments, proportions, skin, hair, and the background."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from posewarp.models.data.background import Background, sample_background
from posewarp.models.data.garments import LEG_PATTERNS, Garment, rgb, sample_garment, solid

SKINS = ((255, 219, 190), (240, 194, 156), (214, 160, 118), (166, 112, 76), (112, 72, 50))
HAIRS = ((36, 28, 26), (70, 44, 30), (120, 78, 44), (202, 164, 98), (150, 62, 36), (150, 150, 152))


@dataclass(frozen=True)
class Appearance:
    """All of a picture but the pose.

    Attributes:
        top, bottom: garments; a dress shows the top alone.
        style: "trousers", "skirt" or "dress".
        sleeve: "none", "short" or "long".
        leg: how far trousers or skirt reach down, in parts of the leg.
        girth: a factor on the widths of the body.
        skin, shoes, hair: colours, (3,), 0..255.
        head: texture of the head, uint8 (rows, around, 3).
    """

    top: Garment
    bottom: Garment
    style: str
    sleeve: str
    leg: float
    girth: float
    skin: np.ndarray
    shoes: np.ndarray
    hair: np.ndarray
    long_hair: bool
    head: np.ndarray
    background: Background


def sample_appearance(rng: np.random.Generator, split: str) -> Appearance:
    """Everything but the pose, drawn for one split ("train" or "test")."""
    skin = np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.92, 1.0)
    hair = np.array(HAIRS[rng.integers(len(HAIRS))]) * rng.uniform(0.85, 1.1)
    style = str(rng.choice(("trousers", "skirt", "dress"), p=(0.62, 0.22, 0.16)))
    if style == "trousers":
        leg = float(rng.choice((1.0, 0.4), p=(0.75, 0.25)))
    else:
        leg = float(rng.uniform(0.36, 0.62))
    return Appearance(
        top=sample_garment(rng, split),
        bottom=sample_garment(rng, split, LEG_PATTERNS),
        style=style,
        sleeve=str(rng.choice(("none", "short", "long"), p=(0.15, 0.45, 0.4))),
        leg=leg,
        girth=float(rng.uniform(0.98, 1.22)),
        skin=skin,
        shoes=rgb(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.12, 0.4)),
        hair=hair,
        long_hair=bool(rng.random() < 0.45),
        head=_head_texture(skin, hair),
        background=sample_background(rng),
    )


def _head_texture(skin: np.ndarray, hair: np.ndarray) -> np.ndarray:
    """Face in front, hair on top and behind, ears at the sides: (42, 96, 3), nose in the middle column."""
    height, around = 42, 96
    texture = solid(skin, height, around)
    dark, lips = tuple(map(int, 0.25 * skin)), tuple(map(int, skin * (0.8, 0.5, 0.5)))
    cv2.rectangle(texture, (0, 0), (around, 11), hair.tolist(), -1)
    for first, last in ((0, 21), (around - 21, around)):
        cv2.rectangle(texture, (first, 0), (last, 36), hair.tolist(), -1)
    for side in (-1, 1):
        eye = (around // 2 + 7 * side, 19)
        cv2.ellipse(texture, eye, (4, 2), 0, 0, 360, (232, 232, 232), -1, cv2.LINE_AA)
        cv2.circle(texture, eye, 2, dark, -1, cv2.LINE_AA)
        cv2.line(texture, (eye[0] - 4, 14), (eye[0] + 4, 14), hair.tolist(), 1, cv2.LINE_AA)
        ear = (around // 2 + 24 * side, 22)
        cv2.ellipse(texture, ear, (4, 6), 0, 0, 360, (0.86 * skin).tolist(), -1, cv2.LINE_AA)
    cv2.line(texture, (around // 2, 21), (around // 2, 26), (0.8 * skin).tolist(), 2, cv2.LINE_AA)
    cv2.ellipse(texture, (around // 2, 32), (6, 2), 0, 0, 360, lips, -1, cv2.LINE_AA)
    return texture
