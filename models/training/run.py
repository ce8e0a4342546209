"""A whole training run in one folder: resumable, with a log, sample grids and the checkpoint at its end."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.pair import Pair
from posewarp.models.training.batches import Batch, ResumableSampler, SharedBatches, load_batches
from posewarp.models.training.config import TrainingConfig
from posewarp.models.training.log import Log, Meter
from posewarp.models.training.processes import Processes, join
from posewarp.models.training.samples import Samples
from posewarp.models.training.trainer import Trainer
from posewarp.models.vgg import Vgg19Features, load_vgg19
from posewarp.runtime.errors import CheckpointError, DataError, PosewarpError
from posewarp.runtime.files import atomic_write

RESUME_FILE = "last.pt"
CHECKPOINT_FILE = "generator.safetensors"
# Fewer pairs than this in a process make batch norm's statistics noisy.
SMALL_SHARE = 8
DATA_WAIT_LIMIT = 0.1


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
    tensorboard: bool = False,
    data: str | None = None,
    metadata: dict[str, str] | None = None,
    at_start: Callable[[], None] = lambda: None,
) -> Path | None:
    """Train in a folder; if it holds an interrupted run of the same settings, go on where that stopped.

    A finished run of them is left as it is.

    Called in several processes that torchrun or accelerate started, it trains one network in all of them.

    Args:
        output: the folder, made if absent; all processes must see it. It receives ``log.jsonl`` (losses are means
            over the processes), ``samples/``, ``last.pt`` (everything needed to go on, EMA and raw weights among it)
            and at the end ``generator.safetensors`` (the EMA weights).
        config: its ``steps`` of None stand for the paper's budget.
        training_set: pairs; drawn in shuffled epochs.
        held_out: a few pairs that are not trained on: the log's PSNR and the sample grids are of these.
        device: where to train; of "cuda" each process of a machine takes its own GPU.
        workers: processes that render or decode pairs beside each training process.
        log_every, save_every: in steps; sample grids and held-out figures come with each save.
        stop_after: interrupt at this step, as a time limit would; None to run through.
        init_from: a checkpoint of the same network whose weights (EMA where it has them) a new run starts from.
        tensorboard: write the log for TensorBoard too, into ``tensorboard/``.
        data: what the two sets are, for the checkpoint; a run that had other ones is not resumed.
        metadata: strings for the checkpoint, such as the command that made it.
        at_start: called in process 0 when all checks are passed, before the first step; not of a finished run.

    Returns: the path of ``generator.safetensors``, None if ``stop_after`` came first.
    Raises: CheckpointError if the folder holds a damaged run, or one of other settings or data, or VGG19's weights
        are not there; ContractError if a process would get less than 2 pairs of a batch; BackendError for a device or
        library that is not there; DataError if the folder cannot be written; PosewarpError if a loss or a weight is
        no longer finite, which is never saved.
    """
    processes = join(device)
    config = config.resolved(len(training_set))
    share = processes.share(config.batch_size)
    vgg = _load_vgg(config, processes)
    trainer = Trainer(generator_config, config, len(training_set), processes, vgg)
    if (output / RESUME_FILE).exists():
        _resume(trainer, output / RESUME_FILE, data)
    elif init_from is not None:
        trainer.start_from(checkpoint.load(init_from).generator)
    finished = trainer.done == config.steps and _holds(output / CHECKPOINT_FILE, trainer)
    processes.wait()  # before process 0 may write that file
    if finished:
        return output / CHECKPOINT_FILE
    try:
        (output / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DataError(f"{output} cannot be made: {exc.strerror}") from exc
    indices = ResumableSampler(len(training_set), config.seed, start=trainer.done * config.batch_size)
    batches = SharedBatches(indices, config.batch_size, processes.index, processes.count)
    loader, meter = load_batches(training_set, batches, workers), Meter(config.batch_size)
    last = config.steps if stop_after is None else min(stop_after, config.steps)
    result = output / CHECKPOINT_FILE if last == config.steps else None

    with _locked(output, processes), _progress(processes) as progress, ExitStack() as at_end:
        if processes.is_main:
            log = Log(output, trainer.done, tensorboard)
            at_end.callback(log.close)
            samples = Samples(output / "samples", held_out, generator_config, processes.device)
            at_start()
            _tell_settings(vgg, config, share)
        waits_told = False
        bar = progress.add_task("training", total=config.steps, completed=trainer.done, note="")
        for pairs in meter.watch(loader) if trainer.done < last else ():
            losses = trainer.step(Batch.from_pairs(pairs, generator_config, processes.device))
            progress.update(bar, completed=trainer.done)
            if trainer.done % log_every == 0:
                entry = _entry(losses, meter, processes, trainer.done)
                if processes.is_main:
                    log.write(trainer.done, entry)
                    progress.update(bar, note=f"l1 {entry['l1']:.4f}, {entry['pairs_per_s']:.0f} pairs/s")
                    if entry["data_wait"] > DATA_WAIT_LIMIT and not waits_told:
                        waits_told = True
                        _tell_waiting(entry["data_wait"], workers)
            if trainer.done % save_every == 0 or trainer.done == last:
                _check_finite(trainer)  # in all processes, so that none waits for another
                if processes.is_main:
                    figures, grid = samples.draw(trainer.ema, f"{trainer.done:06d}")
                    log.write(trainer.done, figures)
                    log.show(trainer.done, grid)
                    with atomic_write(output / RESUME_FILE) as temporary:
                        torch.save(trainer.state_dict() | {"data": data}, temporary)
            if trainer.done == last:
                break
        if result:
            _check_finite(trainer)  # a finished run's save may be an older version's
        if processes.is_main and result:
            figures, _ = samples.draw(trainer.ema, "final")
            about = {} if data is None else {"data": data}
            _save(result, trainer, vgg, {"figures": json.dumps(figures), **about, **(metadata or {})})
        processes.wait()
    return result


@contextmanager
def _locked(output: Path, processes: Processes) -> Iterator[None]:
    """Two runs in one folder would write over each other: processes outlive a torchrun that was killed.

    Raises: DataError if another run is at work there.
    """
    if not processes.is_main or sys.platform == "win32":
        yield
        return
    import fcntl

    folder = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
    except BlockingIOError as exc:
        os.close(folder)
        raise DataError(
            f"another run is at work in {output}; wait for it or end it, or use another folder"
        ) from exc
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(folder)


def _load_vgg(config: TrainingConfig, processes: Processes) -> Vgg19Features | None:
    if config.vgg is None or not (config.perceptual_weight or config.style_weight):
        return None
    if processes.is_main:  # it may download
        vgg = load_vgg19(config.vgg)
    processes.wait()
    return vgg if processes.is_main else load_vgg19(config.vgg)


def _resume(trainer: Trainer, path: Path, data: str | None) -> None:
    try:
        state = torch.load(path, map_location=trainer.device, weights_only=True)
        trainer.load_state_dict(state)
        before, now = state.get("processes", 1), trainer.processes
        data_before = state.get("data")
    except CheckpointError:
        raise
    except Exception as exc:  # of a damaged or foreign file torch raises nearly anything
        raise CheckpointError(
            f"{path} cannot be resumed from ({type(exc).__name__}); remove it to begin anew, or use another folder"
        ) from exc
    if None not in (data_before, data) and data_before != data:  # None in older files
        raise CheckpointError(
            f"the run to resume was on other data, {data_before}, than is given now, {data}; give the same data and "
            "options of it, or another folder",
            got=data_before,
            expected=data,
        )
    if before != now.count and now.is_main:
        _tell(
            f"the run had {before} processes and goes on with {now.count}: batch norm sees other shares, so the "
            "losses will differ from those of an unbroken run"
        )


def _entry(losses: Mapping[str, Tensor], meter: Meter, processes: Processes, step: int) -> dict[str, float]:
    """A line of the log: means over the processes."""
    pairs_per_s, data_wait = meter.read()
    values = [*losses.values(), torch.tensor(data_wait)]
    means = processes.average(torch.stack([value.float().to(processes.device) for value in values])).tolist()
    for name, mean in zip(losses, means, strict=False):
        if not math.isfinite(mean):
            raise _came_apart(f"{name} is {mean}", step)
    entry = {name: round(mean, 6) for name, mean in zip(losses, means, strict=False)}
    return entry | {"pairs_per_s": round(pairs_per_s, 1), "data_wait": round(means[-1], 3)}


def _check_finite(trainer: Trainer) -> None:
    """Before a save, so that the last good one stays. Between two lines of the log no loss is looked at.

    Raises: PosewarpError if a weight or running statistic is not finite.
    """
    networks = {
        "generator": trainer.generator,
        "EMA of the generator": trainer.ema,
        "discriminators": trainer.discriminators,
    }
    for name, network in networks.items():
        # A sum is not finite where a summand is not; in float64 finite ones do not overflow.
        total = sum(value.sum(dtype=torch.float64) for value in network.state_dict().values())
        if not torch.isfinite(total):
            raise _came_apart(f"a weight of the {name} is not finite", trainer.done)


def _holds(path: Path, trainer: Trainer) -> bool:
    """Whether a checkpoint is there and has the trainer's weights."""
    if not path.exists():
        return False
    try:
        there = checkpoint.load(path).generator.state_dict()
    except CheckpointError:
        return False
    ours = trainer.ema.state_dict()
    return there.keys() == ours.keys() and all(torch.equal(there[name], ours[name].cpu()) for name in ours)


