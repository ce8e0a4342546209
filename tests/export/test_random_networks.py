"""The random networks that exports are compared with: nothing may hide in them."""

import pytest
import torch
from torch import nn

from posewarp.export.generator_spec import generator_spec
from posewarp.models.config import GeneratorConfig


@pytest.mark.parametrize(
    "preset",
    [
        "small",
        pytest.param("market", marks=pytest.mark.slow),
        pytest.param("deepfashion", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_network_moves_pixels_and_varies(preset, seed, random_generator):
    generator = random_generator(GeneratorConfig.preset(preset), seed)
    with torch.no_grad():
        stages = generator.stages(*generator_spec(generator, io="tensors").example_inputs)
    flow = stages.flow  # (B, 2, H/4, W/4)
    height, width = flow.shape[-2:]
    x = flow[:, 0] + torch.arange(width)
    y = flow[:, 1] + torch.arange(height)[:, None]
    outside = (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)

    assert stages.generated.std() >= 0.3
    assert 7.9 <= flow.abs().max() <= 8.1
    assert (flow.amax((0, 2, 3)) - flow.amin((0, 2, 3)) > 2.0).all()  # not one shift for all pixels
    assert flow[:, 0].mean() * flow[:, 1].mean() < 0  # x and y cannot be swapped unseen
    assert 0.05 < outside.float().mean() < 0.5
    for norm in (part for part in generator.modules() if isinstance(part, nn.BatchNorm2d)):
        assert norm.running_mean.abs().max() > 0.01
        assert (norm.running_var - 1).abs().max() > 0.01


def test_a_random_network_is_the_same_for_the_same_seed(random_generator):
    config = GeneratorConfig(height=16, width=8, base_width=4, blocks=1)
    first, again, other = (random_generator(config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.to_image.bias"], other["decoder.to_image.bias"])
