"""A volumetric face warp (Wang et al., 2021; LivePortrait): features in depth moved by 3-D keypoints, 5-D sampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import conv, picture, set_reach, settle

KEYPOINTS, CHANNELS, DEPTH = 4, 4, 8


def unit_grid(depth: int, height: int, width: int) -> Tensor:
    """(D, H, W, 3) in [-1, 1], x first."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (depth, height, width)), indexing="ij")
    return torch.stack((x, y, z), dim=-1)


class Volume(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            conv(3, width, 7), conv(width, width, 3, 2), conv(width, width, 3, 2),
            nn.Conv2d(width, CHANNELS * DEPTH, 1),
        )  # fmt: skip
        self.compress = nn.Sequential(nn.Conv3d(CHANNELS, 2, 1), nn.BatchNorm3d(2), nn.ReLU())
        self.motion = nn.Sequential(
            nn.Conv3d(3 * (KEYPOINTS + 1), 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU()
        )
        self.masks = nn.Conv3d(8, KEYPOINTS + 1, 3, padding=1)
        self.occlusion = nn.Conv2d(8 * DEPTH, 1, 3, padding=1)
        self.decoder = nn.Sequential(
            conv(CHANNELS * DEPTH, width),
            conv(width, width),
            nn.Conv2d(width, 3 * 16, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def forward(self, image: Tensor, source_keypoints: Tensor, driving_keypoints: Tensor) -> Tensor:
        """Picture (B, 3, H, W), keypoints (B, K, 3) in [-1, 1] -> picture of that size."""
        flat = self.encoder(image)
        batch, _, height, width = flat.shape
        features = flat.view(batch, CHANNELS, DEPTH, height, width)
        grid = unit_grid(DEPTH, height, width)
        to, at = driving_keypoints, source_keypoints
        moved = grid - to[:, :, None, None, None] + at[:, :, None, None, None]
        motions = torch.cat((grid.expand(batch, 1, DEPTH, height, width, 3), moved), dim=1)

        small = self.compress(features)
        repeated = small[:, None].repeat(1, KEYPOINTS + 1, 1, 1, 1, 1).flatten(0, 1)
        seen = F.grid_sample(repeated, motions.flatten(0, 1), align_corners=False)
        seen = seen.view(batch, KEYPOINTS + 1, 2, DEPTH, height, width)
        gaussians = [
            torch.exp(-0.5 * (grid - p[:, :, None, None, None]).square().sum(-1) / 0.1) for p in (to, at)
        ]
        difference = gaussians[0] - gaussians[1]
        heat = torch.cat((torch.zeros_like(difference[:, :1]), difference), dim=1)[:, :, None]
        hidden = self.motion(torch.cat((heat, seen), dim=2).flatten(1, 2))
        masks = torch.softmax(self.masks(hidden), dim=1)
        deformation = (motions * masks[..., None]).sum(dim=1)  # (B, D, H/4, W/4, 3)

        warped = F.grid_sample(features, deformation, align_corners=False).flatten(1, 2)
        return torch.sigmoid(self.decoder(warped * torch.sigmoid(self.occlusion(hidden.flatten(1, 2)))))


def inputs(batch: int, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    at = 1.2 * torch.rand(batch, KEYPOINTS, 3, generator=random) - 0.6
    to = at + 0.2 * torch.rand(batch, KEYPOINTS, 3, generator=random) - 0.1  # up to 13 px of 256
    return {"image": picture(batch, seed), "source_keypoints": at, "driving_keypoints": to}


def make() -> nn.Module:
    torch.manual_seed(0)
    network, example = Volume(), tuple(inputs(2, 0).values())
    settle(network, example)
    set_reach(network, network.masks, example, 3.0)
    return network
