"""Try-on by an appearance flow (ClothFlow, HR-VITON): predicted small, resized, applied to skips of every size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import conv, picture, set_reach, settle


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """``features`` (B, C, H, W) by ``flow`` (B, 2, H, W) in its pixels; HR-VITON's way of normalising."""
    batch, _, height, width = features.shape
    x = torch.linspace(-1.0 + 1.0 / width, 1.0 - 1.0 / width, width).view(1, 1, width, 1)
    y = torch.linspace(-1.0 + 1.0 / height, 1.0 - 1.0 / height, height).view(1, height, 1, 1)
    base = torch.cat((x.expand(batch, height, -1, -1), y.expand(batch, -1, width, -1)), dim=3)
    offset = flow.permute(0, 2, 3, 1)
    offset = torch.cat((offset[..., :1] / (width / 2.0), offset[..., 1:] / (height / 2.0)), dim=3)
    return F.grid_sample(features, base + offset, padding_mode="border", align_corners=False)


class TryOn(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        sizes = ((3, 1), (width, 2), (width, 2), (width, 2))
        self.cloth = nn.ModuleList(conv(inside, width, 3, stride) for inside, stride in sizes)
        self.person = nn.ModuleList(conv(inside, width, 3, stride) for inside, stride in sizes)
        self.flow = nn.Sequential(conv(2 * width, 16), nn.Conv2d(16, 2, 3, padding=1))
        self.decoder = nn.ModuleList(conv(3 * width, width) for _ in sizes[:-1])
        self.to_image = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, cloth: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
        """Two pictures (B, 3, H, W) in [-1, 1] -> the person dressed, the cloth's picture warped."""
        skips, bodies, x, y = [], [], cloth, person
        for of_cloth, of_person in zip(self.cloth, self.person, strict=True):
            x, y = of_cloth(x), of_person(y)
            skips.append(x)
            bodies.append(y)
        small = self.flow(torch.cat((x, y), dim=1))  # (B, 2, H/8, W/8)
        hidden = warp(x, small)
        for skip, body, join in zip(skips[-2::-1], bodies[-2::-1], self.decoder, strict=True):
            flow = self.resize(small, skip)
            hidden = F.interpolate(hidden, size=skip.shape[2:], mode="nearest")
            hidden = join(torch.cat((hidden, warp(skip, flow), body), dim=1))
        return torch.tanh(self.to_image(hidden)), warp(cloth, self.resize(small, cloth))

    @staticmethod
    def resize(flow: Tensor, like: Tensor) -> Tensor:
        """A flow in pixels of its own size -> one in pixels of ``like``."""
        factor = like.shape[3] / flow.shape[3]
        return factor * F.interpolate(flow, size=like.shape[2:], mode="bilinear", align_corners=False)


def inputs(batch: int, seed: int) -> dict[str, Tensor]:
    return {"cloth": 2 * picture(batch, seed) - 1, "person": 2 * picture(batch, seed + 1) - 1}


def make() -> nn.Module:
    """3 px at an eighth of the size: 24 px of the picture."""
    torch.manual_seed(0)
    network, example = TryOn(), tuple(inputs(2, 0).values())
    settle(network, example)
    set_reach(network, network.flow[1], example, 3.0)
    return network
