"""First-order motion (Siarohin et al., 2019): keypoints with Jacobians, dense motion, occlusion; absolute positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import conv, picture, set_reach, settle, shifted

KEYPOINTS = 5


def unit_grid(height: int, width: int) -> Tensor:
    """Pixel centres of a map in [-1, 1], (H, W, 2), x first, its corners at -1 and 1."""
    x, y = 2 * (torch.arange(width) / (width - 1)) - 1, 2 * (torch.arange(height) / (height - 1)) - 1
    return torch.stack((x[None].expand(height, -1), y[:, None].expand(-1, width)), dim=-1)


def inverse(matrix: Tensor) -> Tensor:
    """Of 2 x 2 matrices in closed form: ONNX has no inverse."""
    a, b, c, d = (matrix[..., i, j] for i in (0, 1) for j in (0, 1))
    adjugate = torch.stack((torch.stack((d, -b), -1), torch.stack((-c, a), -1)), -2)
    return adjugate / (a * d - b * c)[..., None, None]


class FirstOrder(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.detector = nn.Sequential(conv(3, width), conv(width, width, 3, 2), conv(width, width))
        self.heatmaps = nn.Conv2d(width, KEYPOINTS, 7, padding=3)
        self.jacobians = nn.Conv2d(width, 4 * KEYPOINTS, 7, padding=3)
        self.motion = nn.Sequential(conv(4 * (KEYPOINTS + 1), width), conv(width, width))
        self.masks = nn.Conv2d(width, KEYPOINTS + 1, 7, padding=3)
        self.occlusion = nn.Conv2d(width, 1, 7, padding=3)
        self.encoder = nn.Sequential(conv(3, width, 7), conv(width, width, 3, 2), conv(width, width, 3, 2))
        self.decoder = nn.Sequential(
            conv(width, width), nn.Upsample(scale_factor=2), conv(width, width), nn.Upsample(scale_factor=2),
            nn.Conv2d(width, 3, 7, padding=3), nn.Sigmoid(),
        )  # fmt: skip

    def detect(self, small: Tensor) -> tuple[Tensor, Tensor]:
        """Picture (B, 3, h, w) -> keypoints (B, K, 2) in [-1, 1], Jacobians (B, K, 2, 2)."""
        seen = self.detector(small)
        logits = self.heatmaps(seen)
        batch, count, height, width = logits.shape
        heat = torch.softmax(logits.view(batch, count, -1) / 0.1, dim=2).view(batch, count, height, width, 1)
        keypoints = (heat * unit_grid(height, width)).sum(dim=(2, 3))
        local = self.jacobians(seen).view(batch, count, 4, height, width)
        jacobians = (heat.view(batch, count, 1, height, width) * local).sum(dim=(3, 4))
        return keypoints, jacobians.view(batch, count, 2, 2)

    def forward(self, source: Tensor, driving: Tensor) -> tuple[Tensor, Tensor]:
        """Two pictures (B, 3, H, W) in [0, 1] -> prediction of that size, deformation (B, H/4, W/4, 2)."""
        small_source, small_driving = (
            F.interpolate(x, scale_factor=0.25, mode="bilinear") for x in (source, driving)
        )
        (at, jacobian), (to, jacobian_to) = self.detect(small_source), self.detect(small_driving)
        batch, _, height, width = small_source.shape
        grid = unit_grid(height, width)

        turn = torch.matmul(jacobian, inverse(jacobian_to))[:, :, None, None]  # (B, K, 1, 1, 2, 2)
        offsets = grid - to[:, :, None, None]  # (B, K, h, w, 2)
        moved = torch.matmul(turn, offsets[..., None])[..., 0] + at[:, :, None, None]
        identity = grid.expand(batch, 1, height, width, 2)
        motions = torch.cat((identity, moved), dim=1)  # (B, K + 1, h, w, 2)

        repeated = small_source[:, None].repeat(1, KEYPOINTS + 1, 1, 1, 1).flatten(0, 1)
        seen = F.grid_sample(repeated, motions.flatten(0, 1), align_corners=False)
        seen = seen.view(batch, KEYPOINTS + 1, 3, height, width)
        gaussians = [torch.exp(-0.5 * (grid - p[:, :, None, None]).square().sum(-1) / 0.01) for p in (to, at)]
        heat = F.pad(gaussians[0] - gaussians[1], (0, 0, 0, 0, 1, 0))[:, :, None]  # (B, K + 1, 1, h, w)
        hidden = self.motion(torch.cat((heat, seen), dim=2).flatten(1, 2))
        masks = torch.softmax(self.masks(hidden), dim=1)
        deformation = (motions * masks[..., None]).sum(dim=1)  # (B, h, w, 2)

        warped = F.grid_sample(self.encoder(source), deformation, align_corners=False)
        return self.decoder(warped * torch.sigmoid(self.occlusion(hidden))), deformation


def inputs(batch: int, seed: int) -> dict[str, Tensor]:
    source = picture(batch, seed)
    driving = 0.9 * shifted(source, 10, -14) + 0.1 * picture(batch, seed + 1)
    return {"source": source, "driving": driving}


def make() -> nn.Module:
    """Heat maps that peak, near-identity Jacobians, masks that choose."""
    torch.manual_seed(0)
    network, example = FirstOrder(), tuple(inputs(2, 0).values())
    with torch.no_grad():
        network.jacobians.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(KEYPOINTS))
    settle(network, example)
    set_reach(network, network.jacobians, example, 0.3)
    set_reach(network, network.heatmaps, example, 0.8)
    set_reach(network, network.masks, example, 3.0)
    return network
