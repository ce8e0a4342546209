"""Geometric matching of CP-VTON (Wang et al., 2018): a regressed thin-plate spline lays a garment on a person."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import HEIGHT, WIDTH, conv, picture, set_reach, settle

GRID = 5  # control points a side


def radial(points: Tensor, centres: Tensor) -> Tensor:
    """U(r) = r^2 log r^2 between (..., M, 2) and (K, 2), 0 where they meet."""
    squared = (points[..., None, :] - centres).square().sum(-1)
    return squared * torch.log(torch.where(squared == 0, torch.ones_like(squared), squared))


class ThinPlate(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.person, self.cloth = (
            nn.Sequential(conv(3, 8, 3, 4), conv(8, width, 3, 2), conv(width, width, 3, 2)) for _ in range(2)
        )
        self.regression = nn.Sequential(
            conv(2 * width, width, 3, 2), nn.Flatten(), nn.Linear(width * 8 * 6, 32), nn.ReLU()
        )
        self.offsets = nn.Linear(32, 2 * GRID**2)
        self.refine = nn.Sequential(conv(6, width), nn.Conv2d(width, 3, 3, padding=1), nn.Sigmoid())
        axis = torch.linspace(-1, 1, GRID)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        control = torch.stack((x.flatten(), y.flatten()), dim=-1)  # (K, 2)
        count = len(control)
        system = torch.zeros(count + 3, count + 3)
        system[:count, :count] = radial(control, control)
        system[:count, count:] = torch.cat((torch.ones(count, 1), control), dim=1)
        system[count:, :count] = system[:count, count:].T
        y, x = torch.meshgrid(torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij")
        self.register_buffer("control", control)
        self.register_buffer("solution", torch.linalg.inv(system.double()).float())
        self.register_buffer("points", torch.stack((x, y), dim=-1))

    def forward(self, person: Tensor, cloth: Tensor) -> tuple[Tensor, Tensor]:
        """Two pictures (B, 3, H, W) in [0, 1] -> the two composed, the cloth warped."""
        seen = torch.cat((self.person(person), self.cloth(cloth)), dim=1)
        offsets = self.offsets(self.regression(seen)).view(-1, GRID**2, 2)
        targets = F.pad(offsets + self.control, (0, 0, 0, 3))  # (B, K + 3, 2)
        weights = torch.matmul(self.solution, targets)
        basis = torch.cat(
            (radial(self.points, self.control), torch.ones_like(self.points[..., :1]), self.points), dim=-1
        )  # (H, W, K + 3)
        grid = torch.matmul(basis.flatten(0, 1), weights).view(-1, HEIGHT, WIDTH, 2)
        warped = F.grid_sample(cloth, grid, padding_mode="border", align_corners=True)
        return self.refine(torch.cat((person, warped), dim=1)), warped


def inputs(batch: int, seed: int) -> dict[str, Tensor]:
    return {"person": picture(batch, seed), "cloth": picture(batch, seed + 1)}


def make() -> nn.Module:
    """Control points move by up to 0.08, 10 px of 256; the spline between and beyond them by twice that."""
    torch.manual_seed(0)
    network, example = ThinPlate(), tuple(inputs(2, 0).values())
    settle(network, example)
    set_reach(network, network.offsets, example, 0.08)
    return network
