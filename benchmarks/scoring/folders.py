"""Generated pictures and ground truth as files: who belongs to whom, by name."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from posewarp.benchmarks.scoring.measures import Target
from posewarp.runtime.errors import DataError
from posewarp.runtime.files import sha256
from posewarp.runtime.image import read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SEPARATORS = ("___", "_2_")  # of PATN's and of GFLA's results
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
STRIP = 5  # panels of PATN's results: source, its pose, target, its pose, generated

# A pair of pictures by name, without suffix; the first is None where generated and truth bear the same name.
Name = tuple[str | None, str]


@dataclass(frozen=True)
class Resize:
    """What pictures are scaled to: Pillow's filter, which averages when it shrinks (antialias)."""

    height: int
    width: int
    filter: str = "bicubic"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == (self.height, self.width):
            return image
        return np.array(Image.fromarray(image).resize((self.width, self.height), FILTERS[self.filter]))


class Pictures:
    """The pictures of a folder by name, without suffix.

    Attributes:
        folder: where they are.
        paths: file by name.
        pairs: file by source and target, of names with their suffixes inside, as a.jpg___b.jpg_vis.

    Raises: DataError if there is no such folder, no picture in it, or two of one name.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if not folder.is_dir():
            raise DataError(
                f"{folder} is not a folder of pictures" if folder.exists() else f"{folder} does not exist"
            )
        self.paths: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in SUFFIXES:
                continue
            if path.stem in self.paths:
                raise DataError(f"{path} and {self.paths[path.stem]} bear one name; remove one")
            self.paths[path.stem] = path
        if not self.paths:
            raise DataError(f"{folder} holds no picture ({', '.join(SUFFIXES)})")

    def find(self, name: str) -> Path:
        """The file of a name, with or without suffix.

        Raises: DataError that names what is missing.
        """
        for key in (name, _stem(name)):
            if key in self.paths:
                return self.paths[key]
        raise DataError(f"{self.folder} has no picture {name}; nothing was measured")

    def __contains__(self, name: str) -> bool:
        return name in self.paths or _stem(name) in self.paths

    @cached_property
    def pairs(self) -> dict[Name, Path]:
        found: dict[Name, Path] = {}
        for stem, path in self.paths.items():
            core = stem.removesuffix("_vis")
            for separator in SEPARATORS:
                for place in (i for i in range(len(core)) if core.startswith(separator, i)):
                    pair = _stem(core[:place]), _stem(core[place + len(separator) :])
                    found.setdefault(pair, path)
        return found

    @property
    def formats(self) -> dict[str, int]:
        """How many files of each suffix."""
        return dict(Counter(path.suffix.lower() for path in self.paths.values()))


def read_rgb(path: Path) -> np.ndarray:
    """Read a picture to be measured, just as it is: no colour is made up and none laid on a background.

    Returns: uint8 (H, W, 3).
    Raises: DataError, naming it, if it is no picture or has another mode than RGB.
    """
    image = read_image(path)  # first, for its errors
    with Image.open(path) as picture:
        mode, clear = picture.mode, picture.has_transparency_data
    if mode != "RGB" or clear:
        kind = {"L": "grey", "LA": "grey with alpha", "P": "a palette"}.get(
            mode, "an alpha channel" if clear else mode
        )
        raise DataError(
            f"{path} is not RGB ({kind}); convert it, as the pictures compared with it were", got=mode
        )
    return image


def split_name(stem: str, truths: Pictures) -> Name:
    """Source and target of a file's name: ``<from>_2_<to>_vis``, ``<from>___<to>_vis``, or a truth's own name.

    Both may bear a suffix of their own, as in PATN's ``a.jpg___b.jpg_vis.jpg``.

    Raises: DataError if no ground truth fits, or more than one.
    """
    if stem in truths:
        return None, stem
    core = stem.removesuffix("_vis")
    fits = []
    for separator in SEPARATORS:
        places = [i for i in range(len(core)) if core.startswith(separator, i)]
        for place in places:
            source, target = _stem(core[:place]), _stem(core[place + len(separator) :])
            if target in truths:
                fits.append((source, target))
    if len(set(fits)) > 1:
        raise DataError(
            f"{stem} can be read as {' or as '.join(f'{a} to {b}' for a, b in sorted(set(fits)))}"
        )
    if not fits:
        raise DataError(
            f"{truths.folder} has no ground truth for {stem}; expected the same name, or the last part of "
            "<from>_2_<to>_vis or <from>___<to>_vis"
        )
    return fits[0]


def read_list(path: Path) -> list[Name]:
    """Names of a list: a csv of pairs (from,to, with or without that header), or one picture a line.

    Raises: DataError if it cannot be read, is empty, or has a line twice.
    """
    try:
        rows = [row for row in csv.reader(path.read_text().splitlines()) if row]
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path} cannot be read: {exc}") from exc
    if rows and [cell.strip() for cell in rows[0]] == ["from", "to"]:
        rows = rows[1:]
    names: list[Name] = []
    for row in rows:
        cells = [_stem(cell.strip()) for cell in row]
        if len(cells) > 2 or not all(cells):
            raise DataError(f"{path}: {','.join(row)!r} is neither a name nor from,to")
        names.append((None, cells[0]) if len(cells) == 1 else (cells[0], cells[1]))
    if not names:
        raise DataError(f"{path} is empty")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} lists {' to '.join(filter(None, twice))} twice")
    return names


def names_of(generated: Sequence[Pictures], truths: Pictures) -> list[Name]:
    """Pairs that folders of generated pictures hold; each must have all of them.

    Where generated and truth bear the same names, every truth must have been generated.
    """
    found = {each.folder: {split_name(stem, truths) for stem in each.paths} for each in generated}
    names = set().union(*found.values())
    if all(source is None for source, _ in names):
        names = {(None, stem) for stem in truths.paths}
    for folder, held in found.items():
        if missing := sorted(names - held, key=str):
            raise DataError(f"{folder} lacks {' to '.join(filter(None, missing[0]))}; nothing was measured")
    return list(names)


def sort_names(names: Iterable[Name]) -> list[Name]:
    """By target, then source: an order that no list's order changes."""
    return sorted(names, key=lambda name: (name[1], name[0] or ""))


