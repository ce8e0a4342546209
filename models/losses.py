"""The losses of the paper, eq. 4 to 7, and one term of our own, said so.

All pictures are (B, 3, H, W) in [-1, 1]; all masks (B, 1, H, W), fp32, one on the garment of the target.
Each loss is a mean over the elements of its difference, so that weights keep their meaning across sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from posewarp.models.vgg import Vgg19Features
from posewarp.models.warp import resize_flow, warp
from posewarp.runtime.errors import ContractError

# Of VGG19. The paper names no layers; these are GFLA's, whose weights of the losses are published.
PERCEPTUAL_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE_LAYERS = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")


def discriminator_loss(real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor], kind: str = "log") -> Tensor:
    """Eq. 4 as the discriminators minimise it: the log of the product d1 d2 is a sum of logs.

    Args:
        real, fake: logits of d1 and d2 on real and generated pictures.
        kind: "log" for eq. 4; "lsgan" for squared distances from 1 and 0 in place of the logs, not in the paper.

    Returns: scalar, averaged over the two discriminators.
    Raises: ContractError for another kind.
    """
    return (_judged(real, True, kind) + _judged(fake, False, kind)) / len(real)


def generator_adversarial_loss(fake: tuple[Tensor, Tensor], kind: str = "log") -> Tensor:
    """Eq. 4 for the generator in its non-saturating form: -log d(G) in place of log(1 - d(G)).

    Args:
        fake: logits of d1 and d2 on generated pictures.
        kind: as for ``discriminator_loss``.

    Returns: scalar, averaged over the two discriminators.
    Raises: ContractError for another kind.
    """
    return _judged(fake, True, kind) / len(fake)


def _judged(logits: tuple[Tensor, Tensor], as_real: bool, kind: str) -> Tensor:
    """How far both discriminators are from calling pictures real, or generated: the sum of the two."""
    if kind == "log":  # d = sigmoid(logit): -log d and -log(1 - d), without overflow
        return sum(F.softplus(-logit if as_real else logit).mean() for logit in logits)
    if kind == "lsgan":
        return sum((logit - float(as_real)).square().mean() for logit in logits)
    raise ContractError(f"the kind of adversarial loss is {kind!r}, expected 'log' or 'lsgan'")


def masked_vgg_losses(
    vgg: Vgg19Features, generated: Tensor, target: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Eq. 5 and eq. 6 over the same feature maps: of pictures that are masked *before* the network.

        perceptual = sum over layers i of mean |U_i(y * M(y)) - U_i(G * M(y))|                           (eq. 5)
        style      = sum over layers i of mean |Q_i(y * M(y)) - Q_i(G * M(y))|                           (eq. 6)

    U_i are feature maps, Q_i their Gram matrices over h w c. M is the *target's* garment mask for both pictures; what
    lies outside becomes 0, a mid grey. Layers and units are GFLA's, weights of 0.5 and 500 go with them.

    Args:
        vgg: see ``models.vgg``.
        generated, target: (B, 3, H, W), in [-1, 1], at least 16 x 16.
        mask: (B, 1, H, W).

    Returns: perceptual and style, scalars; gradients flow to ``generated`` alone.
    """
    drawn = vgg(generated * mask)
    with torch.no_grad():
        true = vgg(target * mask)
    perceptual = sum(F.l1_loss(drawn[name], true[name]) for name in PERCEPTUAL_LAYERS)
    style = sum(F.l1_loss(_gram(drawn[name]), _gram(true[name])) for name in STYLE_LAYERS)
    return perceptual, style


def _gram(features: Tensor) -> Tensor:
    """Correlations of the channels: (B, C, H, W) to (B, C, C), over H W C."""
    flat = features.flatten(2)  # (B, C, H * W)
    with torch.autocast(features.device.type, enabled=False):
        return flat @ flat.transpose(1, 2) / features[0].numel()


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
