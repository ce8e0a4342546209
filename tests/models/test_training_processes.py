"""Two processes over gloo train one network: what they share, and that an interruption changes nothing.

Started by torchrun, this file is one of the two processes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # accelerate brings it along
import pytest
import torch

from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.training.batches import Batch
from posewarp.models.training.config import TrainingConfig
from posewarp.models.training.processes import Processes, join, leave
from posewarp.models.training.trainer import Trainer
from posewarp.runtime.errors import BackendError

TINY = GeneratorConfig(height=64, width=32, base_width=4, blocks=1)
CONFIG = TrainingConfig(steps=10, batch_size=4)
# Its rendezvous on any free port of this machine, so that runs side by side do not meet.
RENDEZVOUS = ("--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--local_addr", "localhost")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *RENDEZVOUS)


def one_step(processes: Processes, share: int) -> tuple[Trainer, dict[str, torch.Tensor]]:
    people = SyntheticPeople(TINY.height, TINY.width, seed=3, length=12)
    trainer = Trainer(TINY, CONFIG, 100, processes)
    batch = Batch.from_pairs([people[i] for i in range(2 * share, 2 * share + 2)], TINY)
    return trainer, trainer.step(batch)


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    networks = {"generator": trainer.generator, "discriminators": trainer.discriminators}
    return {
        f"{name}.{key}": value.grad
        for name, network in networks.items()
        for key, value in network.named_parameters()
    }


def main(folder: Path) -> None:
    """What one of the processes does: a step, and all that it holds afterwards into a file."""
    processes = join("cpu")
    trainer, losses = one_step(processes, processes.index)
    means = {name: processes.average(loss) for name, loss in losses.items()}
    state = {
        "state": {key: trainer.state_dict()[key] for key in ("model", "ema", "discriminators")},
        "gradients": gradients(trainer),
        "means": means,
    }
    torch.save(state, folder / f"{processes.index}.pt")
    leave()


@pytest.mark.slow
def test_two_processes_average_gradients_statistics_and_losses(tmp_path):
    """Against each share in a process of its own, averaged by hand."""
    subprocess.run([*TORCHRUN, __file__, tmp_path], check=True, timeout=150)
    first, second = (torch.load(tmp_path / f"{index}.pt", weights_only=True) for index in range(2))
    for name, values in first["state"].items():
        for key, value in values.items():
            assert torch.equal(value, second["state"][name][key]), f"{name}.{key} differs"

    (alone, losses), (other, other_losses) = (one_step(Processes(), share) for share in range(2))
    other_gradients = gradients(other)
    for name, gradient in gradients(alone).items():
        torch.testing.assert_close(first["gradients"][name], (gradient + other_gradients[name]) / 2)
    for name, loss in losses.items():
        torch.testing.assert_close(first["means"][name], (loss + other_losses[name]) / 2)
    means = [name for name in first["state"]["model"] if name.endswith("running_mean")]
    assert means
    for name in means:
        mine, its = (trainer.generator.state_dict()[name] for trainer in (alone, other))
        assert not torch.equal(mine, its)
        torch.testing.assert_close(first["state"]["model"][name], (mine + its) / 2)


def curve(folder: Path) -> dict[int, list[float]]:
    """Losses by step; a step that was logged twice would fail the comparison."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    entries = [entry for entry in entries if "l1" in entry]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
    names = ("masked_l1", "l1", "adversarial", "discriminators", "lr")
    return {entry["step"]: [entry[name] for name in names] for entry in entries}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Synthetic people in the layout of DeepFashion."""
    folder = tmp_path_factory.mktemp("data") / "tree"
    options = ["--layout", "deepfashion", "--train", "12", "--test", "4"]
    subprocess.run(
        [sys.executable, "-m", "posewarp.cli.main", "data", "synthetic", *options, "-o", folder], check=True
    )
    return folder


@pytest.mark.slow
def test_killed_run_of_two_processes_goes_on_as_if_unbroken(tree, tmp_path):
    """SIGKILL after the second save, then SIGTERM after another, then to the end: the curve of an unbroken run."""

    def command(output: Path) -> list[object]:
        options = {
            "--height": 64,
            "--width": 32,
            "--steps": 30,
            "--batch-size": 4,
            "--log-every": 1,
            "--save-every": 3,
            "--workers": 0,
        }
        given = [str(part) for option in options.items() for part in option]
        return [*TORCHRUN, "-m", "posewarp.cli.main", "train", "--data", tree, "-o", output, *given]

    def stop(output: Path, signum: int, after: int) -> None:
        log = output / "log.jsonl"
        before = log.stat().st_mtime_ns if log.exists() else 0
        process = subprocess.Popen(command(output), stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 150
            # The log of an earlier start says nothing of this one, which writes it anew.
            while not (
                log.exists() and log.stat().st_mtime_ns > before and f'"step": {after},' in log.read_text()
            ):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            # torchrun passes SIGTERM on, but killed itself it leaves its processes at work.
            torchrun = psutil.Process(process.pid)
            for each in (torchrun, *(torchrun.children() if signum == signal.SIGKILL else ())):
                each.send_signal(signum)
            process.wait(timeout=100)

    subprocess.run(command(tmp_path / "whole"), check=True, timeout=150)
    stop(tmp_path / "broken", signal.SIGKILL, 4)
    stop(tmp_path / "broken", signal.SIGTERM, 12)
    subprocess.run(command(tmp_path / "broken"), check=True, timeout=150)
    whole, broken = curve(tmp_path / "whole"), curve(tmp_path / "broken")
    assert len(whole) == 30
    for step, losses in whole.items():
        assert broken[step] == pytest.approx(losses, abs=1e-4)
    metadata = checkpoint.load(tmp_path / "broken" / "generator.safetensors").metadata
    assert metadata["processes"] == "2"
    assert json.loads(metadata["data"])["layout"] == "deepfashion"


def test_process_without_a_gpu_of_its_own_is_told_how_many_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        BackendError, match=r"process 1 of this machine has no GPU .* torch sees 1; start as many"
    ):
        join("cuda")


def test_several_processes_without_accelerate_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BackendError, match=r"pip install \"posewarp\[train\]\""):
        join("cpu")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
