"""Decoder: merged features and two skip connections to the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posewarp.models.config import GeneratorConfig
from posewarp.models.layers import conv, conv_block


class Decoder(nn.Module):
    """Two steps up, each joined by a skip connection of the source encoder; spectral and batch norm."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        width = config.base_width
        self.up_to_half = conv_block(4 * width, 2 * width, spectral=True)
        self.join_half = conv_block(4 * width, 2 * width, spectral=True)
        self.up_to_full = conv_block(2 * width, width, spectral=True)
        self.join_full = conv_block(2 * width, width, spectral=True)
        self.to_image = conv(width, 3, kernel=7, spectral=True, bias=True)

    def forward(self, merged: Tensor, skip_half: Tensor, skip_full: Tensor) -> Tensor:
        """Decode.

        Args:
            merged: (B, 4w, H/4, W/4).
            skip_half: (B, 2w, H/2, W/2).
            skip_full: (B, w, H, W).

        Returns: the picture, (B, 3, H, W), in [-1, 1].
        """
        x = self.up_to_half(_double(merged))  # (B, 2w, H/2, W/2)
        x = self.join_half(torch.cat((x, skip_half), dim=1))
        x = self.up_to_full(_double(x))  # (B, w, H, W)
        x = self.join_full(torch.cat((x, skip_full), dim=1))
        return torch.tanh(self.to_image(x))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
