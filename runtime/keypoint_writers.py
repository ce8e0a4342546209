"""Keypoints to files of the usual formats, each of which ``read_keypoints`` and ``posewarp animate`` read again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from posewarp.runtime.errors import DataError
from posewarp.runtime.files import atomic_folder, atomic_write

# By suffix, where no kind is given.
_BY_SUFFIX = {".json": "json", ".csv": "patn", ".txt": "nted", ".jsonl": "jsonl"}
_PICTURE = re.compile(r"\.(jpe?g|png|webp|bmp)$", re.IGNORECASE)

People = Sequence[np.ndarray]


def check_kind(path: str | os.PathLike[str], kind: str | None = None) -> str:
    """The kind of file that ``path`` names; a folder holds plain JSON unless ``kind`` says otherwise.

    Raises: DataError if its suffix is none of those that are written, or ``kind`` has another.
    """
    suffix = Path(path).suffix.lower()
    if is_folder(path):
        if kind in _TABLES:
            raise DataError(f"{path} is a folder; {kind} is one file, {kind_suffix(kind)}")
        return kind or "json"
    if suffix not in _BY_SUFFIX:
        raise DataError(
            f"{path}: cannot write keypoints as {suffix}; use {', '.join(_BY_SUFFIX)}, or a folder"
        )
    if kind is not None and kind_suffix(kind) != suffix:
        raise DataError(f"{path}: {kind} files end in {kind_suffix(kind)}")
    return kind or _BY_SUFFIX[suffix]


def write_keypoints(
    path: str | os.PathLike[str], named: Mapping[str, People], kind: str | None = None
) -> None:
    """Write keypoints, whole or not at all.

    Args:
        path: a file; or a folder, not yet there or empty, that gets a file for each picture, named after it.
        named: by the name of the picture, its people, (18, 3) each: x, y, score, NaN in a missing joint.
        kind: ``json``, 18 rows of x, y, score, missing (-1, -1, 0); ``openpose``, all people, missing (0, 0, 0);
            ``nted``, 18 rows of x,y, missing -1; ``patn``, the annotation csv, y first; ``jsonl``, a line of JSON
            with a name for each picture. None: by the suffix.

    Raises: DataError if it cannot be written; if several pictures are to be in a file of one, several people in a
        format of one, or a name cannot be a file's.
    """
    kind = check_kind(path, kind)
    if kind != "openpose":
        for name, people in named.items():
            if len(people) > 1:
                raise DataError(f"{name} has {len(people)} people; {kind} holds one, openpose all of them")
    if kind in _TABLES:
        _write_text(path, _TABLES[kind](named))
    elif not is_folder(path):
        if len(named) != 1:
            raise DataError(
                f"{path} holds one picture, {len(named)} are to be written; name a folder, .csv or .jsonl"
            )
        _write_text(path, _SINGLES[kind](next(iter(named.values()))))
    else:
        with atomic_folder(path) as folder:
            for name, people in named.items():
                ending = (
                    "_keypoints.json" if kind == "openpose" else kind_suffix(kind)
                )  # as OpenPose names them
                file = place_in(folder, name, ending)
                file.write_text(_SINGLES[kind](people), encoding="utf-8")


def place_in(folder: Path, name: str, ending: str) -> Path:
    """The file in ``folder`` for a picture: its name with another ending; folders in the name are made.

    Raises: DataError if it would lie outside, or is there already.
    """
    file = folder / (_PICTURE.sub("", name) + ending)
    if "\0" in name or not file.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{name!r} cannot be the name of a file in the folder; write a .csv or .jsonl")
    if file.exists():
        raise DataError(
            f"two pictures would be written to {file.relative_to(folder)}; write a .csv or .jsonl"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def kind_suffix(kind: str) -> str:
    """The suffix of the files of a kind."""
    return next((suffix for suffix, each in _BY_SUFFIX.items() if each == kind), ".json")


def _write_text(path: str | os.PathLike[str], text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder of files is meant: one is there, or the name has no suffix."""
    return Path(path).is_dir() or not Path(path).suffix


def _rows(
    people: People, missing: tuple[float, float, float], keep_corner: bool = False
) -> list[list[float]]:
    """One person's rows, x, y, score; whole numbers without a point, as others write them."""
    joints = people[0] if people else np.full((18, 3), np.nan)
    rows = []
    for x, y, score in np.where(np.isnan(joints).any(1, keepdims=True), missing, joints).tolist():
        # (0, 0) says that a joint is missing, in all formats but the csv; a thousandth of a pixel keeps it.
        corner = not keep_corner and x == y == 0 and score > 0
        rows.append([int(v) if v.is_integer() else v for v in (x, 0.001 if corner else y, score)])
    return rows


def _openpose(people: People) -> str:
    persons = [
        {"person_id": [-1], "pose_keypoints_2d": [v for row in _rows([each], (0, 0, 0)) for v in row]}
        for each in people
    ]
    return json.dumps({"version": 1.3, "people": persons}) + "\n"


def _plain(people: People) -> str:
    return json.dumps(_rows(people, (-1, -1, 0))) + "\n"


def _nted(people: People) -> str:
    return "".join(f"{x},{y}\n" for x, y, _ in _rows(people, (-1, -1, 0)))


def _patn(named: Mapping[str, People]) -> str:
    lines = ["name:keypoints_y:keypoints_x"]
    for name, people in named.items():
        rows = _rows(people, (-1, -1, 0), keep_corner=True)
        lines.append(f"{name}: {[y for _, y, _ in rows]}: {[x for x, _, _ in rows]}")
    return "\n".join(lines) + "\n"


def _jsonl(named: Mapping[str, People]) -> str:
    lines = [{"name": name, "keypoints": _rows(people, (-1, -1, 0))} for name, people in named.items()]
    return "".join(json.dumps(line) + "\n" for line in lines)


_SINGLES: dict[str, Callable[[People], str]] = {"json": _plain, "openpose": _openpose, "nted": _nted}
_TABLES: dict[str, Callable[[Mapping[str, People]], str]] = {"patn": _patn, "jsonl": _jsonl}
