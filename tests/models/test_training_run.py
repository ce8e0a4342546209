"""A run: its log, its saves, and that an interruption changes nothing."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fakes.data import Broken

from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.training import log
from posewarp.models.training.config import TrainingConfig
from posewarp.models.training.run import train
from posewarp.runtime.errors import CheckpointError, DataError, PosewarpError

TINY = GeneratorConfig(height=64, width=32, base_width=4, blocks=1)


def people(split: str = "train", length: int = 12) -> SyntheticPeople:
    return SyntheticPeople(TINY.height, TINY.width, seed=3, split=split, length=length)


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_run_equals_an_unbroken_one(tmp_path, precision):
    config = TrainingConfig(
        steps=6,
        batch_size=2,
        learning_rate=1e-3,
        warped_source_weight=1.0,
        precision=precision,
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
        timing = ("pairs_per_s", "data_wait")
        entries = [entry for entry in lines(folder) if "l1" in entry]
        return [{name: value for name, value in entry.items() if name not in timing} for entry in entries]

    assert [entry["step"] for entry in curve(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    assert {"adversarial", "discriminators", "lr"} < set(curve(tmp_path / "whole")[0])
    assert curve(tmp_path / "broken") == curve(tmp_path / "whole")
    for name, value in checkpoint.load(whole).generator.state_dict().items():
        assert torch.equal(checkpoint.load(resumed).generator.state_dict()[name], value)
    assert (tmp_path / "broken" / "samples" / "final.png").exists()


def test_finished_run_is_not_trained_again_and_its_resume_file_exports(tmp_path):
    config = TrainingConfig(steps=2, batch_size=2)
    train(tmp_path, TINY, config, people(), people("test", 2), workers=0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    result = train(tmp_path, TINY, config, people(), people("test", 2), workers=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    ours, resume_file = checkpoint.load(result), checkpoint.load(tmp_path / "last.pt")
    assert ours.weights == resume_file.weights == "ema"
    assert ours.config == resume_file.config == TINY


@pytest.mark.parametrize("there", [b"", None])
def test_a_finished_run_whose_checkpoint_is_damaged_or_gone_gets_it_again(tmp_path, there):
    config = TrainingConfig(steps=2, batch_size=2)
    result = train(tmp_path, TINY, config, people(), people("test", 2), workers=0)
    result.unlink() if there is None else result.write_bytes(there)
    train(tmp_path, TINY, config, people(), people("test", 2), workers=0)
    assert checkpoint.load(result).config == TINY


def test_run_of_other_settings_is_not_resumed(tmp_path):
    train(tmp_path, TINY, TrainingConfig(steps=2, batch_size=2), people(), people("test", 2), workers=0)
    with pytest.raises(
        CheckpointError, match=r"other settings than were given now: steps was 2 and is 3; give"
    ):
        train(tmp_path, TINY, TrainingConfig(steps=3, batch_size=2), people(), people("test", 2), workers=0)


def test_run_of_another_number_of_pairs_is_not_resumed(tmp_path):
    config = TrainingConfig(steps=2, batch_size=2)
    train(tmp_path, TINY, config, people(), people("test", 2), workers=0, stop_after=1)
    with pytest.raises(CheckpointError, match="pairs was 12 and is 13"):
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


def test_a_save_from_before_these_settings_goes_on(tmp_path):
    """Files of the first version have no scalers, processes, nor settings that came later."""
    config = TrainingConfig(steps=2, batch_size=2)
    sets = (people(), people("test", 2))
    train(tmp_path, TINY, config, *sets, workers=0, stop_after=1)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    for name in ("generator_scaler", "discriminator_scaler", "processes"):
        del state[name]
    for name in ("epoch_pairs", "adversarial_kind", "vgg", "strict_paper", "discriminator_lr_ratio"):
        del state["training"][name]
    torch.save(state, tmp_path / "last.pt")
    assert train(tmp_path, TINY, config, *sets, workers=0).exists()


def test_resuming_with_another_number_of_processes_is_said(tmp_path, capsys):
    config = TrainingConfig(steps=2, batch_size=2)
    sets = (people(), people("test", 2))
    train(tmp_path, TINY, config, *sets, workers=0, stop_after=1)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**state, "processes": 2}, tmp_path / "last.pt")
    train(tmp_path, TINY, config, *sets, workers=0)
    assert "note: the run had 2 processes and goes on with 1" in capsys.readouterr().err


def test_checkpoint_says_what_it_was_trained_with(tmp_path, capsys):
    config = TrainingConfig(steps=1, batch_size=2, vgg="random")
    result = train(tmp_path, TINY, config, people(), people("test", 2), workers=0, data="people")
    metadata = checkpoint.load(result).metadata
    assert json.loads(metadata["training"])["vgg"] == "random"
    assert json.loads(metadata["vgg"])["source"].startswith("random weights")
    assert len(json.loads(metadata["vgg"])["sha256"]) == 64
    assert (metadata["pairs"], metadata["processes"], metadata["data"]) == ("12", "1", "people")
    err = capsys.readouterr().err
    assert "eq. 5 (perceptual) and eq. 6 (style) use VGG19 of random weights" in err
    assert "each process gets 2 pairs of a batch" in err


def test_losses_that_are_off_are_named_once(tmp_path, capsys):
    config = TrainingConfig(steps=1, batch_size=8)
    result = train(tmp_path, TINY, config, people(), people("test", 2), workers=0)
    assert capsys.readouterr().err.splitlines() == [
        "note: eq. 5 (perceptual) and eq. 6 (style) are off: no VGG19 weights were given"
    ]
    assert checkpoint.load(result).metadata["vgg"] == "none: no eq. 5 and 6"


def test_a_run_without_vgg19_weights_where_they_should_be_does_not_begin(tmp_path):
    config = TrainingConfig(steps=1, batch_size=2, vgg=str(tmp_path / "vgg19.pth"))
    with pytest.raises(CheckpointError, match=r"vgg19\.pth"):
        train(tmp_path / "run", TINY, config, people(), people("test", 2), workers=0)


def test_a_run_that_comes_apart_is_stopped(tmp_path):
    config = TrainingConfig(steps=9, batch_size=2, learning_rate=1e30)
    with pytest.raises(PosewarpError, match=r"is nan at step \d; begin anew with a lower learning rate"):
        train(tmp_path, TINY, config, people(), people("test", 2), workers=0, log_every=1)
    assert not (tmp_path / "last.pt").exists()


@pytest.mark.parametrize("save_every", [250, 3])
def test_a_network_that_is_not_finite_is_never_saved_and_the_last_good_save_stays(tmp_path, save_every):
    sets = (people(), people("test", 2))
    config = TrainingConfig(steps=4, batch_size=2, learning_rate=1e30)
    train(tmp_path, TINY, config, *sets, workers=0, stop_after=1)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(
        PosewarpError, match=r"generator is not finite at step [34]; begin anew .* learning rate"
    ):
        train(tmp_path, TINY, config, *sets, workers=0, log_every=50, save_every=save_every)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not (tmp_path / "generator.safetensors").exists()


def test_the_log_is_closed_when_a_run_fails(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(log.Log, "close", lambda self: closed.append(self.path))
    config = TrainingConfig(steps=2, batch_size=2)
    with pytest.raises(DataError):
        train(tmp_path, TINY, config, Broken(), people("test", 2), workers=0)
    assert closed == [tmp_path / "log.jsonl"]


def test_a_run_on_other_data_is_not_resumed_but_one_that_does_not_say_is(tmp_path):
    config, sets = TrainingConfig(steps=3, batch_size=2), (people(), people("test", 2))
    train(tmp_path, TINY, config, *sets, workers=0, stop_after=1, data="market, masks a")
    with pytest.raises(CheckpointError, match=r"other data, market, masks a, than .*, market, masks b; give"):
        train(tmp_path, TINY, config, *sets, workers=0, data="market, masks b")
    train(tmp_path, TINY, config, *sets, workers=0, stop_after=2, data="market, masks a")
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    del state["data"]
    torch.save(state, tmp_path / "last.pt")
    result = train(tmp_path, TINY, config, *sets, workers=0, data="market, masks b")
    assert checkpoint.load(result).metadata["data"] == "market, masks b"


def test_log_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "log.jsonl").write_text("a text\n")
    with pytest.raises(DataError, match=r"log\.jsonl is not the log of a run"):
        log.Log(tmp_path, 0)
    assert (tmp_path / "log.jsonl").read_text() == "a text\n"


def test_tensorboard_gets_every_figure_and_the_samples(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainingConfig(steps=3, batch_size=2)
    sets = (people(), people("test", 2))
    options = {"workers": 0, "log_every": 1, "tensorboard": True}
    train(tmp_path, TINY, config, *sets, **options, stop_after=2)
    train(tmp_path, TINY, config, *sets, **options)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    figures = [entry["l1"] for entry in lines(tmp_path) if "l1" in entry]
    assert [event.value for event in events.Scalars("l1")] == pytest.approx(figures)
    assert [event.step for event in events.Scalars("l1")] == [1, 2, 3]
    assert "held_out_psnr_db" in events.Tags()["scalars"]
    assert {event.step for event in events.Images("samples")} == {2, 3}


def test_waiting_for_pairs_is_measured_but_not_the_workers_start(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def loader():
        now[0] += 9.0  # the workers start
        while True:
            yield []
            now[0] += 0.25

    meter = log.Meter(batch_size=4)
    for count, _ in enumerate(meter.watch(loader()), 1):
        now[0] += 0.75
        if count == 5:
            break
    # 5 steps of 0.75 s and 4 waits of 0.25 s.
    assert meter.read() == pytest.approx((5 * 4 / 4.75, 1.0 / 4.75))


def test_a_starved_run_names_the_option_once(tmp_path, capsys):
    class Slowly(SyntheticPeople):
        def __getitem__(self, index):
            time.sleep(0.2)
            return super().__getitem__(index)

    slowly = Slowly(TINY.height, TINY.width, seed=3, length=12)
    config = TrainingConfig(steps=4, batch_size=2)
    train(tmp_path, TINY, config, slowly, people("test", 2), workers=0, log_every=2)
    notes = [line for line in capsys.readouterr().err.splitlines() if "--workers" in line]
    assert len(notes) == 1
    assert "of the time went into waiting for pairs; raise --workers (now 0" in notes[0]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_picture_that_cannot_be_read_is_named_in_one_line(tmp_path, workers):
    config = TrainingConfig(steps=2, batch_size=2)
    with pytest.raises(DataError, match=r"^a\.jpg is damaged; get it anew$"):
        train(tmp_path, TINY, config, Broken(), people("test", 2), workers=workers)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    config = TrainingConfig(steps=1, batch_size=2)

    class Meanwhile(SyntheticPeople):
        def __getitem__(self, index):
            train(tmp_path, TINY, config, people(), people("test", 2), workers=0)

    with pytest.raises(DataError, match=r"another run is at work in .*; wait for it or end it"):
        train(tmp_path, TINY, config, Meanwhile(TINY.height, TINY.width), people("test", 2), workers=0)
    assert train(tmp_path, TINY, config, people(), people("test", 2), workers=0).exists()
