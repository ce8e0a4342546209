"""Garment masks from the parsing maps that people have: which file, which labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from posewarp.models.data.framing import Size, frame_labels, same_aspect
from posewarp.runtime.errors import DataError


@dataclass(frozen=True)
class Parsing:
    """What the labels of a parsing map mean: all that there are, and those of garments."""

    labels: frozenset[int]
    garments: frozenset[int]


def _preset(count: int, *garments: int) -> Parsing:
    return Parsing(frozenset(range(count)), frozenset(garments))


PARSINGS = {
    # 0 background, 1 trousers, 2 hair, 3 skirt, 4 face, 5 upper clothes, 6 arms, 7 legs and shoes
    "adgan8": _preset(8, 1, 3, 5),
    "casd8": _preset(8, 1, 3, 5),
    # 0 background, 1 hat, 2 hair, 3 upper, 4 and 5 lower, 6 skin, 7 face
    "pise8": _preset(8, 3, 4, 5),
    # 5 upper, 6 dress, 7 coat, 9 trousers, 11 scarf, 12 skirt; 10 is skin of the torso in CIHP, a jumpsuit in LIP
    "cihp20": _preset(20, 5, 6, 7, 9, 11, 12),
    "lip20": _preset(20, 5, 6, 7, 9, 10, 11, 12),
}


def to_parsing(parsing: str | Mapping[int, bool]) -> Parsing:
    """A preset by name, a list of garment labels such as "3,4,5", or {label: whether it is a garment}.

    Of a list, every other label from 0 to 255 is known too, and no garment.

    Raises: DataError if it is none of these.
    """
    if not isinstance(parsing, str):
        return Parsing(
            frozenset(map(int, parsing)),
            frozenset(int(label) for label, is_garment in parsing.items() if is_garment),
        )
    if parsing in PARSINGS:
        return PARSINGS[parsing]
    if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", parsing):
        raise DataError(
            f"unknown parsing {parsing!r}; use {', '.join(PARSINGS)}, or garment labels such as 3,4,5"
        )
    return Parsing(frozenset(range(256)), frozenset(map(int, parsing.split(","))))


class Masks:
    """Parsing maps in a folder, by name of a picture.

    ADGAN's lie in SEX/CATEGORY/id_XXXXXXXX/NN_N_view.npy (CASD's the same as .png), others flat under the picture's
    name; both are found by sex, category, number and view, without their separators.

    Args:
        folder: of the maps, of one split or of both.
        parsing: see ``to_parsing``.

    Raises: DataError if the folder cannot be listed or holds two maps of a picture.
    """

    def __init__(self, folder: Path, parsing: str | Mapping[int, bool] = "adgan8"):
        self.folder, self.parsing = folder, to_parsing(parsing)
        if not folder.is_dir():
            raise DataError(f"{folder}, the folder of parsing maps, is not there")
        self._paths: dict[str, str] = {}
        for parent, _, files in os.walk(folder):
            for name in files:
                if name.endswith((".npy", ".png")):
                    path = os.path.join(parent, name)
                    other = self._paths.setdefault(_key(os.path.relpath(path, folder)), path)
                    if other != path:
                        raise DataError(
                            f"{other} and {path} are maps of one picture; give the folder of one kind"
                        )

    def path(self, name: str) -> Path | None:
        """The map of a picture, None if there is none."""
        found = self._paths.get(_key(name))
        return None if found is None else Path(found)

    def garment(self, name: str, size: Size, frames: Iterable[Size]) -> np.ndarray:
        """The garment mask of a picture, bool ``size``, from a map of one of ``frames`` at any resolution.

        Raises: DataError if the map is missing, cannot be read, is of another frame or has unknown labels.
        """
        path = self.path(name)
        if path is None:
            raise DataError(f"{self.folder} has no parsing map of {name}")
        labels = read_labels(path)
        if not is_frame(labels, frames):
            height, width = labels.shape
            raise DataError(f"{path} is {height}x{width} (height x width), another frame than its picture's")
        unknown = self.unknown(labels)
        if unknown:
            raise DataError(
                f"{path} has the labels {unknown}, which its parsing does not know; choose another"
            )
        return self.is_garment(frame_labels(labels, size))

    def unknown(self, labels: np.ndarray) -> list[int]:
        """The labels in a map that the parsing does not know."""
        return sorted(set(np.flatnonzero(np.bincount(labels.ravel())).tolist()) - self.parsing.labels)

    def is_garment(self, labels: np.ndarray) -> np.ndarray:
        """uint8 labels to bool, of the same shape."""
        table = np.zeros(256, bool)
        table[list(self.parsing.garments)] = True
        return table[labels]


def is_frame(labels: np.ndarray, frames: Iterable[Size]) -> bool:
    """Whether a map (H, W) has one of these frames, at any resolution."""
    return any(same_aspect(labels.shape, frame) for frame in frames)


def read_labels(path: Path) -> np.ndarray:
    """A parsing map, uint8 (H, W), from .npy (never unpickled) or an indexed or grey .png.

    Raises: DataError if it cannot be read or is no map of labels from 0 to 255.
    """
    try:
        if path.suffix == ".npy":
            labels = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as picture:
                if picture.mode not in ("P", "L"):
                    raise DataError(
                        f"{path} has mode {picture.mode}, expected one label a pixel (mode L or P)"
                    )
                labels = np.asarray(picture)
    except DataError:
        raise
    except OSError as exc:
        raise DataError(f"{path} is no parsing map: {type(exc).__name__} {exc}") from exc
    except Exception as exc:  # damaged files make NumPy and Pillow raise nearly anything
        what = ".npy of plain numbers" if path.suffix == ".npy" else "picture"
        raise DataError(f"{path} is no parsing map: it is no {what}, or damaged") from exc
    if labels.ndim != 2 or not labels.size or labels.min() < 0 or labels.max() > 255 or (labels % 1).any():
        raise DataError(f"{path} is {labels.dtype} {labels.shape}, expected labels from 0 to 255, (H, W)")
    return labels.astype(np.uint8)


def _key(name: str) -> str:
    """Sex, category, number and view, of DeepFashion's names and paths alike; the bare name of others."""
    stem = os.path.splitext(name)[0]
    joined = re.sub(r"[\\/_]", "", stem)
    found = re.search(r"(?:WO)?MEN[A-Z]\w*?id\d{8}\w*$", joined)
    return found[0] if found else os.path.basename(stem)
