"""Training runs side by side, a process each, every one in its own folder where it goes on after an interruption."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.training.config import TrainingConfig
from posewarp.models.training.log import LOG_FILE
from posewarp.models.training.run import train
from posewarp.runtime import command
from posewarp.runtime.errors import DataError

OUTPUT_FILE = "train.out"  # what a run prints
LOG_EVERY, SAVE_EVERY = 10, 100
TRAINING_PAIRS = 100_000
VALIDATION_PAIRS = 32
POLL_S = 0.5


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        folder: of the run.
        network, training: what is trained, and how.
        device: where.
        threads: CPU threads of its process.
        workers: processes beside it that draw pairs.
    """

    folder: Path
    network: GeneratorConfig
    training: TrainingConfig
    device: str
    threads: int
    workers: int


def train_side_by_side(runs: Sequence[Run], jobs: int) -> None:
    """Train all runs, ``jobs`` of them at a time; those that are finished cost nothing.

    Raises: DataError if one fails, with the last line that it printed; the others are stopped, and go on from their
        last save when this is called again.
    """
    context = multiprocessing.get_context(
        "spawn"
    )  # a forked process hangs in OpenCV's and torch's thread pools
    waiting, running = list(runs), {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = {
            run: progress.add_task(run.folder.name, total=run.training.steps, start=False) for run in runs
        }
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    running[run] = context.Process(target=_work, args=(run,))
                    running[run].start()
                    progress.start_task(bars[run])
                time.sleep(POLL_S)
                for run, process in list(running.items()):
                    progress.update(bars[run], completed=_steps_done(run.folder))
                    if process.exitcode is None:
                        continue
                    del running[run]
                    progress.stop_task(bars[run])
                    if process.exitcode:
                        raise DataError(f"training of {run.folder} failed: {_last_line(run.folder)}")
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.join()


def _work(run: Run) -> None:
    """The whole of a run's process."""
    torch.set_num_threads(run.threads)
    run.folder.mkdir(parents=True, exist_ok=True)
    size = {"height": run.network.height, "width": run.network.width}
    seed = run.training.seed
    with (run.folder / OUTPUT_FILE).open("w") as out, redirect_stdout(out), redirect_stderr(out):
        command.main(
            lambda: train(
                run.folder,
                run.network,
                run.training,
                SyntheticPeople(**size, seed=seed, split="train", length=TRAINING_PAIRS),
                # Not the pairs that are scored in the end: those are of seed 0, whatever the training's.
                SyntheticPeople(**size, seed=seed + 1, split="test", length=VALIDATION_PAIRS),
                device=run.device,
                workers=run.workers,
                log_every=LOG_EVERY,
                save_every=SAVE_EVERY,
                data="synthetic people",
                metadata={"command": "python benchmarks/ablation.py"},
            )
        )


def _steps_done(folder: Path) -> int:
    path = folder / LOG_FILE
    lines = path.read_text().splitlines() if path.exists() else []
    # The last line may still be in writing.
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def _last_line(folder: Path) -> str:
    path = folder / OUTPUT_FILE
    lines = path.read_text().split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")
