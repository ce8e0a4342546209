"""What is measured of one generated picture and its ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from posewarp.models.metrics import psnr, ssim
from posewarp.runtime.errors import BackendError, DataError
from posewarp.runtime.keypoints import is_missing

PADDING_PX = 40  # white on each side of a 176-wide picture: the frame of PATN's tool/getMetrics_fashion.py
DEEPFASHION = (256, 176)

# Of tool/pose_utils.py (produce_ma_mask), numbered from 0: besides limbs they close the trunk and the head.
_MASK_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17), (1, 16), (1, 17), (8, 11), (11, 5), (8, 2), (16, 17),
)  # fmt: skip
_MASK_RADIUS_PX = 4

# How each column of a report was measured.
DEFINITIONS = {
    "psnr_db": "all pixels, 8-bit levels, mean over pairs of 10 log10(255^2 / MSE)",
    "garment_psnr_db": "the same over the target's garment mask",
    "ssim": "the picture as it is, Gaussian sigma 1.5, no sample covariance, range 255",
    "ssim_patn_padded": "176-wide pictures on 256 x 256, 40 px white on each side; Gaussian sigma 1.5, no sample "
    "covariance, range of the generated picture (max - min)",
    "ssim_176": "256 x 176 as they are; Gaussian sigma 1.5, no sample covariance, range of the generated picture",
    "ssim_patn": "the picture as it is, Gaussian sigma 1.5, no sample covariance, range of the generated picture",
    "mask_ssim": "as ssim_patn, after the target keypoints' mask (PATN's, radius 4 px) was laid on both pictures",
    "garment_ssim": "as ssim_patn, after the target's garment mask was laid on both pictures",
}


@dataclass(frozen=True)
class Target:
    """Ground truth of one pair, and what of it is measured besides the whole.

    Attributes:
        target_image: uint8 (H, W, 3).
        target_keypoints: (18, 2), (x, y) in pixels, (-1, -1) for missing; None where there are none.
        garment_mask: bool (H, W); None where there is none.
    """

    target_image: np.ndarray
    target_keypoints: np.ndarray | None = None
    garment_mask: np.ndarray | None = None


def measure_pair(generated: np.ndarray, target: Target, *, market: bool = False) -> dict[str, float]:
    """Measure one picture.

    Args:
        generated: uint8 (H, W, 3), of the target's size.
        market: measure ``ssim_patn`` too, the frame of published figures for Market-1501.

    Returns: figures by the names in ``DEFINITIONS``; NaN where a mask is empty.
    """
    truth = target.target_image
    if generated.shape != truth.shape:
        raise DataError(
            f"a generated picture has height {generated.shape[0]} and width {generated.shape[1]}, its ground truth "
            f"{truth.shape[0]} and {truth.shape[1]}; bring both to one size first",
            got=generated.shape,
            expected=truth.shape,
        )
    tensors = [torch.tensor(x).permute(2, 0, 1)[None] for x in (generated, truth)]
    figures = {"psnr_db": float(psnr(*tensors))}
    if truth.shape[:2] == DEEPFASHION:
        white = [pad_white(x) for x in (generated, truth)]
        figures["ssim_patn_padded"] = ssim(*white, _range(white[0]))
        figures["ssim_176"] = ssim(generated, truth, _range(generated))
    else:
        figures["ssim"] = ssim(generated, truth, 255.0)
    if market:
        figures["ssim_patn"] = ssim(generated, truth, _range(generated))
    if target.target_keypoints is not None:
        mask = keypoint_mask(target.target_keypoints, *truth.shape[:2])
        figures["mask_ssim"] = _masked_ssim(generated, truth, mask)
    if target.garment_mask is not None:
        mask = np.asarray(target.garment_mask, bool)
        figures["garment_psnr_db"] = float(psnr(*tensors, torch.tensor(mask)[None, None]))
        figures["garment_ssim"] = _masked_ssim(generated, truth, mask)
    return figures


def pad_white(image: np.ndarray) -> np.ndarray:
    """256 x 176 to 256 x 256."""
    return np.pad(image, ((0, 0), (PADDING_PX, PADDING_PX), (0, 0)), constant_values=255)


def keypoint_mask(keypoints: np.ndarray, height: int, width: int) -> np.ndarray:
    """The person as PATN's ``produce_ma_mask`` draws it: limbs 8 px wide, discs of radius 4 px, closed by 5 x 5.

    Args:
        keypoints: (18, 2), (x, y) in pixels; (-1, -1) for missing.

    Returns: bool (height, width).
    """
    try:
        from skimage.draw import disk, polygon
        from skimage.morphology import dilation, erosion
    except ImportError as exc:
        raise BackendError(
            f"the keypoints' mask needs scikit-image ({exc}); install it: pip install 'posewarp[quality]'"
        ) from exc
    mask = np.zeros((height, width), bool)
    missing = is_missing(keypoints)
    points = np.asarray(keypoints, float)[:, ::-1]  # (y, x), as scikit-image draws
    for start, end in _MASK_LIMBS:
        along = points[start] - points[end]
        length = np.hypot(*along)
        if missing[start] or missing[end] or not length:
            continue
        across = _MASK_RADIUS_PX * np.array([-along[1], along[0]]) / length
        corners = np.array(
            [points[start] + across, points[start] - across, points[end] - across, points[end] + across]
        )
        mask[polygon(corners[:, 0], corners[:, 1], mask.shape)] = True
    for point in points[~missing]:
        mask[disk(point, _MASK_RADIUS_PX, shape=mask.shape)] = True
    square = np.ones((5, 5), bool)
    return erosion(dilation(mask, square), square)


def _masked_ssim(generated: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    inside = generated * mask[..., None]
    return ssim(inside, truth * mask[..., None], _range(inside))


def _range(generated: np.ndarray) -> float:
    return float(int(generated.max()) - int(generated.min()))
