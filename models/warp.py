"""Warping by a flow in pixels, eq. 3 of the paper. Nothing else in models/ knows of ``align_corners``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from posewarp.runtime.errors import ContractError


def to_grid(flow: Tensor) -> Tensor:
    """Turn offsets in pixels into the absolute normalised positions that ``grid_sample`` reads.

    Convention: pixel centres at integers (align_corners=True), so -1 and 1 are the centres of the outer
    pixels. The base grid is built by ``arange``: ``torch.export`` makes constants of ``linspace``'s sizes.

    Args:
        flow: (B, 2, H, W), fp32 or fp64, channel 0 = x, in pixels; H and W at least 2.

    Returns: (B, H, W, 2), dtype of ``flow``, normalised (x, y).
    """
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)  # (W)
    y = torch.arange(height, device=flow.device, dtype=flow.dtype).unsqueeze(1)  # (H, 1)
    grid_x = (flow[:, 0] + x) * (2.0 / (width - 1)) - 1.0  # (B, H, W)
    grid_y = (flow[:, 1] + y) * (2.0 / (height - 1)) - 1.0  # (B, H, W)
    return torch.stack((grid_x, grid_y), dim=-1)


def warp(features: Tensor, flow: Tensor, border: str = "zeros") -> Tensor:
    """Sample each feature map at positions displaced by a flow field (backward warp), eq. 3 of the paper.

    out[b, c, y, x] = sum over the 4 neighbours (i, j) of (x + u, y + v) of
                      features[b, c, j, i] * (1 - |x + u - i|) * (1 - |y + v - j|),
                      where (u, v) = flow[b, :, y, x]

    Convention: pixel centres at integers, x right, y down; what lies outside counts as zero, or as the
    nearest pixel with ``border="border"``.

    Args:
        features: (B, C, H, W), any floating type; it is sampled in the type of ``flow``.
        flow: (B, 2, H, W), fp32 (fp64 in a reference network), channel 0 = x, in pixels of ``features``
            (not of the image).
        border: "zeros" or "border".

    Returns: (B, C, H, W), dtype of ``features``. Zero flow returns ``features``, to rounding.
    Raises: ContractError if the sizes differ or flow is of a half type.
    """
    if flow.dtype not in (torch.float32, torch.float64):
        raise ContractError(
            f"flow is {flow.dtype}, expected torch.float32; coordinates are never rounded to half"
        )
    if flow.shape[0] != features.shape[0] or flow.shape[1] != 2 or flow.shape[-2:] != features.shape[-2:]:
        raise ContractError(
            f"flow has shape {tuple(flow.shape)}, expected (B, 2, H, W) of features {tuple(features.shape)}; "
            "resize it first with resize_flow"
        )
    sampled = F.grid_sample(
        features.to(flow.dtype), to_grid(flow), mode="bilinear", padding_mode=border, align_corners=True
    )
    return sampled.to(features.dtype)


def resize_flow(flow: Tensor, factor: int) -> Tensor:
    """Bring a flow to a map ``factor`` times as large: resized, and its offsets scaled to that map's pixels.

    The scale is the strides' factor and not (W - 1) / (w - 1), the ratio of the normalised grids: strided
    convolutions put pixel p of the small map onto pixel factor * p of the large one, so one offset is right for
    both maps only then. At 16 and 64 pixels the ratio of the grids is 4.2, which would fetch a patch that moved
    12 px from 0.6 px beside its place.

    Args:
        flow: (B, 2, h, w), channel 0 = x, in pixels of its own map.
        factor: a whole number.

    Returns: (B, 2, factor * h, factor * w), dtype of ``flow``, in pixels of the larger map.
    """
    return F.interpolate(flow, scale_factor=float(factor), mode="bilinear", align_corners=False) * float(
        factor
    )
