"""What a run tells of itself: JSON lines, TensorBoard, pairs per second, and the share of waiting for data."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from posewarp.models.data.pair import Pair
from posewarp.runtime.errors import BackendError, DataError, PosewarpError
from posewarp.runtime.files import atomic_write

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class Log:
    """``log.jsonl`` in the folder of a run and, where asked for, TensorBoard's event files in ``tensorboard/``.

    Lines after the step that a run resumes from are dropped, for it writes them anew. A last line without its end is
    one that a kill cut short: it is later than any save.

    Args:
        folder: of the run.
        done: the step that it goes on from.
        tensorboard: write its files too.

    Raises: DataError if the files cannot be read or written; BackendError if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, done: int, tensorboard: bool = False):
        self.path = folder / LOG_FILE
        try:
            text = self.path.read_text() if self.path.exists() else ""
            lines = text[: text.rfind("\n") + 1].splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= done]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise DataError(
                f"{self.path} is not the log of a run ({type(exc).__name__}); remove it, or use another folder"
            ) from exc
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))
        self.tensorboard = _tensorboard(folder, done) if tensorboard else None

    def write(self, step: int, entry: Mapping[str, float]) -> None:
        """Append a line; each figure becomes a scalar of TensorBoard."""
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **entry}) + "\n")
        except OSError as exc:
            raise DataError(f"{self.path} cannot be written: {exc.strerror}") from exc
        if self.tensorboard:
            for name, value in entry.items():
                self.tensorboard.add_scalar(name, value, step)

    def show(self, step: int, grid: np.ndarray) -> None:
        """Show a grid of samples, (H, W, 3) uint8, in TensorBoard."""
        if self.tensorboard:
            self.tensorboard.add_image("samples", grid, step, dataformats="HWC")

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self.tensorboard:
            self.tensorboard.close()


def _tensorboard(folder: Path, done: int) -> object:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as exc:
        raise BackendError(
            'the tensorboard package, which was asked for, is not installed: pip install "posewarp[train]"'
        ) from exc
    # What an interrupted run wrote after its save is not shown.
    return SummaryWriter(folder / TENSORBOARD_FOLDER, purge_step=done + 1)


class Meter:
    """Pairs per second, and which share of the time went into waiting for them.

    On a GPU the share is an upper bound: while the host waits, the device may still be at work.

    Args:
        batch_size: pairs of all processes together.
    """

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self._restart()

    def watch(self, batches: Iterable[list[Pair]]) -> Iterator[list[Pair]]:
        """Pass an endless iterable on. The wait for its first item, while workers start, does not count."""
        iterator = iter(batches)
        pairs = _next(iterator)
        self._restart()
        while True:
            self.batches += 1
            yield pairs
            asked = time.perf_counter()
            pairs = _next(iterator)
            self.waited_s += time.perf_counter() - asked

    def read(self) -> tuple[float, float]:
        """Pairs per second, and the share of waiting, 0 to 1, since the last reading."""
        elapsed_s = time.perf_counter() - self.started
        figures = self.batches * self.batch_size / elapsed_s, self.waited_s / elapsed_s
        self._restart()
        return figures

    def _restart(self) -> None:
        self.batches, self.waited_s, self.started = 0, 0.0, time.perf_counter()


def _next(iterator: Iterator[list[Pair]]) -> list[Pair]:
    """The next batch; what failed in a worker process is told in one line, as if it had failed here."""
    try:
        return next(iterator)
    except PosewarpError as exc:
        # torch raises the error's class again with the worker's traceback as its message.
        message = str(exc).strip()
        if "Original Traceback" not in message:
            raise
        raise type(exc)(message.rsplit("\n", 1)[-1].partition(": ")[2]) from exc
    except RuntimeError as exc:
        if "DataLoader worker" not in str(exc):
            raise
        raise DataError(
            f"a worker process that makes pairs ended ({exc}); take fewer workers if memory is short"
        ) from exc
