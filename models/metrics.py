"""How far a generated picture is from its ground truth, in the units that papers print."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(generated: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each picture, 10 log10(255^2 / MSE), over all pixels or those of a mask.

    Args:
        generated, target: (B, 3, H, W), 8-bit levels 0..255, any type.
        mask: (B, 1, H, W), true where pixels count; None for all.

    Returns: (B), fp64, in dB; NaN where the mask is empty, infinite where the pictures are equal.
    """
    squared = (generated.double() - target.double()).square()  # (B, 3, H, W)
    if mask is None:
        error = squared.mean(dim=(1, 2, 3))
    else:
        counted = mask.double()
        error = (squared * counted).sum(dim=(1, 2, 3)) / (3 * counted.sum(dim=(1, 2, 3)))
    return 10 * torch.log10(255.0**2 / error)
