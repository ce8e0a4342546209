"""Merging: decide at each position between the warped and the generated features."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from posewarp.models.config import GeneratorConfig
from posewarp.models.layers import conv_block


class Merging(nn.Module):
    """Convolutions over the concatenated features, with batch norm alone, unlike encoders and decoder (paper 3.3)."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        width = config.feature_width
        inputs = width * (config.patch_generation + config.patch_transfer)
        channels = [inputs] + [width] * config.merge_convs
        self.convs = nn.Sequential(*(conv_block(a, b, spectral=False) for a, b in pairwise(channels)))

    def forward(self, *features: Tensor) -> Tensor:
        """Merge one or two sets of features, (B, C, H, W) each, into one of the same shape."""
        return self.convs(torch.cat(features, dim=1))
