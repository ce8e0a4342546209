"""A small generator with random weights in which a fault of the warp shows, and inputs for it."""

import pytest
import torch
from torch import nn

from posewarp.models.config import GeneratorConfig
from posewarp.models.generator import Generator
from posewarp.models.heatmaps import to_heatmaps

FLOW_PX = 8.0

# On maps this small threads only wait for each other: with busy cores one test took 2.4 s instead of 0.04 s.
torch.set_num_threads(1)


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
def random_generator(random_inputs):
    """Makes a generator in eval mode with random batch statistics, a flow of up to 8 px, a contrasty output.

    With the zero flow that training starts from, swapped axes, wrong padding or nearest sampling go unseen.
    """

    @torch.no_grad()
    def make(config, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = Generator(config)
            norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
            for norm in norms:
                norm.momentum = 1.0
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)
            inputs = random_inputs(config, batch=4, seed=seed)
            # Statistics about those of real activations: spectral norm makes them small, and statistics drawn
            # about 0 and 1 would leave a network that hardly looks at its inputs.
            generator(*inputs)
            for norm in norms:
                norm.momentum = 0.1
                norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
                norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 2)
            generator.eval()
            if config.patch_transfer:
                head = generator.patch_transfer.head.weight.normal_()
                head.mul_(FLOW_PX / generator.stages(*inputs).flow.abs().max())
            last = generator.decoder.join_full[1]
            scale = 0.6 / torch.atanh(generator(*inputs)).std()  # tanh of a deviation of 0.6 has one of 0.5
            last.weight.mul_(scale)
            last.bias.mul_(scale)
        return generator

    return make


@pytest.fixture
def config():
    return GeneratorConfig(height=32, width=24, base_width=8, blocks=2)
