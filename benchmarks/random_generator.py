"""A generator of the paper's shape with random weights that hide nothing, for measuring and testing at any size."""

from __future__ import annotations

import torch
from torch import nn

from posewarp.export.generator_spec import generator_spec
from posewarp.models.config import GeneratorConfig
from posewarp.models.generator import Generator

# Largest offset of a random network's flow, in feature pixels, and the constant part of it.
FLOW_PX, FLOW_BIAS_PX = 8.0, 5.0
# Standard deviation before the last tanh; after it, about 0.33.
OUTPUT_STD = 0.37


def make_random_generator(config: GeneratorConfig, seed: int = 0) -> Generator:
    """A generator with random weights, in eval mode, in which every fault would show.

    A fresh one would hide most: its flow is zero, so swapped axes, wrong padding or nearest sampling change
    nothing; its batch norms do nothing; its output hardly varies. Here the batch norms' statistics are those
    of its own activations, then disturbed (fully random ones make a chain of products explode); the flow
    reaches 8 px, some positions lie outside, and the output's standard deviation is above 0.3. The gains are
    moderate, as training leaves them: through the chain of blocks a large gain would amplify FP32's own
    rounding beyond the tolerances. ``tests/export/test_random_networks.py`` checks all this.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        generator = Generator(config)
        inputs = generator_spec(generator, io="tensors").example_inputs
        norms = [part for part in generator.modules() if isinstance(part, nn.BatchNorm2d)]
        in_blocks = set(generator.patch_generation.modules()) if config.patch_generation else ()
        for norm in norms:
            norm.weight.uniform_(*((0.15, 0.3) if norm in in_blocks else (0.5, 1.0)))
            norm.bias.normal_(std=0.2)
            norm.momentum = 1.0  # the last pass alone counts
        generator.train()
        for _ in range(3):  # spectral norm's power iteration settles
            generator(*inputs)
        generator.eval()
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.9, 1.2)
        if config.patch_transfer:
            _set_flow(generator, inputs)
        _set_output(generator, inputs)
    return generator


def _set_flow(generator: Generator, inputs: tuple[torch.Tensor, ...]) -> None:
    """A flow as trained ones are: smooth (equal taps), on a constant part, in both directions."""
    head = generator.patch_transfer.head
    head.weight.copy_(torch.randn(2, head.in_channels, 1, 1).expand_as(head.weight))
    flow = generator.stages(*inputs).flow  # (B, 2, H/4, W/4)
    mean = flow.mean((0, 2, 3))
    spread = (flow - mean[:, None, None]).abs().amax((0, 2, 3))
    scale = (FLOW_PX - FLOW_BIAS_PX) / spread
    head.weight *= scale[:, None, None, None]
    head.bias.copy_(torch.tensor([FLOW_BIAS_PX, -FLOW_BIAS_PX]) - scale * mean)


def _set_output(generator: Generator, inputs: tuple[torch.Tensor, ...]) -> None:
    std = torch.atanh(generator(*inputs)).std()
    norm = generator.decoder.join_full[1]
    norm.weight *= OUTPUT_STD / std
    norm.bias *= OUTPUT_STD / std
