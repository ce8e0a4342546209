"""What the tests of the sampling core share: an oracle that owes it nothing, cases, tolerances, the library twice."""

from __future__ import annotations

import shutil
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from posewarp.runtime import plugin_library

MODES = {4: ("bilinear", "nearest", "bicubic"), 5: ("bilinear", "nearest")}
PADDINGS = ("zeros", "border", "reflection")
# Not a number, infinite, past 32-bit integers in pixels, past float32 in pixels, and what lies near the edges.
SPECIAL = (np.nan, np.inf, -np.inf, 1e7, -1e7, 2.5e38, -2.5e38, 3e38, -3e38, -1.0, 0.0, 1.0, 1.5, -1.25)


@pytest.fixture(scope="session", params=["best", "portable"])
def sampler(request, tmp_path_factory):
    """``grid_sample`` of runtime.plugin_library, once with what the CPU has and once with the portable loops."""
    path = plugin_library.find("cpu")
    assert path is not None, "run `make plugins` first"
    if request.param == "best":
        return partial(plugin_library.grid_sample, library=plugin_library.load(path))
    # A library chooses once, so the second choice needs a second library.
    library = plugin_library.load(shutil.copy(path, tmp_path_factory.mktemp("portable") / path.name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSEWARP_CPU_SIMD", "portable")
        assert plugin_library.simd(library) == "portable"
    return partial(plugin_library.grid_sample, library=library)


def to_pixels(grid: np.ndarray, sizes: tuple[int, ...], align_corners: bool) -> np.ndarray:
    """Positions in pixels, float64, axis order as in the grid (x first); ``sizes`` in the order of the features."""
    grid, sizes = grid.astype(np.float64), np.array(sizes[::-1], np.float64)
    if align_corners:
        return (grid + 1) / 2 * (sizes - 1)
    return ((grid + 1) * sizes - 1) / 2


def equation(features, grid, mode, padding_mode, align_corners) -> np.ndarray:
    """ONNX GridSample in float64: a sum over *all* pixels, weighted by the kernel of their distance.

    out[n, c, p] = sum over pixels i of features[n, c, i] * product over axes a of weight_a[p, i_a],
    weight_a[p, i] = sum over whole numbers t that the padding sends to i of kernel(x_a(p) - t)
    """
    sizes, spatial = features.shape[2:], "zyx"[-(features.ndim - 2) :]
    positions = to_pixels(grid.reshape(len(grid), -1, len(sizes)), sizes, align_corners)[..., ::-1]
    weights = [
        _weights(positions[..., a], size, mode, padding_mode, align_corners) for a, size in enumerate(sizes)
    ]
    terms = ",".join(f"np{axis}" for axis in spatial)
    out = np.einsum(f"nc{spatial},{terms}->ncp", features.astype(np.float64), *weights, optimize=True)
    return out.reshape(*features.shape[:2], *grid.shape[1:-1])


def _weights(x, size, mode, padding_mode, align_corners):
    """(N, P, size): the weight of each pixel of one axis."""
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)

    def fold(position):  # a triangle wave between low and high, then onto the pixels
        if padding_mode == "reflection" and high > low:
            span = high - low
            position = low + span - np.abs((position - low) % (2 * span) - span)
        return position if padding_mode == "zeros" else np.clip(position, 0, size - 1)

    if mode != "bicubic":  # bicubic pads each tap by itself
        x = fold(x)
    kernel = {"nearest": None, "bilinear": _tent, "bicubic": _keys}[mode]
    weights = np.zeros((*x.shape, size))
    if kernel is None:
        taps = [(np.rint(x), np.ones_like(x))]
    else:
        taps = [(np.floor(x) + k, kernel(np.abs(x - np.floor(x) - k))) for k in (-1, 0, 1, 2)]
    for tap, weight in taps:
        tap = fold(tap)
        inside = (tap >= 0) & (tap < size)
        index = np.where(inside, tap, 0).astype(int)
        np.add.at(weights, (*np.indices(x.shape), index), np.where(inside, weight, 0))
    return weights


def _tent(distance):
    return np.maximum(0, 1 - distance)


def _keys(d, a=-0.75):
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def tolerance(features, grid, padding_mode, align_corners) -> np.ndarray:
    """1e-6 + 4 ulp(pixel coordinate) x the largest difference of neighbouring pixels, for each grid point."""
    sizes = features.shape[2:]
    positions = np.abs(to_pixels(grid, sizes, align_corners)).max(-1)
    ulp = np.spacing(np.maximum(positions, 1).astype(np.float32)).astype(np.float64)
    image = features.astype(np.float64)
    if padding_mode == "zeros":
        image = np.pad(image, [(0, 0), (0, 0), *[(1, 1)] * len(sizes)])
    steps = [np.abs(np.diff(image, axis=a)).max(initial=0) for a in range(2, image.ndim)]
    return (1e-6 + 4 * ulp * max(steps))[:, None]


def away_from_ties(features, grid, align_corners) -> np.ndarray:
    """Where nearest has one answer whatever the last bits of the position."""
    positions = to_pixels(grid, features.shape[2:], align_corners)
    ulp = np.spacing(np.maximum(np.abs(positions), 1).astype(np.float32))
    # Reflection mirrors at halves: so far from one, no mirror moves a position over a tie.
    return (np.abs(positions - np.floor(positions) - 0.5) > 8 * ulp).all(-1)[:, None]


def torch_sample(features, grid, mode, padding_mode, align_corners) -> np.ndarray:
    return F.grid_sample(
        torch.from_numpy(features), torch.from_numpy(grid), mode, padding_mode, align_corners
    ).numpy()


def random_case(rng: np.random.Generator, *, largest: int = 14, scale: float | None = None):
    """Features in -1..1 and a grid of odd sizes; positions reach ``scale`` times as far as the picture."""
    rank = int(rng.integers(2, 4))
    batch, channels = int(rng.integers(1, 3)), int(rng.choice([1, 2, 3, 7, 8, 9, 17]))
    sizes, out_sizes = (tuple(int(s) for s in rng.integers(1, largest, rank)) for _ in range(2))
    scale = scale if scale is not None else float(rng.choice([1.0, 1.5, 20.0]))
    features = rng.uniform(-1, 1, (batch, channels, *sizes)).astype(np.float32)
    return features, rng.uniform(-scale, scale, (batch, *out_sizes, rank)).astype(np.float32)