def generated_path(pictures: Pictures, name: Name) -> Path:
    """The generated file of a pair.

    Raises: DataError that names it if it is missing.
    """
    source, target = name
    if source is None:
        return pictures.find(target)
    tried = [f"{source}{separator}{target}_vis" for separator in SEPARATORS]
    for stem in tried:
        if stem in pictures.paths:
            return pictures.paths[stem]
    if name in pictures.pairs:
        return pictures.pairs[name]
    raise DataError(f"{pictures.folder} has no {tried[0]} and no {tried[1]}; nothing was measured")


def generated_picture(path: Path, target: np.ndarray, resize: Resize | None) -> np.ndarray:
    """Read a generated picture; of a strip of five panels the last.

    Args:
        target: its ground truth, as it is measured.

    Raises: DataError, naming the file, if the sizes differ.
    """
    image = read_rgb(path)
    height, width = image.shape[:2]
    if width == STRIP * round(height * target.shape[1] / target.shape[0]):
        image = image[:, width - width // STRIP :]
    if resize:
        image = resize(image)
    if image.shape != target.shape:
        raise DataError(
            f"{path} has height {image.shape[0]} and width {image.shape[1]}, its ground truth {target.shape[0]} and "
            f"{target.shape[1]}; scale one, or give --size and --filter",
            got=image.shape,
            expected=target.shape,
        )
    return image


class TruthFolder(Sequence[Target]):
    """Ground truth of pairs: pictures of a folder, with garment masks of another, if any.

    Attributes:
        names: of the pairs, in the order of the sequence.
        sha256: of names and files' contents, whatever their order.
    """

    def __init__(
        self, truths: Pictures, names: Sequence[Name], resize: Resize | None, masks: Pictures | None = None
    ):
        self.names = sort_names(names)
        self._paths = [truths.find(target) for _, target in self.names]
        self._masks = None if masks is None else [masks.find(target) for _, target in self.names]
        self._resize = resize

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Target:
        image = read_rgb(self._paths[index])
        if self._resize:
            image = self._resize(image)
        mask = None if self._masks is None else _read_mask(self._masks[index], image)
        return Target(image, garment_mask=mask)

    @property
    def sha256(self) -> str:
        return hash_of({path.name: path for path in self._paths})


def hash_of(files: Mapping[str, Path]) -> str:
    """SHA-256 of a set of files: their names and contents, in the names' order."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{sha256(files[name])}\n".encode())
    return digest.hexdigest()


def reference_files(path: Path) -> dict[str, Path]:
    """Pictures of a folder, or of a list: one name a line, found beside the list or in the folder of its own name.

    ``fashion_data/train.lst`` names files of ``fashion_data/train``.

    Raises: DataError if one is missing, or there are none.
    """
    if path.is_dir():
        return {file.name: file for file in Pictures(path).paths.values()}
    names = [target for _, target in read_list(path)]
    folder = path.with_suffix("")
    pictures = Pictures(folder if folder.is_dir() else path.parent)
    return {file.name: file for file in map(pictures.find, names)}


def _read_mask(path: Path, image: np.ndarray) -> np.ndarray:
    mask = read_image(path).any(axis=2)
    if mask.shape != image.shape[:2]:
        raise DataError(
            f"{path} is a mask of {mask.shape}, its picture has {image.shape[:2]} (height, width)"
        )
    return mask


def _stem(name: str) -> str:
    """Without the suffix of a picture; other dots belong to the name."""
    path = Path(name)
    return path.stem if path.suffix.lower() in SUFFIXES else name
