"""The network against the paper: eq. 2 by hand, what each module receives, norms, flow, ablations."""

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from posewarp.models.config import PRESETS, GeneratorConfig
from posewarp.models.generator import Generator
from posewarp.models.incarnation import IncarnationBlock
from posewarp.models.warp import warp
from posewarp.runtime.errors import ContractError

# Convolutions of another batch or order add up in another order.
ATOL_FP32 = 1e-5
# That, or a coordinate's last bits, times the slope of unit noise at the position that a warp reads.
ATOL_WARPED = 2e-4

# Of the names and shapes in the state dict.
DIGESTS = {"small": "0ddc5991c87842aa", "market": "dcf681dc64a9bace", "deepfashion": "dcf681dc64a9bace"}


@pytest.fixture
def generator(config, random_generator):
    return random_generator(config)


@pytest.fixture
def inputs(config, random_inputs):
    return random_inputs(config)


def received(module, generator, inputs):
    """The arguments that a module is called with, and all stages."""
    calls = []
    hook = module.register_forward_pre_hook(lambda _, arguments: calls.append(arguments))
    with torch.no_grad():
        stages = generator.stages(*inputs)
    hook.remove()
    (arguments,) = calls
    return arguments, stages


def features_of(generator, inputs):
    """s_0 with the two skips, and t_0."""
    with torch.no_grad():
        full, half, source = generator.image_encoder(inputs[0])
        pose = generator.pose_encoder(torch.cat(inputs[1:], dim=1))[-1]
    return full, half, source, pose


