"""LPIPS (Zhang et al. 2018), 0.1 over AlexNet: the network in plain torch, the linear layers of the lpips package.

lpips takes AlexNet from torchvision, whose build must match torch's to be imported; five convolutions need neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from posewarp.benchmarks.scoring.weights import load_weights
from posewarp.models import checkpoint
from posewarp.runtime.errors import BackendError, ContractError

WHERE = (
    "give --lpips-weights the path of alexnet-owt-7be5be79.pth, which torchvision.models.alexnet(weights="
    "'IMAGENET1K_V1') leaves in ~/.cache/torch/hub/checkpoints on a machine with internet, or the word torchvision"
)
MIN_SIZE_PX = 31  # AlexNet's two poolings leave nothing of less
_TAPS = (1, 4, 7, 9, 11)  # after each ReLU, in torchvision's numbering


class Lpips(nn.Module):
    """LPIPS; ``load_lpips`` makes it with weights.

    Attributes:
        source: where the weights came from, in words.
    """

    source = ""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(  # torchvision's alexnet, names and indices too
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        for number, channels in enumerate((64, 192, 384, 256, 256)):
            self.register_buffer(f"lin{number}", torch.empty(1, channels, 1, 1))
        self.register_buffer(
            "shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        """Distance of each pair.

        Args:
            generated, target: (B, 3, H, W) in [-1, 1], H and W at least 31.

        Returns: (B), 0 for equal pictures.
        Raises: ContractError for smaller pictures.
        """
        if min(target.shape[-2:]) < MIN_SIZE_PX:
            raise ContractError(
                f"LPIPS needs pictures of at least {MIN_SIZE_PX} x {MIN_SIZE_PX}, got {tuple(target.shape[-2:])}"
            )
        x = (torch.cat([generated, target]) - self.shift) / self.scale  # (2 B, 3, H, W)
        total = x.new_zeros(len(generated))
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _TAPS:
                a, b = (x / (x.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
                lin = getattr(self, f"lin{_TAPS.index(index)}")
                total = total + ((a - b).square() * lin).sum(dim=1).mean(dim=(1, 2))
        return total


def load_lpips(weights: str | int) -> Lpips:
    """LPIPS with AlexNet's weights and the linear layers that the package lpips brings.

    Args:
        weights: path of AlexNet's in torchvision's layout; "torchvision" for its loader, which may download; a seed.

    Raises: CheckpointError if they are not there; BackendError if lpips is not installed.
    """
    network = Lpips()
    linear = _linear_layers()
    for number in range(len(_TAPS)):
        getattr(network, f"lin{number}").copy_(linear[f"lin{number}.model.1.weight"])
    trunk = nn.ModuleDict({"features": network.features})
    source = load_weights(trunk, weights, "torchvision", _from_torchvision, WHERE)
    network.eval().requires_grad_(False)
    network.source = source
    return network


def _from_torchvision() -> Mapping[str, Tensor]:
    from torchvision.models import alexnet

    return alexnet(weights="IMAGENET1K_V1").state_dict()


def _linear_layers() -> Mapping[str, Tensor]:
    package = find_spec("lpips")  # not imported: it would import torchvision
    if package is None or not package.submodule_search_locations:
        raise BackendError("LPIPS needs the package lpips; install it: pip install 'posewarp[quality]'")
    path = Path(package.submodule_search_locations[0]) / "weights/v0.1/alex.pth"
    return checkpoint.read_file(path, trust=False)[0]
