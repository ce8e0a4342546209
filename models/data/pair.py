"""A training example, wherever it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pair:
    """A training example.

    Attributes:
        source_image, target_image: uint8 (H, W, 3), RGB.
        source_keypoints, target_keypoints: float32 (18, 2), (x, y) in pixels, OpenPose COCO-18 order;
            (-1, -1) for missing.
        garment_mask: bool (H, W), the target's visible garment pixels.
    """

    source_image: np.ndarray
    target_image: np.ndarray
    source_keypoints: np.ndarray
    target_keypoints: np.ndarray
    garment_mask: np.ndarray
