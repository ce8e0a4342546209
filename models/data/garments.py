"""What a person looks like: patterned textures, skin, hair, proportions and the background.

A texture wraps once around a body part: rows run along the part, columns around it, the middle column is its front.
Its resolution is TEXELS per body height, so a pattern keeps its place on the body at every frame size. Hues of
garments are drawn from sectors of the colour circle that belong to one split alone: no garment of the test split
has a hue that a garment of the training split can have.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

TEXELS = 256
# Around the torso: an even number, so that the front has a middle.
TORSO_AROUND = 160
GARMENT_LENGTH = 136

HUE_SECTORS = 24
TEST_SECTORS = frozenset(range(3, HUE_SECTORS, 4))
# Of the second colour, at most this much: a pattern of moderate contrast is learnt sooner.
CONTRAST = 0.8
PATTERNS = ("stripes", "bands", "checks", "dots", "logo", "print")
LEG_PATTERNS = ("stripes", "bands", "checks", "dots", "print", "plain")
SKINS = ((255, 219, 190), (240, 194, 156), (214, 160, 118), (166, 112, 76), (112, 72, 50))
HAIRS = ((36, 28, 26), (70, 44, 30), (120, 78, 44), (202, 164, 98), (150, 62, 36), (150, 150, 152))


@dataclass(frozen=True)
class Garment:
    """A pattern in two colours, ``texture`` (GARMENT_LENGTH, TORSO_AROUND, 3) uint8, hues in [0, 1)."""

    pattern: str
    hues: tuple[float, float]
    texture: np.ndarray


@dataclass(frozen=True)
class Background:
    """Resolution-free: a grid of colours (3, 3, 3) to stretch, a floor from ``horizon`` (of the height) down,
    shapes as (kind, x, y, size, colour) in parts of the height, and a noise (8, 6) in 8-bit steps."""

    wall: np.ndarray
    floor: np.ndarray
    horizon: float
    shapes: tuple[tuple[int, float, float, float, tuple[int, int, int]], ...]
    noise: np.ndarray


@dataclass(frozen=True)
class Appearance:
    """All of a picture but the pose. Lengths of sleeves and legs are in parts of the arm and the leg."""

    top: Garment
    bottom: Garment
    style: str  # "trousers", "skirt" or "dress" (the top's texture all the way)
    sleeve: float
    leg: float
    girth: float
    skin: np.ndarray
    shoes: np.ndarray
    hair: np.ndarray
    long_hair: bool
    head: np.ndarray
    background: Background


def sample_hue(rng: np.random.Generator, split: str) -> float:
    """A hue in [0, 1) from the sectors of the split."""
    sectors = [s for s in range(HUE_SECTORS) if (s in TEST_SECTORS) == (split == "test")]
    return float((rng.choice(sectors) + rng.uniform(0, 0.999)) / HUE_SECTORS)


def sample_garment(rng: np.random.Generator, split: str, patterns: tuple[str, ...] = PATTERNS) -> Garment:
    """A pattern in two colours of clearly different lightness or hue."""
    hues = (sample_hue(rng, split), sample_hue(rng, split))
    dark_first = rng.random() < 0.5
    dark = _rgb(hues[0], rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.6))
    light = _rgb(hues[1], rng.uniform(0.2, 0.65), rng.uniform(0.8, 1.0))
    base, accent = (dark, light) if dark_first else (light, dark)
    pattern = str(rng.choice(patterns))
    palette = base + np.linspace(0, CONTRAST, 256)[:, None] * (accent - base)  # (256, 3)
    amount = np.rint(255 * _pattern(rng, pattern)).astype(np.uint8)
    texture = cv2.applyColorMap(amount, np.rint(palette).astype(np.uint8)[:, None])
    return Garment(pattern, hues, texture)


def sample_appearance(rng: np.random.Generator, split: str) -> Appearance:
    """Everything but the pose, drawn for one split ("train" or "test")."""
    skin = np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.92, 1.0)
    hair = np.array(HAIRS[rng.integers(len(HAIRS))]) * rng.uniform(0.85, 1.1)
    style = str(rng.choice(("trousers", "skirt", "dress"), p=(0.62, 0.22, 0.16)))
    if style == "trousers":
        leg = float(rng.choice((1.0, 0.5), p=(0.75, 0.25)))
    else:
        leg = float(rng.uniform(0.36, 0.62))
    return Appearance(
        top=sample_garment(rng, split),
        bottom=sample_garment(rng, split, LEG_PATTERNS),
        style=style,
        sleeve=float(rng.choice((0.0, 0.32, 1.0), p=(0.15, 0.45, 0.4))),
        leg=leg,
        girth=float(rng.uniform(0.98, 1.22)),
        skin=skin,
        shoes=_rgb(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.12, 0.4)),
        hair=hair,
        long_hair=bool(rng.random() < 0.45),
        head=_head_texture(skin, hair),
        background=_sample_background(rng),
    )


def solid(colour: np.ndarray, length: int = 4, around: int = 4) -> np.ndarray:
    """A texture of one colour (0..255)."""
    return np.full((length, around, 3), colour, dtype=np.uint8)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _pattern(rng: np.random.Generator, pattern: str) -> np.ndarray:
    """How much of the accent colour each texel has, (GARMENT_LENGTH, TORSO_AROUND) in [0, 1]."""
    # Periods of 4 to 12 px at a height of 128. A whole number of periods goes around, so there is no seam.
    period = rng.uniform(9, 24)
    around = max(6, round(TORSO_AROUND / period)) * 2 * np.pi / TORSO_AROUND
    u = (np.arange(TORSO_AROUND, dtype=np.float32) - TORSO_AROUND // 2) * np.float32(around)
    v = np.arange(GARMENT_LENGTH, dtype=np.float32)[:, None] * np.float32(2 * np.pi / period)
    duty = rng.uniform(-0.3, 0.3)
    full = np.ones((GARMENT_LENGTH, TORSO_AROUND), dtype=np.float32)
    if pattern == "stripes":
        return np.clip(0.5 + 1.6 * (np.cos(u) + duty), 0, 1) * full
    if pattern == "bands":
        return np.clip(0.5 + 1.6 * (np.sin(v) + duty), 0, 1) * full
    if pattern == "checks":
        return 0.5 * np.clip(0.5 + 2 * np.cos(u), 0, 1) + 0.5 * np.clip(0.5 + 2 * np.sin(v), 0, 1)
    if pattern == "dots":
        return np.clip(0.3 + 1.8 * (np.cos(u) + np.sin(v) - 0.7), 0, 1)
    if pattern == "print":
        coarse = rng.random((10, 12)).astype(np.float32)
        coarse = np.concatenate([coarse, coarse[:, :1]], axis=1)
        smooth = cv2.resize(coarse, (TORSO_AROUND, GARMENT_LENGTH), interpolation=cv2.INTER_CUBIC)
        return np.clip(0.5 + 5 * (smooth - 0.5), 0, 1)
    if pattern == "logo":
        return _logo(rng)
    return 0 * full


def _logo(rng: np.random.Generator) -> np.ndarray:
    """A shape on the chest, and often a band lower down."""
    canvas = np.zeros((GARMENT_LENGTH, TORSO_AROUND), dtype=np.uint8)
    centre = (TORSO_AROUND // 2, int(rng.integers(26, 40)))
    radius = int(rng.integers(10, 17))
    sides = int(rng.integers(3, 8))
    angles = np.arange(2 * sides) * np.pi / sides + np.pi / 2
    inner = rng.uniform(0.45, 1.0)
    star = radius * np.stack([np.cos(angles), -np.sin(angles)], axis=-1)
    star[1::2] *= inner
    cv2.fillPoly(canvas, [np.round(star + centre).astype(np.int32)], 255, cv2.LINE_AA)
    if rng.random() < 0.6:
        first = int(rng.integers(56, 80))
        canvas[first : first + int(rng.integers(8, 18))] = 255
    return canvas.astype(np.float32) / 255


def _head_texture(skin: np.ndarray, hair: np.ndarray) -> np.ndarray:
    """Face in front, hair on top and behind, ears at the sides: (42, 96, 3), the middle column is the nose."""
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


def _sample_background(rng: np.random.Generator) -> Background:
    def muted() -> np.ndarray:
        return _rgb(rng.random(), rng.uniform(0.03, 0.3), rng.uniform(0.55, 0.95))

    wall, floor = muted(), muted() * 0.8
    shapes = tuple(
        (
            int(rng.integers(3)),
            float(rng.uniform(-0.4, 0.4)),
            float(rng.uniform(0, 0.8)),
            float(rng.uniform(0.06, 0.22)),
            tuple(map(int, muted())),
        )
        for _ in range(rng.integers(0, 4))
    )
    return Background(
        wall=(wall + rng.uniform(-25, 25, (3, 3, 1))).astype(np.float32),
        floor=(floor + rng.uniform(-15, 15, (3, 3, 1))).astype(np.float32),
        horizon=float(rng.uniform(0.68, 0.92)),
        shapes=shapes,
        noise=rng.normal(0, 5, (12, 8)).astype(np.float32),
    )
