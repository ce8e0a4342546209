"""The two discriminators of eq. 4."""

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from posewarp.models.discriminator import DualDiscriminator

IMAGE, SOURCE, MAPS = torch.rand(2, 3, 64, 44), torch.rand(2, 3, 64, 44), torch.rand(2, 18, 64, 44)


def test_one_logit_a_patch_of_an_eighth_of_the_size_rounded_up():
    appearance, pose = DualDiscriminator(8)(IMAGE, SOURCE, MAPS)
    assert appearance.shape == pose.shape == (2, 1, 8, 6)


@torch.no_grad()
def test_d1_judges_picture_and_source_and_d2_judges_picture_and_target_pose():
    judge = DualDiscriminator(8).eval()
    appearance, pose = judge(IMAGE, SOURCE, MAPS)
    other_appearance, same_pose = judge(IMAGE, SOURCE.flip(0), MAPS)
    assert not torch.equal(other_appearance, appearance)
    assert torch.equal(same_pose, pose)
    same_appearance, other_pose = judge(IMAGE, SOURCE, MAPS.flip(0))
    assert torch.equal(same_appearance, appearance)
    assert not torch.equal(other_pose, pose)
    assert all(
        not torch.equal(a, b) for a, b in zip(judge(SOURCE, SOURCE, MAPS), (appearance, pose), strict=True)
    )


def test_every_convolution_has_spectral_norm():
    convolutions = [m for m in DualDiscriminator(8).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 8
    assert all(is_parametrized(m, "weight") for m in convolutions)
