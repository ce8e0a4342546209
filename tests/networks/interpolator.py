"""RIFE (Huang et al., 2022): the frame between two, by two flows refined from coarse to fine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import conv, picture, set_reach, settle, shifted

SCALES = (4, 2, 1)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    batch, _, height, width = image.shape
    x = torch.linspace(-1.0, 1.0, width).view(1, 1, 1, width).expand(batch, -1, height, -1)
    y = torch.linspace(-1.0, 1.0, height).view(1, 1, height, 1).expand(batch, -1, -1, width)
    unit = torch.cat((flow[:, :1] / ((width - 1.0) / 2.0), flow[:, 1:] / ((height - 1.0) / 2.0)), dim=1)
    grid = (torch.cat((x, y), dim=1) + unit).permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


class Block(nn.Module):
    """Flow and mask at one scale, in pixels of that scale."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inside, width, 3, 2), conv(width, width), conv(width, width))
        self.head = nn.ConvTranspose2d(width, 5, 4, 2, 1)

    def forward(self, seen: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        seen = F.interpolate(seen, scale_factor=1 / scale, mode="bilinear", align_corners=False)
        small = F.interpolate(flow, scale_factor=1 / scale, mode="bilinear", align_corners=False) / scale
        out = self.head(self.body(torch.cat((seen, small), dim=1)))
        out = F.interpolate(out, scale_factor=float(scale), mode="bilinear", align_corners=False)
        return out[:, :4] * scale, out[:, 4:]


class Interpolator(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(13 + 4, width) for _ in SCALES)

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Two frames (B, 3, H, W) in [0, 1] -> the frame between, both flows (B, 4, H, W) in pixels."""
        flow, mask = torch.zeros_like(before[:, :1]).repeat(1, 4, 1, 1), torch.zeros_like(before[:, :1])
        warped_before, warped_after = before, after
        for block, scale in zip(self.blocks, SCALES, strict=True):
            seen = torch.cat((before, after, warped_before, warped_after, mask), dim=1)
            flow_step, mask_step = block(seen, flow, scale)
            flow, mask = flow + flow_step, mask + mask_step
            warped_before, warped_after = warp(before, flow[:, :2]), warp(after, flow[:, 2:])
        share = torch.sigmoid(mask)
        return warped_before * share + warped_after * (1 - share), flow


def inputs(batch: int, seed: int) -> dict[str, Tensor]:
    before = picture(batch, seed)
    return {"before": before, "after": shifted(before, 12, -8)}


def make() -> nn.Module:
    """Up to 12, 4 and 1.5 px from the three scales."""
    torch.manual_seed(0)
    network, example = Interpolator(), tuple(inputs(2, 0).values())
    settle(network, example)
    for block, largest in zip(network.blocks, (3.0, 2.0, 1.5), strict=True):
        set_reach(network, block.head, example, largest)
    return network
