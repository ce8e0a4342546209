"""Each loss against a value worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posewarp.models.losses import (
    PERCEPTUAL_LAYERS,
    STYLE_LAYERS,
    discriminator_loss,
    generator_adversarial_loss,
    masked_l1,
    masked_vgg_losses,
    warped_source_l1,
)
from posewarp.models.metrics import psnr
from posewarp.models.vgg import load_vgg19
from posewarp.runtime.errors import ContractError


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


def test_lsgan_is_the_squared_distance_from_one_and_zero():
    real, fake = logits(0.9, 1.2), logits(0.3, -0.4)
    expected = (0.1**2 + 0.2**2 + 0.3**2 + 0.4**2) / 2
    assert discriminator_loss(real, fake, "lsgan").item() == pytest.approx(expected, rel=1e-5)
    expected = (0.7**2 + 1.4**2) / 2
    assert generator_adversarial_loss(fake, "lsgan").item() == pytest.approx(expected, rel=1e-5)


def test_another_kind_of_adversarial_loss_is_refused():
    with pytest.raises(ContractError, match="'hinge', expected 'log' or 'lsgan'"):
        generator_adversarial_loss(logits(0.0, 0.0), "hinge")


class TwoChannels:
    """In VGG19's place: every map has the picture's red channel, and twice its green one."""

    def __call__(self, image):
        maps = torch.stack((image[:, 0], 2 * image[:, 1]), dim=1)
        return dict.fromkeys({*PERCEPTUAL_LAYERS, *STYLE_LAYERS}, maps)


def test_perceptual_and_style_loss_equal_values_worked_out_by_hand():
    # Two pixels, the second outside the mask. Generated red 0.5 and green 0.25, the target's 0.1 and 0.75.
    generated = torch.tensor([[[[0.5, 0.9]], [[0.25, 0.9]], [[0.0, 0.9]]]])
    target = torch.tensor([[[[0.1, -0.9]], [[0.75, -0.9]], [[0.0, -0.9]]]])
    mask = torch.tensor([[[[1.0, 0.0]]]])
    perceptual, style = masked_vgg_losses(TwoChannels(), generated, target, mask)
    # Maps (0.5, 0.5) against (0.1, 1.5) at the first pixel, zeros at the second: a mean over 4 values, 5 layers.
    assert perceptual.item() == pytest.approx(5 * (0.4 + 1.0) / 4, rel=1e-6)
    # Gram matrices over 1 x 2 x 2: [[.25, .25], [.25, .25]] against [[.01, .15], [.15, 2.25]]; 4 layers.
    assert style.item() == pytest.approx(4 * (0.24 + 0.10 + 0.10 + 2.0) / 4 / 4, rel=1e-6)


def test_vgg_losses_see_nothing_outside_the_targets_garment():
    torch.manual_seed(0)
    vgg = load_vgg19("random")
    target = 2 * torch.rand(1, 3, 64, 32) - 1
    mask = torch.zeros(1, 1, 64, 32)
    mask[..., 16:40, 8:24] = 1.0
    elsewhere = torch.where(mask > 0, target, 2 * torch.rand(1, 3, 64, 32) - 1).requires_grad_()
    # Masked before the network: were its maps masked instead, they would have seen beyond the border.
    assert [loss.item() for loss in masked_vgg_losses(vgg, elsewhere, target, mask)] == [0.0, 0.0]
    other = (0.5 * target).requires_grad_()
    for loss in masked_vgg_losses(vgg, other, target, mask):
        gradient = torch.autograd.grad(loss, other, retain_graph=True)[0]
        assert loss > 0
        assert gradient[mask.expand_as(gradient) == 0].abs().max() == 0
        assert gradient.abs().max() > 0


def test_style_forgets_where_a_texture_lies_and_the_perceptual_loss_does_not():
    generated = torch.rand(1, 3, 1, 6, generator=torch.Generator().manual_seed(0))
    perceptual, style = masked_vgg_losses(TwoChannels(), generated.flip(3), generated, torch.ones(1, 1, 1, 6))
    assert style.item() == pytest.approx(0.0, abs=1e-7)
    assert perceptual > 0.1


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