def _came_apart(what: str, step: int) -> PosewarpError:
    return PosewarpError(f"the run came apart: {what} at step {step}; begin anew with a lower learning rate")


def _save(path: Path, trainer: Trainer, vgg: Vgg19Features | None, metadata: Mapping[str, str]) -> None:
    checkpoint.save(
        path,
        trainer.ema.state_dict(),
        trainer.generator_config,
        {
            "weights": "ema",
            "training": json.dumps(trainer.state_dict()["training"]),
            "pairs": str(trainer.pairs),
            "processes": str(trainer.processes.count),
            "vgg": json.dumps({"source": vgg.source, "sha256": vgg.sha256})
            if vgg
            else "none: no eq. 5 and 6",
            **metadata,
        },
    )


def _tell_settings(vgg: Vgg19Features | None, config: TrainingConfig, share: int) -> None:
    if vgg is None:
        reason = "no VGG19 weights were given" if config.vgg is None else "their weights are 0"
        _tell(f"eq. 5 (perceptual) and eq. 6 (style) are off: {reason}")
    else:
        _tell(f"eq. 5 (perceptual) and eq. 6 (style) use VGG19 of {vgg.source}")
    if share < SMALL_SHARE:
        _tell(
            f"each process gets {share} pairs of a batch, which is few for batch norm; {SMALL_SHARE} are better"
        )


def _tell_waiting(share: float, workers: int) -> None:
    _tell(
        f"{share:.0%} of the time went into waiting for pairs; raise --workers (now {workers}; this machine has "
        f"{os.cpu_count()} CPUs)"
    )


def _tell(line: str) -> None:
    print(f"note: {line}", file=sys.stderr, flush=True)


def _progress(processes: Processes) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not (processes.is_main and console.is_terminal),
    )
