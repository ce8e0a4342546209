"""Pictures and weights for the networks: smooth, of moderate size, the same on every machine's run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEIGHT, WIDTH = 256, 192


def picture(batch: int, seed: int, channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Random pictures (B, C, H, W) in [0, 1] with structure at several scales, as photos have it."""
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(batch, channels, height, width)
    for cell, weight in ((64, 1.0), (16, 0.4), (4, 0.1)):
        noise = torch.rand(batch, channels, height // cell + 2, width // cell + 2, generator=random) - 0.5
        total += weight * F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)
    return (total + 0.5).clamp(0, 1)


def shifted(image: Tensor, x: int, y: int) -> Tensor:
    """The picture moved by whole pixels, as the second of two frames; its edge is repeated."""
    padded = F.pad(image, (max(x, 0), max(-x, 0), max(y, 0), max(-y, 0)), mode="replicate")
    return padded[..., max(-y, 0) :, max(-x, 0) :][..., : image.shape[-2], : image.shape[-1]]


def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2), nn.BatchNorm2d(outside), nn.ReLU()
    )


def settle(network: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Give every batch norm the statistics of its own activations; returns the network in eval mode."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over the passes
    with torch.no_grad():
        for _ in range(3):
            network.train()(*inputs)
    return network.eval()


@torch.no_grad()
def set_reach(network: nn.Module, head: nn.Module, inputs: tuple[Tensor, ...], largest: float) -> None:
    """Scale a predicting layer until what it adds to its bias reaches ``largest`` on these inputs.

    Several passes, since an iterative network's head sees what it said before.
    """
    seen: list[Tensor] = []
    axes = (1, -1, *(1,) * (head.weight.ndim - 2))
    hook = head.register_forward_hook(
        lambda _, __, out: seen.append((out - head.bias.view(axes[: out.ndim])).abs().max())
    )
    for _ in range(3):
        seen.clear()
        network(*inputs)
        head.weight *= largest / max(seen)
    hook.remove()
