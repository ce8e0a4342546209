"""Write synthetic people to disk as DeepFashion or Market-1501 lie there, so that readers meet real files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from posewarp.models.data import figure
from posewarp.models.data.framing import Size
from posewarp.models.data.layouts import LAYOUTS
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.runtime.errors import DataError
from posewarp.runtime.files import atomic_folder
from posewarp.runtime.image import write_image

VIEWS = ("1front", "2side")


@dataclass(frozen=True)
class _Maps:
    """How a kind of parsing maps lies on disk, and the labels of what a synthetic person shows."""

    folder: str
    suffix: str
    nested: bool  # in DeepFashion: SEX/CATEGORY/id_XXXXXXXX/NN_N_view
    upper: int
    trousers: int
    skirt: int
    head: int
    arms: int
    legs: int

    def labels(self, shown: np.ndarray) -> np.ndarray:
        """From ``figure.render_labels`` to this kind's labels, uint8 of the same shape."""
        table = np.zeros(2 * figure.CLOTHED, np.uint8)
        clothed = figure.CLOTHED
        for part in (figure.R_ARM, figure.L_ARM):
            table[part], table[part + clothed] = self.arms, self.upper
        for part in (figure.R_LEG, figure.L_LEG):
            table[part], table[part + clothed] = self.legs, self.trousers
        table[figure.TRUNK], table[figure.TRUNK + clothed] = self.arms, self.upper
        table[figure.SKIRT + clothed] = self.skirt
        table[figure.HEAD] = self.head
        return table[shown]


MAPS = {
    "adgan8": _Maps("semantic_merge3", ".npy", True, upper=5, trousers=1, skirt=3, head=4, arms=6, legs=7),
    "casd8": _Maps("semantic_merge3", ".png", True, upper=5, trousers=1, skirt=3, head=4, arms=6, legs=7),
    "pise8": _Maps("SPL8", ".png", False, upper=3, trousers=4, skirt=5, head=7, arms=6, legs=6),
    "cihp20": _Maps("CIHP", ".png", False, upper=5, trousers=9, skirt=12, head=13, arms=14, legs=16),
    "lip20": _Maps("LIP", ".png", False, upper=5, trousers=9, skirt=12, head=13, arms=14, legs=16),
}


def write_tree(
    output: Path,
    layout: str,
    *,
    train: int,
    test: int,
    size: Size | None = None,
    masks: str | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Path | None:
    """Write a data set of synthetic people: pictures, lists, annotations and, if asked for, parsing maps.

    Each person is seen twice, in two poses before one background, and makes two pairs, there and back. Joints are
    whole pixels, as in the data sets. The tree is there whole or not at all.

    Args:
        output: the folder, not yet there.
        layout: "deepfashion" or "market".
        train, test: numbers of pairs.
        size: (height, width) of the pictures; None for the layout's.
        masks: ``adgan8``, ``casd8``, ``pise8``, ``cihp20`` or ``lip20``; None writes no maps.
        seed: of the people.
        progress: called with what is written, how many pairs are done and how many there are.

    Returns: the folder of the maps, None without.
    Raises: DataError if the folder is there already or cannot be written, or a setting is unknown.
    """
    if layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r}, expected one of {', '.join(LAYOUTS)}")
    if masks is not None and masks not in MAPS:
        raise DataError(f"unknown masks {masks!r}, expected one of {', '.join(MAPS)}")
    if min(train, test) < 1:
        raise DataError(f"{train} and {test} pairs are asked for, expected at least 1 of each split")
    if os.path.lexists(output):
        raise DataError(f"{output} is there already; name a new folder")
    with atomic_folder(output) as temporary:
        maps = None if masks is None else MAPS[masks]
        writer = _Writer(temporary, layout, size or LAYOUTS[layout].size, maps)
        for split, pairs, before in (("train", train, 0), ("test", test, (train + 1) // 2)):
            writer.write_split(split, pairs, before, seed, progress)
    return None if masks is None else output / MAPS[masks].folder


@dataclass
class _Writer:
    root: Path
    layout: str
    size: Size
    maps: _Maps | None

    def write_split(
        self, split: str, pairs: int, people_before: int, seed: int, progress: Callable[[str, int, int], None]
    ) -> None:
        people = SyntheticPeople(*self.size, seed=seed, split=split, length=(pairs + 1) // 2)
        (self.root / split).mkdir()
        listed, annotations, names = [], ["name:keypoints_y:keypoints_x"], []
        for index in range(len(people)):
            pair, scene = people[index], people.scene(index)
            both = [self._name(people_before + index + 1, view) for view in range(2)]
            names += both
            listed += [both, both[::-1]]
            for name, image, keypoints, pose in (
                (both[0], pair.source_image, pair.source_keypoints, scene.source_pose),
                (both[1], pair.target_image, pair.target_keypoints, scene.target_pose),
            ):
                write_image(self.root / split / name, image)
                xs, ys = np.rint(keypoints).astype(int).T.tolist()
                annotations.append(f"{name}: {ys}: {xs}")
                if self.maps is not None:
                    shown = figure.render_labels(scene.appearance, pose, *self.size)[2]
                    self._write_map(name, self.maps.labels(shown))
            progress(f"{split} pairs", min(2 * index + 2, pairs), pairs)
        layout = LAYOUTS[self.layout]
        rows = ["from,to", *map(",".join, listed[:pairs])]
        self._write_lines(self._list_name(layout.usual_pairs, split), rows)
        self._write_lines(self._list_name(layout.usual_annotations, split), annotations)
        self._write_lines(f"{split}.lst", names)

    def _list_name(self, usual: str, split: str) -> str:
        # -resize- says that the keypoints are of the 256x176 frame.
        name = usual.format(split=split)
        return name if self.size == (256, 176) else name.replace("-resize-", "-")

    def _name(self, person: int, view: int) -> str:
        if self.layout == "market":
            return f"{person:04d}_c1s1_{person:06d}_{view:02d}.jpg"
        return f"fashionWOMENDressesid{person:08d}01_{VIEWS[view]}.jpg"

    def _write_map(self, name: str, labels: np.ndarray) -> None:
        stem = Path(name).stem
        if self.maps.nested and self.layout == "deepfashion":
            number, view = stem.removeprefix("fashionWOMENDressesid").split("_")
            stem = f"WOMEN/Dresses/id_{number[:8]}/{number[8:]}_{view[0]}_{view[1:]}"
        path = self.root / self.maps.folder / (stem + self.maps.suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.maps.suffix == ".npy":
            np.save(path, labels)
        else:
            Image.fromarray(labels).save(path)

    def _write_lines(self, name: str, lines: list[str]) -> None:
        (self.root / name).write_text("\n".join(lines) + "\n", "utf-8")
