"""The schedule, the sampler, one step with each loss, and the settings that are refused."""

from __future__ import annotations

from itertools import chain, islice

import numpy as np
import pytest
import torch

from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.losses import (
    generator_adversarial_loss,
    masked_l1,
    masked_vgg_losses,
    warped_source_l1,
)
from posewarp.models.training.batches import Batch, ResumableSampler, SharedBatches
from posewarp.models.training.config import TrainingConfig, learning_rate_factor, paper_steps
from posewarp.models.training.processes import Processes
from posewarp.models.training.trainer import Trainer
from posewarp.models.vgg import load_vgg19
from posewarp.runtime.errors import ContractError

TINY = GeneratorConfig(height=64, width=32, base_width=4, blocks=1)


def batch_of(count: int) -> Batch:
    people = SyntheticPeople(TINY.height, TINY.width, seed=3, length=12)
    return Batch.from_pairs([people[i] for i in range(count)], TINY)


def test_schedule_is_constant_for_sqrt_p_epochs_then_linear_to_zero():
    pairs, steps = 360_000, 1000  # sqrt(P) = 600 epochs of 1200: the first half
    factors = [learning_rate_factor(step, steps, pairs) for step in (0, 499, 500, 750, 999)]
    assert factors == pytest.approx([1.0, 1.0, 1.0, 0.5, 1 / 500])


@pytest.mark.parametrize(
    ("pairs", "epoch_pairs", "batch_size", "steps"),
    [
        (101_966, 4000, 8, 459_661),  # DeepFashion: 319.3 + 600 epochs, 500 steps each
        (263_632, 4000, 32, 139_182),  # Market-1501: 513.5 + 600 epochs, 125 steps each
        (100, 0, 4, 15_250),  # 10 + 600 epochs of all 100 pairs
    ],
)
def test_budget_left_out_is_the_papers(pairs, epoch_pairs, batch_size, steps):
    assert paper_steps(pairs, epoch_pairs, batch_size) == steps
    config = TrainingConfig(epoch_pairs=epoch_pairs, batch_size=batch_size)
    assert config.resolved(pairs).steps == steps
    assert TrainingConfig(steps=7).resolved(pairs).steps == 7


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_all_processes_are_the_batches_of_one(count):
    def batches(index, count):
        return list(islice(SharedBatches(ResumableSampler(7, seed=1, start=6), 6, index, count), 5))

    shares = [batches(index, count) for index in range(count)]
    assert [list(chain(*together)) for together in zip(*shares, strict=True)] == batches(0, 1)
    assert all(len(share) == 6 // count for part in shares for share in part)


@pytest.mark.parametrize(("batch_size", "count"), [(8, 3), (2, 2), (3, 2)])
def test_batch_that_cannot_be_shared_evenly_by_two_or_more_is_refused(batch_size, count):
    with pytest.raises(
        ContractError, match=f"batch_size is {batch_size} for {count} processes .* multiple of"
    ):
        Processes(0, count).share(batch_size)


def test_sampler_resumes_at_any_position():
    whole = [index for index, _ in zip(ResumableSampler(7, seed=1), range(30), strict=False)]
    assert sorted(whole[:7]) == list(range(7))
    assert whole[:7] != whole[7:14]
    for start in (3, 7, 16):
        part = [i for i, _ in zip(ResumableSampler(7, seed=1, start=start), range(30 - start), strict=False)]
        assert part == whole[start:]


def test_batch_is_normalised_and_its_heatmaps_peak_at_the_keypoints():
    people = SyntheticPeople(TINY.height, TINY.width, seed=3, length=12)
    pairs, batch = [people[i] for i in range(2)], batch_of(2)
    np.testing.assert_allclose(
        batch.source[1, :, 5, 7].numpy(), pairs[1].source_image[5, 7] / 127.5 - 1, atol=1e-6
    )
    x, y = pairs[0].target_keypoints[1].round().astype(int)
    assert x >= 0
    peak = int(batch.target_heatmaps[0, 1].flatten().argmax())
    assert abs(peak // TINY.width - y) <= 1
    assert abs(peak % TINY.width - x) <= 1
    assert batch.mask.shape == (2, 1, TINY.height, TINY.width)


def test_a_few_steps_on_one_batch_lower_the_loss_and_move_the_flow():
    trainer = Trainer(
        TINY, TrainingConfig(steps=100, batch_size=4, learning_rate=2e-3, ema_decay=0.5), pairs=100
    )
    batch = batch_of(4)
    losses = [float(trainer.step(batch)["l1"]) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    flow = trainer.generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps).flow
    assert flow.abs().max() > 1e-3


def test_ema_follows_the_weights_and_keeps_singular_vectors_of_length_one():
    trainer = Trainer(TINY, TrainingConfig(steps=100, batch_size=2, ema_decay=0.9), pairs=100)
    batch = batch_of(2)
    before = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
    trainer.step(batch)
    new = trainer.generator.state_dict()
    for name, value in trainer.ema.state_dict().items():
        if name.endswith("._u"):
            assert float(value.norm()) == pytest.approx(1.0, abs=1e-5)
        elif name.endswith("head.weight"):  # decay min(0.9, 1/10) at the first step
            torch.testing.assert_close(value, 0.1 * before[name] + 0.9 * new[name])


def test_adversary_off_trains_no_discriminator():
    trainer = Trainer(TINY, TrainingConfig(steps=10, batch_size=2, adversarial_weight=0.0), pairs=100)
    before = [p.clone() for p in trainer.discriminators.parameters()]
    losses = trainer.step(batch_of(2))
    assert "adversarial" not in losses
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.discriminators.parameters(), strict=True))


