"""The schedule, the sampler, one step, and a run that is interrupted and resumed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.training.batches import Batch, ResumableSampler
from posewarp.models.training.config import TrainingConfig, learning_rate_factor
from posewarp.models.training.run import train
from posewarp.models.training.trainer import Trainer
from posewarp.runtime.errors import CheckpointError, ContractError

TINY = GeneratorConfig(height=64, width=32, base_width=4, blocks=1)


def people(split: str = "train", length: int = 12) -> SyntheticPeople:
    return SyntheticPeople(TINY.height, TINY.width, seed=3, split=split, length=length)


def test_schedule_is_constant_for_sqrt_p_epochs_then_linear_to_zero():
    pairs, steps = 360_000, 1000  # sqrt(P) = 600 epochs of 1200: the first half
    factors = [learning_rate_factor(step, steps, pairs) for step in (0, 499, 500, 750, 999)]
    assert factors == pytest.approx([1.0, 1.0, 1.0, 0.5, 1 / 500])


def test_sampler_resumes_at_any_position():
    whole = [index for index, _ in zip(ResumableSampler(7, seed=1), range(30), strict=False)]
    assert sorted(whole[:7]) == list(range(7))
    assert whole[:7] != whole[7:14]
    for start in (3, 7, 16):
        part = [i for i, _ in zip(ResumableSampler(7, seed=1, start=start), range(30 - start), strict=False)]
        assert part == whole[start:]


def test_batch_is_normalised_and_its_heatmaps_peak_at_the_keypoints():
    pairs = [people()[i] for i in range(2)]
    batch = Batch.from_pairs(pairs, TINY)
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
    batch = Batch.from_pairs([people()[i] for i in range(4)], TINY)
    losses = [float(trainer.step(batch)["l1"]) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    flow = trainer.generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps).flow
    assert flow.abs().max() > 1e-3


def test_ema_follows_the_weights_and_keeps_singular_vectors_of_length_one():
    trainer = Trainer(TINY, TrainingConfig(steps=100, batch_size=2, ema_decay=0.9), pairs=100)
    batch = Batch.from_pairs([people()[i] for i in range(2)], TINY)
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
    losses = trainer.step(Batch.from_pairs([people()[i] for i in range(2)], TINY))
    assert "adversarial" not in losses
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.discriminators.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_run_equals_an_unbroken_one(tmp_path, precision):
    config = TrainingConfig(
        steps=6, batch_size=2, learning_rate=1e-3, warped_source_weight=1.0, precision=precision
    )
    options = {"workers": 0, "log_every": 1, "save_every": 2}
    sets = (people(), people("test", 2))
    whole = train(tmp_path / "whole", TINY, config, *sets, **options)
    assert train(tmp_path / "broken", TINY, config, *sets, **options, stop_after=3) is None
    # As if it had gone on to log a fourth step before it was killed.
    with (tmp_path / "broken" / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "l1": 9.9}\n{"step": 5, "l')
    resumed = train(tmp_path / "broken", TINY, config, *sets, **options)

    def curve(folder):
        lines = [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]
        return [(line["step"], line["l1"]) for line in lines if "l1" in line]

    assert len(curve("whole")) == 6
    np.testing.assert_allclose(curve("whole"), curve("broken"), atol=1e-5)
    for name, value in checkpoint.load(whole).generator.state_dict().items():
        torch.testing.assert_close(
            checkpoint.load(resumed).generator.state_dict()[name], value, rtol=1e-3, atol=1e-4
        )
    assert (tmp_path / "broken" / "samples" / "final.png").exists()


def test_finished_run_is_not_trained_again_and_its_resume_file_exports(tmp_path):
    config = TrainingConfig(steps=2, batch_size=2)
    train(tmp_path, TINY, config, people(), people("test", 2), workers=0)
    log = (tmp_path / "log.jsonl").read_text()
    result = train(tmp_path, TINY, config, people(), people("test", 2), workers=0)
    assert (tmp_path / "log.jsonl").read_text() == log
    ours, resume_file = checkpoint.load(result), checkpoint.load(tmp_path / "last.pt")
    assert ours.weights == resume_file.weights == "ema"
    assert ours.config == resume_file.config == TINY


def test_run_of_other_settings_is_not_resumed(tmp_path):
    train(tmp_path, TINY, TrainingConfig(steps=2, batch_size=2), people(), people("test", 2), workers=0)
    with pytest.raises(CheckpointError, match="other settings"):
        train(tmp_path, TINY, TrainingConfig(steps=3, batch_size=2), people(), people("test", 2), workers=0)


def test_run_of_another_number_of_pairs_is_not_resumed(tmp_path):
    config = TrainingConfig(steps=2, batch_size=2)
    train(tmp_path, TINY, config, people(), people("test", 2), workers=0, stop_after=1)
    with pytest.raises(CheckpointError, match="other settings"):
        train(tmp_path, TINY, config, people(length=13), people("test", 2), workers=0)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"<html>"])
def test_damaged_save_is_named_and_left_alone(tmp_path, damage):
    config = TrainingConfig(steps=2, batch_size=2)
    train(tmp_path, TINY, config, people(), people("test", 2), workers=0, stop_after=1)
    save = tmp_path / "last.pt"
    save.write_bytes(damage(save.read_bytes()))
    before = save.read_bytes()
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be resumed from .* another folder"):
        train(tmp_path, TINY, config, people(), people("test", 2), workers=0)
    assert save.read_bytes() == before


def test_fine_tuning_starts_from_the_weights_of_a_checkpoint(tmp_path):
    sets = (people(), people("test", 2))
    first = train(tmp_path / "first", TINY, TrainingConfig(steps=3, batch_size=2), *sets, workers=0)
    still = TrainingConfig(steps=1, batch_size=2, learning_rate=1e-12, l2_weight=1.0, ema_decay=0.0)
    second = train(tmp_path / "second", TINY, still, *sets, workers=0, log_every=1, init_from=first)
    before, after = (dict(checkpoint.load(path).generator.named_parameters()) for path in (first, second))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)
    assert "l2" in json.loads((tmp_path / "second" / "log.jsonl").read_text().splitlines()[0])


def test_fine_tuning_another_network_is_refused(tmp_path):
    sets = (people(), people("test", 2))
    config = TrainingConfig(steps=1, batch_size=2)
    first = train(tmp_path / "first", TINY, config, *sets, workers=0)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(tmp_path / "second", replace(TINY, blocks=2), config, *sets, workers=0, init_from=first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "batch norm"),
        ({"steps": 0}, "steps is 0"),
        ({"precision": "half"}, "precision is 'half'"),
    ],
)
def test_settings_that_cannot_train_are_refused(changes, message):
    with pytest.raises(ContractError, match=message):
        TrainingConfig(**changes)
