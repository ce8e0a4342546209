"""Each loss against a value worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posewarp.models.losses import (
    discriminator_loss,
    generator_adversarial_loss,
    masked_l1,
    warped_source_l1,
)
from posewarp.models.metrics import psnr


def logits(*values: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.full((2, 1, 3, 3), value) for value in values)


def test_discriminator_loss_is_the_negative_logarithm_of_equation_4():
    # d = 0.9 and 0.8 on real, 0.3 and 0.4 on generated pictures.
    real = logits(math.log(0.9 / 0.1), math.log(0.8 / 0.2))
    fake = logits(math.log(0.3 / 0.7), math.log(0.4 / 0.6))
    expected = -(math.log(0.9 * 0.8) + math.log((1 - 0.3) * (1 - 0.4))) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)


def test_generator_term_is_non_saturating():
    fake = logits(math.log(0.3 / 0.7), math.log(0.4 / 0.6))
    assert generator_adversarial_loss(fake).item() == pytest.approx(-math.log(0.3 * 0.4) / 2, rel=1e-6)
    lost = tuple(x.requires_grad_() for x in logits(-20.0, -20.0))
    gradient = torch.autograd.grad(generator_adversarial_loss(lost), lost)[0].sum()
    assert gradient.item() == pytest.approx(-0.5, rel=1e-4)  # log(1 - d) would give about 1e-9


def test_masked_l1_counts_the_garment_only():
    generated, target = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert masked_l1(generated, target, mask).item() == pytest.approx(0.5 / 4)


def test_warped_source_l1_is_zero_for_the_true_flow_only():
    torch.manual_seed(0)
    # A garment that is constant in blocks of 4 x 4 moves by 8 pixels: 2 pixels of the flow's own map.
    small = torch.rand(1, 3, 8, 8)
    source = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    target = torch.roll(source, -8, dims=3)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:16, 8:16] = 1.0
    flow = torch.zeros(1, 2, 8, 8)
    still = warped_source_l1(source, target, mask, flow)
    flow[:, 0] = 2.0
    moved = warped_source_l1(source, target, mask, flow)
    assert moved < 1e-6 < still


def test_psnr_of_a_known_difference():
    target = torch.full((2, 3, 4, 4), 100.0)
    generated = target.clone()
    generated[0] += 10.0
    generated[1, :, 0, 0] += 20.0
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[:, :, 0, 0] = True
    level = 20 * math.log10(255)
    expected = torch.tensor([level - 20.0, level - 10 * math.log10(400 / 16)], dtype=torch.float64)
    torch.testing.assert_close(psnr(generated, target), expected)
    expected = torch.tensor([level - 20.0, level - 10 * math.log10(400)], dtype=torch.float64)
    torch.testing.assert_close(psnr(generated, target, mask), expected)
    assert psnr(generated, target, torch.zeros_like(mask)).isnan().all()
