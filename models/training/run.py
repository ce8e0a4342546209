"""A whole training run in one folder: resumable, with a log, sample grids and the checkpoint at its end."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader

from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import Pair
from posewarp.models.generator import Generator
from posewarp.models.metrics import psnr
from posewarp.models.training.batches import Batch, ResumableSampler
from posewarp.models.training.config import TrainingConfig
from posewarp.models.training.trainer import Trainer
from posewarp.models.warp import resize_flow, warp
from posewarp.runtime.errors import CheckpointError, DataError
from posewarp.runtime.files import atomic_write
from posewarp.runtime.image import write_image

RESUME_FILE = "last.pt"
LOG_FILE = "log.jsonl"
CHECKPOINT_FILE = "generator.safetensors"
GRID_ROWS = 8


def train(
    output: Path,
    generator_config: GeneratorConfig,
    config: TrainingConfig,
    training_set: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    device: torch.device | str = "cpu",
    workers: int = 1,
    log_every: int = 50,
    save_every: int = 250,
    stop_after: int | None = None,
    init_from: Path | None = None,
    metadata: dict[str, str] | None = None,
) -> Path | None:
    """Train in a folder; if it holds an interrupted run of the same settings, go on where that stopped.

    Args:
        output: the folder, made if absent. It receives ``log.jsonl``, ``samples/``, ``last.pt`` (everything needed
            to go on, EMA and raw weights among it) and at the end ``generator.safetensors`` (the EMA weights).
        training_set: pairs; drawn in shuffled epochs.
        held_out: a few pairs that are not trained on: the log's PSNR and the sample grids are of these.
        device: where to train.
        workers: processes that render or decode pairs beside the training process.
        log_every, save_every: in steps; sample grids and held-out figures come with each save.
        stop_after: interrupt at this step, as a time limit would; None to run through.
        init_from: a checkpoint of the same network whose weights (EMA where it has them) a new run starts from.
        metadata: strings for the checkpoint, such as the command that made it.

    Returns: the path of ``generator.safetensors``, None if ``stop_after`` came first.
    Raises: CheckpointError if the folder holds a damaged run, or one of other settings; DataError if it cannot
        be written.
    """
    try:
        (output / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DataError(f"{output} cannot be made: {exc.strerror}") from exc
    trainer = Trainer(generator_config, config, len(training_set), device)
    if (output / RESUME_FILE).exists():
        _resume(trainer, output / RESUME_FILE)
    elif init_from is not None:
        trainer.start_from(checkpoint.load(init_from).generator)
    log = _Log(output / LOG_FILE, trainer.done)
    sampler = ResumableSampler(len(training_set), config.seed, start=trainer.done * config.batch_size)
    loader = DataLoader(
        training_set,
        config.batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_one_thread,
        # A forked worker hangs in OpenCV's thread pool, of which it inherits the locks and not the threads.
        multiprocessing_context="spawn" if workers else None,
    )
    validation = Batch.from_pairs([held_out[i] for i in range(len(held_out))], generator_config, device)

    last = config.steps if stop_after is None else min(stop_after, config.steps)
    clock = time.perf_counter()
    with _progress() as progress:
        bar = progress.add_task("training", total=config.steps, completed=trainer.done, note="")
        for pairs in loader if trainer.done < last else ():
            losses = trainer.step(Batch.from_pairs(pairs, generator_config, device))
            progress.update(bar, completed=trainer.done)
            if trainer.done % log_every == 0:
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                entry = {name: round(float(loss), 6) for name, loss in losses.items()}
                entry["pairs_per_s"] = round(log_every * config.batch_size / seconds, 1)
                log.write(trainer.done, entry)
                progress.update(bar, note=f"l1 {entry['l1']:.4f}, {entry['pairs_per_s']:.0f} pairs/s")
            if trainer.done % save_every == 0 or trainer.done == last:
                log.write(
                    trainer.done,
                    _validate(trainer.ema, validation, output / "samples" / f"{trainer.done:06d}.png"),
                )
                with atomic_write(output / RESUME_FILE) as temporary:
                    torch.save(trainer.state_dict(), temporary)
            if trainer.done == last:
                break
    if trainer.done < config.steps:
        return None
    result = output / CHECKPOINT_FILE
    figures = _validate(trainer.ema, validation, output / "samples" / "final.png")
    checkpoint.save(
        result,
        trainer.ema.state_dict(),
        generator_config,
        {
            "weights": "ema",
            "training": json.dumps(trainer.state_dict()["training"]),
            "figures": json.dumps(figures),
            **(metadata or {}),
        },
    )
    return result


def _resume(trainer: Trainer, path: Path) -> None:
    try:
        trainer.load_state_dict(torch.load(path, map_location=trainer.device, weights_only=True))
    except CheckpointError:
        raise
    except Exception as exc:  # of a damaged or foreign file torch raises nearly anything
        raise CheckpointError(
            f"{path} cannot be resumed from ({type(exc).__name__}); remove it to begin anew, or use another folder"
        ) from exc


class _Log:
    """JSON lines; those after the step that a run resumes from are dropped, for it writes them anew.

    A last line without its end is one that a kill cut short: it is later than any save.
    """

    def __init__(self, path: Path, done: int):
        self.path = path
        text = path.read_text() if path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= done]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))

    def write(self, step: int, entry: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **entry}) + "\n")


@torch.no_grad()
def _validate(generator: Generator, batch: Batch, grid: Path) -> dict[str, float]:
    """PSNR in dB on the held-out pairs, and a grid: source, target, generated, source picture warped by the flow."""
    stages = generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
    generated, target, source = (_to_levels(x) for x in (stages.generated, batch.target, batch.source))
    columns = [source, target, generated]
    if stages.flow is not None:
        columns.append(_to_levels(warp(batch.source, resize_flow(stages.flow, 4), border="border")))
    rows = torch.cat([column[:GRID_ROWS] for column in columns], dim=3)  # (rows, 3, H, columns * W)
    write_image(grid, torch.cat(list(rows), dim=1).permute(1, 2, 0).cpu().numpy())
    return {
        "held_out_psnr_db": round(float(psnr(generated, target).mean()), 3),
        "held_out_garment_psnr_db": round(float(psnr(generated, target, batch.mask).nanmean()), 3),
    }


def _to_levels(image: Tensor) -> Tensor:
    return ((image + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(1)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