def test_discriminators_learn_at_their_own_rate():
    slow = Trainer(TINY, TrainingConfig(steps=10, batch_size=2, discriminator_lr_ratio=0.1), pairs=100)
    slow.step(batch_of(2))
    assert slow.generator_optimizer.param_groups[0]["lr"] == pytest.approx(2e-4)
    assert slow.discriminator_optimizer.param_groups[0]["lr"] == pytest.approx(2e-5)
    assert slow.generator_optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def gradient(loss: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
    parameters = list(network.parameters())
    parts = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])


def test_every_loss_that_has_a_weight_pulls_on_the_generator():
    """What a step leaves in the gradients is the weighted sum, to within a hundredth of the weakest loss's pull."""
    vgg = load_vgg19("random")
    config = TrainingConfig(steps=10, batch_size=2, l2_weight=3.0, warped_source_weight=2.0, vgg="random")
    trainer, twin = (Trainer(TINY, config, pairs=100, vgg=vgg) for _ in range(2))
    batch = batch_of(2)
    stages = twin.generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
    generated, flow = stages.generated, stages.flow
    fake = twin.discriminators(generated, batch.source, batch.target_heatmaps)
    perceptual, style = masked_vgg_losses(vgg, generated, batch.target, batch.mask)
    by_hand = {
        "masked_l1": 5.0 * masked_l1(generated, batch.target, batch.mask),
        "l1": 1.0 * (generated - batch.target).abs().mean(),
        "l2": 3.0 * (generated - batch.target).square().mean(),
        "warped_source": 2.0 * warped_source_l1(batch.source, batch.target, batch.mask, flow),
        "perceptual": 0.5 * perceptual,
        "style": 500.0 * style,
        "adversarial": 2.0 * generator_adversarial_loss(fake),
    }
    pulls = {name: gradient(loss, twin.generator) for name, loss in by_hand.items()}
    assert set(trainer.step(batch)) == {*by_hand, "discriminators", "lr"}
    step = torch.cat([parameter.grad.flatten() for parameter in trainer.generator.parameters()])
    assert (step - sum(pulls.values())).norm() < 0.01 * min(pull.norm() for pull in pulls.values())
    assert all(parameter.grad is None for parameter in vgg.parameters())


def test_strict_paper_trains_with_the_papers_terms_alone():
    config = TrainingConfig(steps=10, batch_size=2, strict_paper=True, vgg="random")
    trainer = Trainer(TINY, config, pairs=100, vgg=load_vgg19("random"))
    batch = batch_of(2)
    stages = trainer.generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
    terms = trainer._terms(stages.generated, stages.flow, batch)
    assert {name for name, (weight, _) in terms.items() if weight} == {
        "masked_l1",
        "perceptual",
        "style",
        "adversarial",
    }
    assert TrainingConfig.from_dict({**vars(config)}) == config


def test_lsgan_trains_both_sides_on_squares():
    kinds = {}
    for kind in ("log", "lsgan"):
        config = TrainingConfig(steps=10, batch_size=2, adversarial_kind=kind)
        kinds[kind] = Trainer(TINY, config, pairs=100).step(batch_of(2))
    # Untrained logits are near 0: log 2 and two of them; 1 and 1.
    assert float(kinds["log"]["adversarial"]) == pytest.approx(np.log(2), abs=0.1)
    assert float(kinds["log"]["discriminators"]) == pytest.approx(2 * np.log(2), abs=0.2)
    assert float(kinds["lsgan"]["adversarial"]) == pytest.approx(1, abs=0.2)
    assert float(kinds["lsgan"]["discriminators"]) == pytest.approx(1, abs=0.2)


def test_a_step_draws_no_random_numbers():
    """So a save needs no state of a random generator."""
    trainer = Trainer(TINY, TrainingConfig(steps=10, batch_size=2), pairs=100)
    before = torch.get_rng_state()
    trainer.step(batch_of(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(ContractError, match=r"fp16 on the CPU.* bf16 or fp32"):
        Trainer(TINY, TrainingConfig(steps=10, batch_size=2, precision="fp16"), pairs=100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "batch norm"),
        ({"steps": 0}, "steps is 0"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"epoch_pairs": -1}, "epoch_pairs is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"discriminator_lr_ratio": float("nan")}, "discriminator_lr_ratio is nan"),
        ({"style_weight": -1.0}, "style_weight is -1.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"adversarial_kind": "hinge"}, "adversarial_kind is 'hinge'"),
        ({"strict_paper": True}, "strict_paper .* need VGG19's weights"),
        ({"strict_paper": True, "vgg": "random", "l2_weight": 1.0}, "but l2_weight asks for another"),
        (
            {"strict_paper": True, "vgg": "random", "adversarial_kind": "lsgan"},
            "but adversarial_kind asks for another",
        ),
    ],
)
def test_settings_that_cannot_train_are_refused(changes, message):
    with pytest.raises(ContractError, match=message):
        TrainingConfig(**changes)
