"""Sequences of target keypoints: a folder of keypoint files, or a JSONL file; read one frame at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from posewarp.runtime.errors import DataError
from posewarp.runtime.keypoint_files import parse_keypoints, read_keypoints
from posewarp.runtime.keypoints import is_missing

KINDS = (".json", ".txt", ".csv", ".npy")


class Poses:
    """The poses of a sequence: iterate for a name, such as ``poses.jsonl, line 7``, and (18, 2) keypoints.

    Nothing is held but the frame at hand, and a folder's file names.

    Attributes:
        total: frames, empty ones included; None where that is not known beforehand, as of a pipe.
        skipped: how many empty frames the iteration has left out so far.
    """

    def __init__(self, path: str | os.PathLike[str], *, order: str | None = None, skip_empty: bool = False):
        """Find the frames; they are read by the iteration.

        Args:
            path: a folder of keypoint files of one kind, one a frame, in natural order (2 before 10); or a JSONL
                file, of which each line is a frame: any JSON that ``read_keypoints`` takes, such as 18 points
                or OpenPose's ``people``. It may be a pipe, which can be iterated once.
            order: as for ``read_keypoints``.
            skip_empty: leave out frames without a visible keypoint; otherwise they are errors.

        Raises: DataError if there is no such folder or file, or no frame in it.
        """
        self.path = Path(path)
        self.order = order
        self.skip_empty = skip_empty
        self.skipped = 0
        self._files = _keypoint_files(self.path) if self.path.is_dir() else None
        self.total = _count_lines(self.path) if self._files is None else len(self._files)
        if self.total == 0:
            kinds = f": no {', '.join(KINDS)}" if self._files is not None else ""
            raise DataError(f"{path} has no keypoints in it{kinds}")

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields: a frame's name, for messages, and its (18, 2) keypoints, float32; missing (-1, -1).
        Raises: DataError, naming the file or line, if a frame cannot be read, or is empty.
        """
        for name, keypoints in self._read_lines() if self._files is None else self._read_files():
            if not is_missing(keypoints).all():
                yield name, keypoints
            elif self.skip_empty:
                self.skipped += 1
            else:
                raise DataError(f"{name} has no visible keypoint; such frames are left out with --skip-empty")

    def _read_files(self) -> Iterator[tuple[str, np.ndarray]]:
        for file in self._files or ():
            yield str(file), read_keypoints(file, order=self.order, allow_empty=True)

    def _read_lines(self) -> Iterator[tuple[str, np.ndarray]]:
        try:
            with open(self.path, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    name = f"{self.path}, line {number}"
                    yield name, _parse_line(line, name, self.order)
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc


def _parse_line(line: bytes, name: str, order: str | None) -> np.ndarray:
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as exc:
        raise DataError(f"{name} is not text: {exc}") from exc
    if text and text[0] not in "{[":
        raise DataError(f'{name} is not JSON; expected 18 points, or {{"people": [...]}}, on each line')
    return parse_keypoints(text, name, order=order, allow_empty=True)


def _keypoint_files(folder: Path) -> list[Path]:
    """The folder's keypoint files, in natural order."""
    try:
        files = [each for each in folder.iterdir() if each.suffix.lower() in KINDS and each.name[0] != "."]
    except OSError as exc:
        raise _unreadable(folder, exc) from exc
    kinds = sorted({each.suffix.lower() for each in files})
    if len(kinds) > 1:  # a list of frames beside the frames, or each frame twice
        raise DataError(
            f"{folder} has keypoint files of several kinds ({', '.join(kinds)}); keep one of them"
        )
    return sorted(files, key=natural_order)


def natural_order(file: Path) -> tuple[list[tuple[str, int]], str]:
    """A key to sort files by: numbers in a name compare as numbers; the name itself decides between 1 and 01."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", file.with_suffix("").as_posix())
    return [(text, int(digits or -1)) for text, digits in parts], file.name


def _count_lines(path: Path) -> int | None:
    """Lines of a file, the last one perhaps without an end; None if it is a pipe, which reading would empty."""
    try:
        if path.exists() and not path.is_file():
            return None
        with open(path, "rb") as lines:
            return sum(1 for _ in lines)
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _unreadable(path: Path, exc: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {exc.strerror}")
