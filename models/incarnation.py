"""The incarnation block, eq. 1 and 2 of the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from posewarp.models.config import GeneratorConfig
from posewarp.models.layers import conv, conv_block


class IncarnationBlock(nn.Module):
    """Edit the source's features in place towards the target pose, and read the new pose off the edit.

        s_i = alpha_i(t_{i-1}) * f_i(s_{i-1}) + beta_i(t_{i-1})
        t_i = sigmoid(beta_i(t_{i-1})) * s_i                                                   (eq. 2)

    alpha removes what disappears in the target view, beta draws what appears. In our words s is the appearance
    features and t the pose features.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.f = _transfer(config)
        self.alpha = _transfer(config)
        self.beta = _transfer(config)
        self.residual = config.block_residual
        self.alpha_sigmoid = config.alpha_sigmoid
        if config.alpha_sigmoid:
            # Attention starts open, at sigmoid(2) = 0.88: at 0.5 each, four blocks would pass on 6 % of s_0.
            nn.init.constant_(self.alpha[-1].bias, 2.0)

    def forward(self, appearance: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Apply eq. 2.

        Args:
            appearance: s_{i-1}, (B, C, H, W).
            pose: t_{i-1}, (B, C, H, W).

        Returns: s_i and t_i, same shapes.
        """
        alpha = self.alpha(pose)  # (B, C, H, W)
        if self.alpha_sigmoid:
            alpha = torch.sigmoid(alpha)
        beta = self.beta(pose)  # (B, C, H, W)
        transferred = self.f(appearance)
        if self.residual:
            transferred = appearance + transferred
        appearance = alpha * transferred + beta
        return appearance, torch.sigmoid(beta) * appearance


def _transfer(config: GeneratorConfig) -> nn.Sequential:
    """A local transfer function: convolution blocks, the last without ReLU so that its values take either sign."""
    width = config.feature_width
    spectral = config.block_spectral_norm
    inner = [conv_block(width, width, spectral=spectral) for _ in range(config.block_convs - 1)]
    return nn.Sequential(*inner, conv(width, width, spectral=spectral), nn.BatchNorm2d(width))
