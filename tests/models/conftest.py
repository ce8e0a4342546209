"""A small configuration, and inputs for it."""

import pytest
import torch

from posewarp.models.config import GeneratorConfig
from posewarp.models.heatmaps import to_heatmaps


@pytest.fixture
def random_inputs():
    """Makes a source image of noise in [-1, 1] and the heat maps of two random poses."""

    def make(config, batch=2, seed=0):
        random = torch.Generator().manual_seed(seed)
        height, width = config.height, config.width
        image = 2 * torch.rand(batch, 3, height, width, generator=random) - 1
        keypoints = torch.rand(2, batch, 18, 2, generator=random) * torch.tensor([width, height])
        return image, *(to_heatmaps(pose, height, width, config.heatmap_sigma_px) for pose in keypoints)

    return make


@pytest.fixture
def config():
    return GeneratorConfig(height=32, width=24, base_width=8, blocks=2)
