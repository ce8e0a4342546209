"""The losses of the paper that training uses so far: eq. 4 and eq. 7, and two terms of our own, said so.

All pictures are (B, 3, H, W) in [-1, 1]; all masks (B, 1, H, W), fp32, one on the garment of the target.
Each loss is a mean over the elements of its difference, so that weights keep their meaning across sizes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from posewarp.models.warp import resize_flow, warp


def discriminator_loss(real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> Tensor:
    """Eq. 4 as the discriminators minimise it: -log of a product is a sum of softplus terms of the logits.

    Args:
        real, fake: logits of d1 and d2 on real and generated pictures.

    Returns: scalar, averaged over the two discriminators.
    """
    terms = [F.softplus(-logit).mean() for logit in real] + [F.softplus(logit).mean() for logit in fake]
    return sum(terms) / len(real)


def generator_adversarial_loss(fake: tuple[Tensor, Tensor]) -> Tensor:
    """Eq. 4 for the generator in its non-saturating form: -log d(G) in place of log(1 - d(G)).

    Args:
        fake: logits of d1 and d2 on generated pictures.

    Returns: scalar, averaged over the two discriminators.
    """
    return sum(F.softplus(-logit).mean() for logit in fake) / len(fake)


def masked_l1(generated: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Eq. 7: ||y * M(y) - G * M(y)||_1, as a mean over the picture. M is the *target's* garment mask for both."""
    return F.l1_loss(generated * mask, target * mask)


def warped_source_l1(source: Tensor, target: Tensor, mask: Tensor, flow: Tensor) -> Tensor:
    """How well the flow alone, applied to the source *picture*, lands on the target's garment. Not in the paper.

    Gives the flow a direct gradient while the decoder is still blind to textures; meant to fade out. Averaged
    over the flow's own size and each doubling up to the picture's.

    Args:
        source, target: pictures, (B, 3, H, W).
        mask: garment of the target, (B, 1, H, W).
        flow: (B, 2, H/4, W/4), fp32, in pixels of its own map.

    Returns: scalar, a mean over the garment's pixels.
    """
    total = source.new_zeros(())
    for factor in (1, 2, 4):
        small_source, small_target, small_mask = (
            F.avg_pool2d(x, 4 // factor) for x in (source, target, mask)
        )
        warped = warp(small_source, resize_flow(flow, factor), border="border")
        difference = (warped - small_target).abs() * small_mask
        total = total + difference.sum() / (3 * small_mask.sum()).clamp(min=1)
    return total / 3
