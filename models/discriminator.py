"""The two discriminators of eq. 4."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from posewarp.models.config import KEYPOINTS
from posewarp.models.layers import conv


class Discriminator(nn.Module):
    """A patch discriminator with spectral norm: a picture and its condition to one logit a patch.

    Structure not in the paper: strided 3 x 3 convolutions down to an eighth of the size.
    """

    def __init__(self, condition_channels: int, base_width: int = 32):
        super().__init__()
        channels = [3 + condition_channels, base_width, 2 * base_width, 4 * base_width]
        layers: list[nn.Module] = []
        for a, b in pairwise(channels):
            layers += [conv(a, b, stride=2, spectral=True, bias=True), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, conv(channels[-1], 1, spectral=True, bias=True))

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Judge.

        Args:
            image: (B, 3, H, W), in [-1, 1].
            condition: (B, condition_channels, H, W).

        Returns: logits, (B, 1, H/8, W/8); positive means real.
        """
        return self.layers(torch.cat((image, condition), dim=1))


class DualDiscriminator(nn.Module):
    """d1 and d2 of eq. 4, as the equation pairs them: d1 sees (y, x), the appearance; d2 sees (y, p2), the pose."""

    def __init__(self, base_width: int = 32):
        super().__init__()
        self.appearance = Discriminator(3, base_width)
        self.pose = Discriminator(KEYPOINTS, base_width)

    def forward(self, image: Tensor, source_image: Tensor, target_heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of d1 and d2, (B, 1, H/8, W/8) each."""
        return self.appearance(image, source_image), self.pose(image, target_heatmaps)
