"""Heat maps from keypoints, in torch, so that they can live inside the exported graph."""

from __future__ import annotations

import torch
from torch import Tensor

# Where a factor is smaller it counts as zero, which no sum in fp32 can tell from it. Products of smaller ones would be
# subnormal, and on them CPUs are slow: without this the first convolution at 256x176 takes 380 ms instead of 37.
SMALLEST = 1e-9


def visible(keypoints: Tensor, height: int, width: int) -> Tensor:
    """Which keypoints count: both coordinates inside the frame, so -1, NaN and anything outside is missing.

    Args:
        keypoints: (B, J, 2), fp32, (x, y) in pixels.
        height, width: of the frame, in pixels.

    Returns: (B, J), bool.
    """
    x, y = keypoints[..., 0], keypoints[..., 1]
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def to_heatmaps(
    keypoints: Tensor, height: int, width: int, sigma_px: float, kind: str = "gaussian"
) -> Tensor:
    """One map a keypoint: a Gaussian envelope about it (paper 3.1.1), all zero where the keypoint is missing.

    h[y, x] = exp(-((x - kx)^2 + (y - ky)^2) / (2 sigma^2))

    It is the outer product of two 1-D factors, which is what is computed: H + W exponentials, not H * W.

    Args:
        keypoints: (B, J, 2), fp32, (x, y) in pixels, pixel centres at integers; -1 for missing.
        height, width: of the maps, in pixels.
        sigma_px: standard deviation in pixels.
        kind: "gaussian", or "delta": one at the pixel that holds the keypoint (truncated), zero elsewhere.

    Returns: (B, J, height, width), fp32.
    """
    seen = visible(keypoints, height, width)  # (B, J)
    # A missing one is moved to 0 before the arithmetic, so that a NaN cannot reach the product.
    position = torch.where(seen.unsqueeze(-1), keypoints, torch.zeros_like(keypoints))
    x = torch.arange(width, device=keypoints.device, dtype=torch.float32)
    y = torch.arange(height, device=keypoints.device, dtype=torch.float32)
    if kind == "delta":
        along_x = (x == position[..., :1].floor()).float()  # (B, J, W)
        along_y = (y == position[..., 1:].floor()).float()  # (B, J, H)
    else:
        scale = -0.5 / sigma_px**2
        along_x = _envelope((x - position[..., :1]).square() * scale)  # (B, J, W)
        along_y = _envelope((y - position[..., 1:]).square() * scale)  # (B, J, H)
    along_y = along_y * seen.unsqueeze(-1).float()
    return along_y.unsqueeze(-1) * along_x.unsqueeze(-2)  # (B, J, H, W)


def _envelope(exponent: Tensor) -> Tensor:
    values = torch.exp(exponent)
    return torch.where(values < SMALLEST, torch.zeros_like(values), values)
