"""Encoders E1 (appearance) and E2 (pose): two strides down to a quarter of the image's size."""

from __future__ import annotations

from torch import Tensor, nn

from posewarp.models.config import GeneratorConfig
from posewarp.models.layers import conv_block


class Encoder(nn.Module):
    """Convolutions with spectral and batch norm, as the paper has them in both encoders.

    E1 reads the source image (3 channels), E2 the source's and target's heat maps (36 channels).
    """

    def __init__(self, config: GeneratorConfig, in_channels: int):
        super().__init__()
        width = config.base_width
        self.to_full = conv_block(in_channels, width, kernel=7, spectral=True)
        self.to_half = conv_block(width, 2 * width, stride=2, spectral=True)
        self.to_quarter = conv_block(2 * width, 4 * width, stride=2, spectral=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode.

        Args:
            x: (B, in_channels, H, W).

        Returns: maps at full, half and quarter size: (B, w, H, W), (B, 2w, H/2, W/2), (B, 4w, H/4, W/4).
        """
        full = self.to_full(x)  # (B, w, H, W)
        half = self.to_half(full)  # (B, 2w, H/2, W/2)
        return full, half, self.to_quarter(half)
