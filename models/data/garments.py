"""Patterned garment textures.

A texture wraps once around a body part: rows run along the part, columns around it, the middle column is its
front. Its resolution is TEXELS per body height, so a pattern keeps its place on the body at every frame size.
The two hues of a garment are drawn from sectors of the colour circle that belong to one split alone: no
garment of the test split has a hue that a garment of the training split can have.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

TEXELS = 256
# Around the torso: an even number, so that the front has a middle.
TORSO_AROUND = 160
GARMENT_LENGTH = 160

HUE_SECTORS = 24
TEST_SECTORS = frozenset(range(3, HUE_SECTORS, 4))
# Of the second colour, at most this much: a pattern of moderate contrast is learnt sooner.
CONTRAST = 0.55
PATTERNS = ("stripes", "bands", "checks", "dots", "logo", "print")
LEG_PATTERNS = ("stripes", "bands", "checks", "dots", "print", "plain")


@dataclass(frozen=True)
class Garment:
    """A pattern in two colours, ``texture`` (GARMENT_LENGTH, TORSO_AROUND, 3) uint8, hues in [0, 1)."""

    pattern: str
    hues: tuple[float, float]
    texture: np.ndarray


def sample_hue(rng: np.random.Generator, split: str) -> float:
    """A hue in [0, 1) from the sectors of the split."""
    sectors = [s for s in range(HUE_SECTORS) if (s in TEST_SECTORS) == (split == "test")]
    return float((rng.choice(sectors) + rng.uniform(0, 0.999)) / HUE_SECTORS)


def sample_garment(rng: np.random.Generator, split: str, patterns: tuple[str, ...] = PATTERNS) -> Garment:
    """A pattern in two colours of clearly different lightness or hue."""
    hues = (sample_hue(rng, split), sample_hue(rng, split))
    dark_first = rng.random() < 0.5
    dark = rgb(hues[0], rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.6))
    light = rgb(hues[1], rng.uniform(0.2, 0.65), rng.uniform(0.8, 1.0))
    base, accent = (dark, light) if dark_first else (light, dark)
    pattern = str(rng.choice(patterns))
    palette = base + np.linspace(0, CONTRAST, 256)[:, None] * (accent - base)  # (256, 3)
    amount = np.rint(255 * _pattern(rng, pattern)).astype(np.uint8)
    texture = cv2.applyColorMap(amount, np.rint(palette).astype(np.uint8)[:, None])
    return Garment(pattern, hues, texture)


def solid(colour: np.ndarray, length: int = 4, around: int = 4) -> np.ndarray:
    """A texture of one colour (0..255)."""
    return np.full((length, around, 3), colour, dtype=np.uint8)


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Hue, saturation and value in [0, 1] to red, green and blue, (3,), in 0..255."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _pattern(rng: np.random.Generator, pattern: str) -> np.ndarray:
    """How much of the accent colour each texel has, (GARMENT_LENGTH, TORSO_AROUND) in [0, 1]."""
    # Periods of 6 to 14 px at a height of 128. A whole number of periods goes around, so there is no seam.
    period = rng.uniform(12, 28)
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