# sizes


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 24), (36, 20), (64, 44), (20, 40)])
def test_any_size_divisible_by_4_runs(generator, config, random_inputs, height, width):
    stages = generator.stages(*random_inputs(replace(config, height=height, width=width)))
    assert stages.generated.shape == (2, 3, height, width)
    assert stages.generated.abs().max() <= 1
    assert stages.flow.shape == (2, 2, height // 4, width // 4)
    assert stages.drawn.shape == stages.warped.shape == (2, config.feature_width, height // 4, width // 4)


@pytest.mark.parametrize(("height", "width"), [(30, 24), (32, 22), (33, 24), (4, 8), (8, 4), (0, 8)])
def test_other_sizes_are_refused(generator, height, width):
    maps = torch.zeros(1, 18, height, width)
    with pytest.raises(
        ContractError, match=f"source_image is {height} x {width}, expected .* divisible by 4, at le"
    ):
        generator(torch.zeros(1, 3, height, width), maps, maps)


@pytest.mark.parametrize(
    ("changed", "shape", "message"),
    [
        (0, (2, 4, 32, 24), r"source_image has shape \(2, 4, 32, 24\), expected \(B, 3, H, W\)"),
        (0, (3, 32, 24), r"source_image has shape \(3, 32, 24\), expected \(B, 3, H, W\)"),
        (1, (2, 17, 32, 24), r"source_heatmaps has shape \(2, 17, 32, 24\), expected \(2, 18, 32, 24\)"),
        (2, (2, 18, 24, 32), r"target_heatmaps has shape \(2, 18, 24, 32\), expected \(2, 18, 32, 24\)"),
        (2, (1, 18, 32, 24), r"target_heatmaps has shape \(1, 18, 32, 24\), expected \(2, 18, 32, 24\)"),
    ],
)
def test_inputs_of_other_shapes_are_refused_by_name(generator, inputs, changed, shape, message):
    inputs = list(inputs)
    inputs[changed] = torch.zeros(shape)
    with pytest.raises(ContractError, match=message):
        generator(*inputs)


# eq. 1 and 2


def by_hand(transfer, x):
    """A transfer function in numpy float64: convolution, batch norm, ReLU; the last one without ReLU."""
    convolutions = [m for m in transfer.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in transfer.modules() if isinstance(m, nn.BatchNorm2d)]
    for i, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # (B, C, H, W, 3, 3)
        x = np.einsum("bchwij,ocij->bohw", windows, convolution.weight.detach().double().numpy())
        mean, variance, scale, shift = (
            tensor.detach().double().numpy()[:, None, None]
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        x = (x - mean) / np.sqrt(variance + norm.eps) * scale + shift
        if i + 1 < len(convolutions):
            x = np.maximum(x, 0)
    return x


@pytest.mark.parametrize(
    "changes",
    [{}, {"block_convs": 1}, {"block_convs": 3}, {"alpha_sigmoid": False}, {"block_residual": False}],
)
def test_an_incarnation_block_equals_equation_2(config, random_generator, changes):
    config = replace(config, **changes)
    block = random_generator(config).patch_generation.blocks[0].double()
    s, t = np.random.default_rng(0).normal(size=(2, 2, config.feature_width, 8, 6))
    alpha, beta, f = by_hand(block.alpha, t), by_hand(block.beta, t), by_hand(block.f, s)
    if config.alpha_sigmoid:
        alpha = 1 / (1 + np.exp(-alpha))
    if config.block_residual:
        f = s + f
    s_next = alpha * f + beta
    t_next = 1 / (1 + np.exp(-beta)) * s_next
    with torch.no_grad():
        appearance, pose = block(torch.from_numpy(s), torch.from_numpy(t))
    np.testing.assert_allclose(appearance.numpy(), s_next, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(pose.numpy(), t_next, rtol=1e-9, atol=1e-9)


def test_blocks_are_chained_from_s_0_and_t_0(generator, inputs):
    *_, appearance, pose = features_of(generator, inputs)
    with torch.no_grad():
        for block in generator.patch_generation.blocks:
            assert isinstance(block, IncarnationBlock)
            appearance, pose = block(appearance, pose)
        torch.testing.assert_close(generator.stages(*inputs).drawn, appearance, rtol=0, atol=ATOL_FP32)


# what each module receives


def test_flow_is_estimated_from_s_0_and_s_n_and_both_are_merged(generator, inputs):
    _, _, source, _ = features_of(generator, inputs)
    (first, second), stages = received(generator.patch_transfer, generator, inputs)
    assert torch.equal(first, source)
    assert torch.equal(second, stages.drawn)
    merged, _ = received(generator.merging, generator, inputs)
    assert len(merged) == 2
    assert torch.equal(merged[0], stages.warped)
    assert torch.equal(merged[1], stages.drawn)
    torch.testing.assert_close(stages.warped, warp(source, stages.flow), rtol=0, atol=0)


def test_without_patch_generation_the_flow_sees_t_0_and_the_warped_features_are_merged_alone(
    config, random_generator, inputs
):
    generator = random_generator(replace(config, patch_generation=False))
    _, _, source, pose = features_of(generator, inputs)
    (first, second), stages = received(generator.patch_transfer, generator, inputs)
    assert torch.equal(first, source)
    assert torch.equal(second, pose)
    assert stages.drawn is None
    (merged,), _ = received(generator.merging, generator, inputs)
    assert torch.equal(merged, stages.warped)
    assert not [name for name in generator.state_dict() if name.startswith("patch_generation")]


def test_without_patch_transfer_s_n_is_merged_alone_and_skips_stay_unwarped(config, random_generator, inputs):
    generator = random_generator(replace(config, patch_transfer=False))
    full, half, _, _ = features_of(generator, inputs)
    (merged,), stages = received(generator.merging, generator, inputs)
    assert torch.equal(merged, stages.drawn)
    assert stages.flow is None
    assert stages.warped is None
    (_, skip_half, skip_full), _ = received(generator.decoder, generator, inputs)
    assert torch.equal(skip_half, half)
    assert torch.equal(skip_full, full)
    assert not [name for name in generator.state_dict() if name.startswith("patch_transfer")]


# norms


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("block_spectral_norm", [False, True])
def test_spectral_norm_is_in_encoders_and_decoder_and_not_in_merging(config, block_spectral_norm):
    generator = Generator(replace(config, block_spectral_norm=block_spectral_norm))
    normalised = {
        name: {is_parametrized(m, "weight") for m in convolutions(part)}
        for name, part in generator.named_children()
    }
    assert normalised == {
        "image_encoder": {True},
        "pose_encoder": {True},
        "decoder": {True},
        "merging": {False},
        "patch_transfer": {False},
        "patch_generation": {block_spectral_norm},
    }


def test_every_convolution_but_the_last_of_flow_and_picture_has_batch_norm(config):
    generator = Generator(config)
    normalised = set()
    for module in generator.modules():
        if isinstance(module, nn.Sequential):
            pairs = itertools.pairwise(module)
            normalised |= {a for a, b in pairs if isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d)}
    bare = set(convolutions(generator)) - normalised
    assert bare == {generator.patch_transfer.head, generator.decoder.to_image}


# flow


def test_training_starts_from_the_identity_and_its_gradient_reaches_the_flow(config, inputs):
    generator = Generator(config)
    stages = generator.stages(*inputs)
    assert stages.flow.eq(0).all()
    stages.generated.square().mean().backward()
    assert generator.patch_transfer.head.weight.grad.abs().max() > 0
    assert generator.patch_transfer.head.bias.grad.abs().max() > 0


@pytest.mark.parametrize("border", ["zeros", "border"])
@pytest.mark.parametrize("skip", ["half", "full"])
def test_skips_are_shifted_by_the_flow(config, random_generator, inputs, skip, border):
    generator = random_generator(replace(config, border=border))
    full, half, source, _ = features_of(generator, inputs)
    unwarped = full if skip == "full" else half
    # As many feature pixels as make 4 to the right and 2 up in the skip's own.
    factor = unwarped.shape[-1] // source.shape[-1]
    with torch.no_grad():
        generator.patch_transfer.head.weight.zero_()
        shift = torch.tensor([4 / factor, -2 / factor])
        generator.patch_transfer.head.bias.copy_(shift)
    (_, skip_half, skip_full), _ = received(generator.decoder, generator, inputs)
    padded = nn.functional.pad(unwarped, (0, 4, 2, 0), mode="replicate" if border == "border" else "constant")
    expected = padded[..., :-2, 4:]
    got = skip_full if skip == "full" else skip_half
    torch.testing.assert_close(got, expected, rtol=0, atol=ATOL_WARPED)


def test_skips_may_stay_unwarped(config, random_generator, inputs):
    generator = random_generator(replace(config, warp_skips=False))
    full, half, _, _ = features_of(generator, inputs)
    (_, skip_half, skip_full), stages = received(generator.decoder, generator, inputs)
    assert stages.flow.abs().max() > 7
    assert torch.equal(skip_half, half)
    assert torch.equal(skip_full, full)


def with_config(generator, **changes):
    """The same weights under another configuration."""
    twin = Generator(replace(generator.config, **changes)).eval()
    twin.load_state_dict(generator.state_dict())
    return twin


@torch.no_grad()
def test_further_passes_add_what_the_estimator_sees_in_the_warped_features(generator, inputs):
    _, _, source, _ = features_of(generator, inputs)
    once = generator.stages(*inputs)
    transfer = generator.patch_transfer
    flow, warped = once.flow, once.warped
    for _ in range(2):
        flow = flow + transfer.head(transfer.trunk(torch.cat((warped, once.drawn), dim=1)))
        warped = warp(source, flow)
    thrice = with_config(generator, flow_passes=3).stages(*inputs)
    torch.testing.assert_close(thrice.flow, flow, rtol=0, atol=ATOL_WARPED)
    assert (thrice.flow - once.flow).abs().max() > 1


@pytest.mark.parametrize("changes", [{"border": "border"}, {"warp_skips": False}, {"alpha_sigmoid": False}])
@torch.no_grad()
def test_a_random_network_shows_a_change_of_the_configuration(generator, inputs, changes):
    assert (with_config(generator, **changes)(*inputs) - generator(*inputs)).abs().max() > 0.1


# the whole


@torch.no_grad()
def test_batch_of_three_equals_three_singles(generator, config, random_inputs):
    batch = random_inputs(config, batch=3)
    singles = torch.cat([generator(*(x[i : i + 1] for x in batch)) for i in range(3)])
    torch.testing.assert_close(generator(*batch), singles, rtol=0, atol=ATOL_WARPED)


@torch.no_grad()
def test_each_input_reaches_the_output(generator, inputs):
    generated = generator(*inputs)
    for i in range(3):
        changed = list(inputs)
        changed[i] = changed[i].flip(-1)
        assert (generator(*changed) - generated).abs().max() > 0.1


@torch.no_grad()
def test_the_network_in_fp64_agrees_with_fp32(generator, inputs):
    generated = generator(*inputs)
    reference = generator.double()(*(x.double() for x in inputs))
    assert reference.dtype == torch.float64
    torch.testing.assert_close(generated.double(), reference, rtol=0, atol=ATOL_WARPED)


def test_evaluation_leaves_statistics_and_singular_vectors_alone(generator, inputs):
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    generator(*inputs)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


@pytest.mark.parametrize("preset", PRESETS)
def test_names_and_shapes_are_those_of_the_checkpoints_out_there(preset):
    """Fails when a change to the network would make every checkpoint unloadable."""
    with torch.device("meta"):
        state = Generator(GeneratorConfig.preset(preset)).state_dict()
    names = "\n".join(f"{name} {tuple(value.shape)}" for name, value in state.items())
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    assert digest == DIGESTS[preset]
