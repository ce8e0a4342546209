"""The whole generator: E1, E2, patch generation, patch transfer, merging, decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posewarp.models.config import KEYPOINTS, GeneratorConfig
from posewarp.models.decoder import Decoder
from posewarp.models.encoder import Encoder
from posewarp.models.merging import Merging
from posewarp.models.patch_generation import PatchGeneration
from posewarp.models.patch_transfer import PatchTransfer
from posewarp.models.warp import resize_flow, warp
from posewarp.runtime.errors import ContractError


@dataclass(frozen=True)
class Stages:
    """What the generator computes on its way.

    Attributes:
        generated: the picture, (B, 3, H, W), in [-1, 1].
        flow: (B, 2, H/4, W/4), fp32, (x, y) in pixels of the feature map; None without patch transfer.
        drawn: s_n of the patch generation, (B, C, H/4, W/4); None without it.
        warped: the warped s_0, (B, C, H/4, W/4); None without patch transfer.
        merged: (B, C, H/4, W/4).
    """

    generated: Tensor
    flow: Tensor | None
    drawn: Tensor | None
    warped: Tensor | None
    merged: Tensor


class Generator(nn.Module):
    """G(x, p1, p2) of the paper: the person of the source image in the target pose."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        self.image_encoder = Encoder(config, 3)
        self.pose_encoder = Encoder(config, 2 * KEYPOINTS)
        self.patch_generation = PatchGeneration(config) if config.patch_generation else None
        self.patch_transfer = PatchTransfer(config) if config.patch_transfer else None
        self.merging = Merging(config)
        self.decoder = Decoder(config)

    def forward(self, source_image: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        """Generate the picture.

        Args:
            source_image: x, (B, 3, H, W), fp32, in [-1, 1]; H and W divisible by 4.
            source_heatmaps: p1, (B, 18, H, W).
            target_heatmaps: p2, (B, 18, H, W).

        Returns: (B, 3, H, W), in [-1, 1].
        Raises: ContractError if the sizes differ or are not divisible by 4.
        """
        return self.stages(source_image, source_heatmaps, target_heatmaps).generated

    def stages(self, source_image: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Stages:
        """As ``forward``, with what lies between."""
        _check(source_image, source_heatmaps, target_heatmaps)
        skip_full, skip_half, source = self.image_encoder(source_image)  # s_0: (B, C, H/4, W/4)
        pose = self.pose_encoder(torch.cat((source_heatmaps, target_heatmaps), dim=1))[-1]  # t_0

        drawn = self.patch_generation(source, pose) if self.patch_generation is not None else None
        if self.patch_transfer is None:
            flow = warped = None
        else:
            warped, flow = self.patch_transfer(source, pose if drawn is None else drawn)
            if self.config.warp_skips:
                skip_half = warp(skip_half, resize_flow(flow, 2), self.config.border)
                skip_full = warp(skip_full, resize_flow(flow, 4), self.config.border)

        merged = self.merging(*(x for x in (warped, drawn) if x is not None))
        return Stages(self.decoder(merged, skip_half, skip_full), flow, drawn, warped, merged)


def _check(image: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] != 3:
        raise ContractError(f"source_image has shape {tuple(image.shape)}, expected (B, 3, H, W)")
    batch, _, height, width = image.shape
    if height < 8 or width < 8 or height % 4 or width % 4:  # a warp needs two feature pixels to span [-1, 1]
        raise ContractError(
            f"source_image is {height} x {width}, expected a height and width divisible by 4, at least 8"
        )
    for name, maps in (("source_heatmaps", source_heatmaps), ("target_heatmaps", target_heatmaps)):
        if maps.shape != (batch, KEYPOINTS, height, width):
            raise ContractError(
                f"{name} has shape {tuple(maps.shape)}, expected ({batch}, {KEYPOINTS}, {height}, {width})"
            )
