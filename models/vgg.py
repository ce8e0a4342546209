"""VGG19's feature maps for eq. 5 and 6: plain torch, weights in torchvision's layout from a file or its own loader."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from posewarp.models import checkpoint
from posewarp.runtime.errors import CheckpointError, ContractError

# Output channels of the convolutions of each block, as far as the losses look; a pooling lies between two blocks.
BLOCKS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512, 512))
# Of ImageNet, for pictures in [0, 1]: what the published weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
WHERE = (
    "give --vgg the path of vgg19-dcbb9e9d.pth, which torchvision.models.vgg19(weights='IMAGENET1K_V1') leaves in "
    "~/.cache/torch/hub/checkpoints on a machine with internet"
)


class Vgg19Features(nn.Module):
    """The first 14 convolutions of VGG19; frozen, in eval mode, fp32. ``load_vgg19`` makes it with weights.

    Attributes:
        source: where the weights came from, for a run's metadata.
    """

    def __init__(self, source: str):
        super().__init__()
        self.source = source
        self.names: dict[int, str] = {}  # of the maps, by the index of their layer
        layers: list[nn.Module] = []
        channels = 3
        for block, widths in enumerate(BLOCKS, 1):
            if block > 1:
                layers.append(nn.MaxPool2d(2))
            for number, width in enumerate(widths, 1):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                self.names[len(layers) - 1] = f"relu{block}_{number}"
                channels = width
        self.features = nn.Sequential(*layers)  # torchvision's own name and indices
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Feature maps of pictures.

        Args:
            image: (B, 3, H, W) in [-1, 1]; H and W at least 16. Computed in fp32, under autocast too.

        Returns: the maps after each ReLU, "relu1_1" (B, 64, H, W) to "relu5_2" (B, 512, H/16, W/16).
        Raises: ContractError for a smaller picture.
        """
        if min(image.shape[-2:]) < 16:
            raise ContractError(
                f"VGG19 halves a picture 4 times: got {image.shape[-2]} x {image.shape[-1]}, expected 16 x 16 or more"
            )
        maps = {}
        with torch.autocast(image.device.type, enabled=False):
            x = ((image.float() + 1) / 2 - self.mean) / self.std
            for index, layer in enumerate(self.features):
                x = layer(x)
                if index in self.names:
                    maps[self.names[index]] = x
        return maps

    @property
    def sha256(self) -> str:
        """Of the weights that are used, fp32 in their order: the same from every source."""
        digest = hashlib.sha256()
        for value in self.state_dict().values():
            digest.update(value.cpu().contiguous().numpy())
        return digest.hexdigest()


def load_vgg19(weights: str | os.PathLike[str]) -> Vgg19Features:
    """VGG19's features with ImageNet's weights.

    Args:
        weights: a path (.pth, or .safetensors) with torchvision's names; "torchvision" for its own loader, which may
            download; "random" for seeded ones that keep the scale of the maps, of use in tests alone.

    Raises: CheckpointError if they are not there, or are another network's.
    """
    if weights == "random":
        return _random()
    if weights == "torchvision":
        state, source = _from_torchvision(), "torchvision IMAGENET1K_V1"
    else:
        state, source = _from_file(Path(weights)), Path(weights).name
    vgg = Vgg19Features(source)
    for name, value in vgg.state_dict().items():
        found = state.get(name) if isinstance(state, dict) else None
        if not isinstance(found, Tensor) or found.shape != value.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else "not there"
            raise CheckpointError(
                f"{source} is not VGG19 in torchvision's layout: {name} is {got}, expected {tuple(value.shape)}; "
                + WHERE
            )
        value.copy_(found)
    return vgg


def _random() -> Vgg19Features:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vgg = Vgg19Features("random weights, seed 0: for tests, not a perceptual measure")
        for layer in vgg.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
    return vgg


def _from_torchvision() -> object:
    try:
        from torchvision.models import vgg19

        return vgg19(weights="IMAGENET1K_V1").state_dict()
    except Exception as exc:  # not installed, built for another torch, no internet: each raises what it likes
        raise CheckpointError(
            f"torchvision cannot give VGG19's weights here ({type(exc).__name__}: {exc}); {WHERE}"
        ) from exc


def _from_file(path: Path) -> object:
    if not path.exists():
        raise CheckpointError(f"VGG19's weights are not at {path}; {WHERE}")
    try:
        return checkpoint.read_file(path, trust=False)[0]
    except CheckpointError as exc:
        if exc.fix != "--trust":
            raise
        raise CheckpointError(
            f"{path} holds a whole module, expected its state_dict() alone; {WHERE}"
        ) from exc
