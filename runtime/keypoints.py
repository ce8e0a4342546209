"""Keypoints: names, limbs, what counts as missing, and heat maps.

Convention: (x, y) in pixels, x right, y down, pixel centres at integers; the order of OpenPose's COCO model,
18 keypoints; a missing one is (-1, -1).
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike

from posewarp.runtime.errors import ContractError, DataError, PosewarpWarning

KEYPOINT_NAMES = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
KEYPOINTS = len(KEYPOINT_NAMES)
KEYPOINT_ORDER = "openpose-18"  # what a contract's settings call it
# What is drawn as a line, in OpenPose's order (its colours follow this order).
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
MISSING = -1.0


def check_keypoints(keypoints: np.ndarray, height: int, width: int, what: str = "keypoints") -> np.ndarray:
    """Check that keypoints belong to a frame of this size.

    One outside the frame counts as missing, with a PosewarpWarning. A -1 or NaN in x or y makes it missing,
    without a warning.

    Args:
        keypoints: (18, 2), (x, y) in pixels.
        height, width: of the frame.
        what: names them in messages, such as their file.

    Returns: (18, 2), float32; missing ones (-1, -1).
    Raises: ContractError if the shape differs; DataError if none is visible, or if more than half of those
        not missing lie outside, saying what that looks like (swapped columns, another frame or resolution).
    """
    points = as_keypoints(keypoints, what)
    present = ~is_missing(points)
    if not present.any():
        raise DataError(f"{what}: no keypoint is visible; all {KEYPOINTS} are missing")
    outside = present & ~visible(points, height, width)
    frame = f"outside the picture of width {width} and height {height}"
    hint = _what_it_looks_like(points[present], height, width)
    if outside.sum() * 2 > present.sum():
        raise DataError(f"{what}: {outside.sum()} of {present.sum()} keypoints lie {frame}; {hint}")
    if present.sum() > 2 and points[present].max() <= 1:
        raise DataError(
            f"{what}: all lie between 0 and 1; multiply x by the width and y by the height, in pixels"
        )
    if outside.any():
        listed = ", ".join(
            f"{KEYPOINT_NAMES[i]} ({points[i, 0]:g}, {points[i, 1]:g})" for i in np.flatnonzero(outside)
        )
        warnings.warn(f"{what}: {listed} {frame}, taken as missing; {hint}", PosewarpWarning, stacklevel=2)
    return np.where((present & ~outside)[:, None], points, np.float32(MISSING))


def as_keypoints(keypoints: np.ndarray, what: str = "keypoints") -> np.ndarray:
    """(18, 2), float32.

    Raises: ContractError if it is not that.
    """
    points = np.asarray(keypoints)
    if points.shape != (KEYPOINTS, 2) or points.dtype.kind not in "fiu":
        raise ContractError(
            f"{what}: got {points.dtype} {points.shape}, expected numbers ({KEYPOINTS}, 2), (x, y) in pixels",
            got=points.shape,
            expected=(KEYPOINTS, 2),
        )
    return points.astype(np.float32)


def is_missing(keypoints: np.ndarray) -> np.ndarray:
    """(..., 2) to bool (...): marked as missing by -1 or NaN in x or y."""
    return ((keypoints == MISSING) | np.isnan(keypoints)).any(-1)


def scale_keypoints(keypoints: np.ndarray, scale: ArrayLike, offset: ArrayLike = (0.0, 0.0)) -> np.ndarray:
    """Keypoints of a picture that is resized by ``scale``, then moved by ``offset``, both along x and y.

    A pixel covers x - 0.5 to x + 0.5, so x becomes (x + 0.5) * scale - 0.5 + offset. What lies in the first pixel stays
    in the frame: shrinking takes x = 0 to -0.45 at a tenth, which networks would read as outside.

    Returns: (..., 2), float64; missing ones are moved too.
    """
    points = np.asarray(keypoints, np.float64)
    scaled = (points + 0.5) * scale - 0.5
    lowest = -np.maximum(offset, 0.0)  # behind padding there is room for the half pixel
    return np.where(points >= 0, np.maximum(scaled, lowest), scaled) + offset


def visible(keypoints: np.ndarray, height: int, width: int) -> np.ndarray:
    """(..., 2) to bool (...): inside the frame, 0 <= x < width and 0 <= y < height."""
    x, y = keypoints[..., 0], keypoints[..., 1]
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def to_heatmaps(
    keypoints: np.ndarray, height: int, width: int, sigma_px: float, kind: str = "gaussian"
) -> np.ndarray:
    """One map a keypoint, as ``models.heatmaps.to_heatmaps`` draws them (paper 3.1.1).

    h[y, x] = exp(-((x - kx)^2 + (y - ky)^2) / (2 sigma^2)), all zero where the keypoint is not visible

    Args:
        keypoints: (N, J, 2), (x, y) in pixels.
        height, width: of the maps, in pixels.
        sigma_px: standard deviation in pixels.
        kind: ``gaussian``; or ``delta``, one at the pixel that holds the keypoint (truncated), else zero.

    Returns: (N, J, height, width), float32.
    Raises: ContractError if the kind is another.
    """
    seen = visible(keypoints, height, width)[..., None]  # (N, J, 1)
    position = np.where(seen, keypoints, 0).astype(np.float32)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    if kind == "delta":
        along_x = (x == np.floor(position[..., :1])).astype(np.float32)  # (N, J, W)
        along_y = (y == np.floor(position[..., 1:])).astype(np.float32)  # (N, J, H)
    elif kind == "gaussian":
        scale = np.float32(-0.5 / sigma_px**2)
        along_x = np.exp(np.square(x - position[..., :1]) * scale)
        along_y = np.exp(np.square(y - position[..., 1:]) * scale)
    else:
        raise ContractError(f"heat map kind is {kind!r}, expected 'gaussian' or 'delta'", got=kind)
    return (along_y * seen)[..., None] * along_x[..., None, :]  # (N, J, H, W)


def _what_it_looks_like(points: np.ndarray, height: int, width: int) -> str:
    """The likeliest reason why some of these lie outside the frame."""
    if visible(points[:, ::-1], height, width).all():
        return "it looks as if x and y are swapped"
    # The data set's pictures are 256 wide as published, and are cut to 176 by 40 px on either side.
    if (height, width) == (256, 176) and visible(points - (40, 0), height, width).all():
        return "they look made for the 256-wide frame: subtract 40 from x"
    reach_x, reach_y = points.max(0)
    if reach_x >= width or reach_y >= height:
        return f"they reach to x = {reach_x:g}, y = {reach_y:g}, as if made for another resolution or crop"
    return "they look made for another crop of the picture"
