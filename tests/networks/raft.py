"""RAFT (Teed and Deng, 2020): flow at an eighth of the size, by repeated look-ups in an all-pairs correlation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import conv, picture, set_reach, settle, shifted

ITERATIONS, LEVELS, RADIUS = 4, 2, 2


def sample(features: Tensor, coordinates: Tensor) -> Tensor:
    """Sample (B, C, H, W) at ``coordinates`` (B, h, w, 2) in pixels of it, x first."""
    height, width = features.shape[-2:]
    x, y = coordinates.split(1, dim=-1)
    grid = torch.cat((2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
    return F.grid_sample(features, grid, align_corners=True)


def pixel_grid(batch: int, height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((x, y)).float()[None].repeat(batch, 1, 1, 1)  # (B, 2, H, W)


class Raft(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 8, 7, 2), conv(8, 16, 3, 2), nn.Conv2d(16, width, 3, 2, 1))
        self.context = nn.Sequential(conv(3, 8, 7, 2), conv(8, 16, 3, 2), nn.Conv2d(16, 2 * width, 3, 2, 1))
        self.motion = conv(LEVELS * (2 * RADIUS + 1) ** 2 + 2, width)
        self.update_gate, self.reset_gate, self.candidate = (
            nn.Conv2d(3 * width, width, 3, padding=1) for _ in range(3)
        )
        self.flow_head = nn.Sequential(conv(width, width), nn.Conv2d(width, 2, 3, padding=1))
        self.mask_head = nn.Sequential(conv(width, width), nn.Conv2d(width, 9 * 64, 1))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two frames (B, 3, H, W) in [0, 255] -> flow (B, 2, H, W) in pixels, the second frame warped by it."""
        first, second = 2 * (first / 255) - 1, 2 * (second / 255) - 1
        pyramid = self.correlate(self.features(first), self.features(second))
        state, context = self.context(first).chunk(2, dim=1)
        state, context = torch.tanh(state), torch.relu(context)
        start = pixel_grid(*(first.shape[0], first.shape[2] // 8, first.shape[3] // 8))
        coordinates = start
        for _ in range(ITERATIONS):
            seen = torch.cat((self.look_up(pyramid, coordinates), coordinates - start), dim=1)
            inputs = torch.cat((context, self.motion(seen)), dim=1)
            both = torch.cat((state, inputs), dim=1)
            update, reset = torch.sigmoid(self.update_gate(both)), torch.sigmoid(self.reset_gate(both))
            candidate = torch.tanh(self.candidate(torch.cat((reset * state, inputs), dim=1)))
            state = (1 - update) * state + update * candidate
            coordinates = coordinates + self.flow_head(state)
        flow = self.upsample(coordinates - start, 0.25 * self.mask_head(state))
        positions = pixel_grid(*(second.shape[0], *second.shape[2:])) + flow
        return flow, sample(second, positions.permute(0, 2, 3, 1))

    def correlate(self, first: Tensor, second: Tensor) -> list[Tensor]:
        batch, channels, height, width = first.shape
        dots = first.flatten(2).transpose(1, 2) @ second.flatten(2) / channels**0.5
        pyramid = [dots.reshape(batch * height * width, 1, height, width)]
        for _ in range(LEVELS - 1):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        return pyramid

    def look_up(self, pyramid: list[Tensor], coordinates: Tensor) -> Tensor:
        batch, _, height, width = coordinates.shape
        steps = torch.linspace(-RADIUS, RADIUS, 2 * RADIUS + 1)
        around = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)  # (2r+1, 2r+1, 2)
        centres = coordinates.permute(0, 2, 3, 1).reshape(batch * height * width, 1, 1, 2)
        found = [sample(values, centres / 2**level + around) for level, values in enumerate(pyramid)]
        return torch.cat([value.view(batch, height, width, -1) for value in found], -1).permute(0, 3, 1, 2)

    def upsample(self, flow: Tensor, mask: Tensor) -> Tensor:
        """Each fine pixel is a convex combination of nine coarse neighbours."""
        batch, _, height, width = flow.shape
        weights = torch.softmax(mask.view(batch, 1, 9, 8, 8, height, width), dim=2)
        neighbours = F.unfold(8 * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
        fine = (weights * neighbours).sum(dim=2).permute(0, 1, 4, 2, 5, 3)
        return fine.reshape(batch, 2, 8 * height, 8 * width)


def inputs(batch: int, seed: int) -> dict[str, Tensor]:
    first = 255 * picture(batch, seed)
    return {"first": first, "second": shifted(first, 6, -9)}


def make() -> nn.Module:
    """About 3 px a step at an eighth of the size: up to some 20 px in the end."""
    torch.manual_seed(0)
    network, example = Raft(), tuple(inputs(2, 0).values())
    settle(network, example)
    set_reach(network, network.flow_head[1], example, 0.8)
    return network
