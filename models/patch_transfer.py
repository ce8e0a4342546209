"""Patch transfer (PT): the flow estimator (the paper's FME) and the warp of the source's features."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from posewarp.models.config import GeneratorConfig
from posewarp.models.layers import conv_block
from posewarp.models.warp import warp


class PatchTransfer(nn.Module):
    """Estimate where each target position comes from in the source, and fetch the features from there.

    The flow is an offset in pixels of the feature map on the identity grid. Its last layer starts at zero, so
    training begins at the identity and needs no pre-trained flow.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        width = config.feature_width
        channels = [2 * width] + [max(width >> i, 16) for i in range(config.flow_convs)]
        self.trunk = nn.Sequential(*(conv_block(a, b, spectral=False) for a, b in pairwise(channels)))
        self.head = nn.Conv2d(channels[-1], 2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.passes = config.flow_passes
        self.border = config.border

    def forward(self, source: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
        """Warp the source's features to the target.

        Args:
            source: s_0, (B, C, H, W).
            estimate: s_n of the patch generation (t_0 where that is off), (B, C, H, W).

        Returns: the warped s_0, (B, C, H, W), and the flow, (B, 2, H, W), fp32, (x, y) in pixels of this map.
        """
        flow = self._offset(source, estimate)  # (B, 2, H, W)
        warped = warp(source, flow, self.border)
        for _ in range(self.passes - 1):
            flow = flow + self._offset(warped, estimate)
            warped = warp(source, flow, self.border)
        return warped, flow

    def _offset(self, features: Tensor, estimate: Tensor) -> Tensor:
        trunk = self.trunk(torch.cat((features, estimate), dim=1))
        # In fp32 under autocast too: bf16 keeps 8 bits, so a flow of 8 px would be rounded by up to 0.03 px.
        with torch.autocast(trunk.device.type, enabled=False):
            return self.head(trunk.to(self.head.weight.dtype))
