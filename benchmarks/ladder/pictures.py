"""Pictures of what differs, amplified until it can be seen."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from posewarp.export.ladder.measures import distance, p999
from posewarp.runtime.contract import Contract

_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Picture:
    """The reference's picture, a rung's, and their difference, side by side, of the sample that differs most.

    Attributes:
        title: which rung, at what.
        caption: which sample, and how the difference is amplified.
        png: the file.
    """

    title: str
    caption: str
    png: bytes


def difference_picture(
    title: str, contract: Contract, got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> list[Picture]:
    """Draw the first output that is a picture; of a network without one nothing.

    Args:
        title: which rung, at what.
        contract: which tells the outputs, and whether a picture is in [-1, 1].
        got, expected: outputs of both by name; pictures are (N, H, W, 3) uint8 or (N, 3, H, W) float, or of 1 channel.
    """
    name = next((spec.name for spec in contract.outputs if _is_picture(expected[spec.name])), None)
    if name is None:
        return []
    first, second = got[name], expected[name]
    scale = (
        1.0 if contract.io == "tensors" else float(np.abs(second[np.isfinite(second)]).max(initial=0)) or 1.0
    )
    first, second = (_levels(array, scale) for array in (first, second))
    apart = distance(first, second).max(axis=3)  # (N, H, W), of 255
    worst = int(apart.max(axis=(1, 2)).argmax())
    largest = float(apart[worst].max())
    amplified, said = 1.0, "equal"
    if 0 < largest < math.inf:
        # By the 99.9th percentile: beside a single far value all else would be black.
        amplified = 2.0 ** max(0, math.floor(math.log2(255 / (p999(apart[worst]) or largest))))
        said = f"difference x {amplified:,.0f}, its largest value {largest:.2g} of 255"
    elif largest:
        said = "NaN or infinite where white"
    parts = (second[worst], first[worst], np.repeat(apart[worst, ..., None] * amplified, 3, axis=2))
    whole = np.concatenate([np.nan_to_num(part, nan=255.0).clip(0, 255).round() for part in parts], axis=1)
    drawn = io.BytesIO()
    Image.fromarray(whole.astype(np.uint8)).save(drawn, "png")
    return [Picture(title, f"sample {worst + 1} of {len(apart)}: {said}", drawn.getvalue())]


def _is_picture(array: np.ndarray) -> bool:
    return array.ndim == 4 and array.shape[3 if array.dtype == np.uint8 else 1] in _CHANNELS


def _levels(array: np.ndarray, scale: float) -> np.ndarray:
    """(N, H, W, 3), 0 to 255 for -scale to scale, not rounded; uint8 as it is."""
    values = array.astype(np.float64)
    if array.dtype != np.uint8:
        values = (values.transpose(0, 2, 3, 1) / scale + 1) * 127.5
    return np.broadcast_to(values, (*values.shape[:3], 3))
