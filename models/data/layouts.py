"""Where the files of a data set lie: DeepFashion and Market-1501 as people have them on disk.

deepfashion   train/ test/, fas(h)ion[-resize]-pairs-SPLIT.csv, fas(h)ion[-resize]-annotation-SPLIT.csv; or
              SPLIT_pairs.txt (target,source[,source...]) with img/**/*.jpg and pose/**/*.txt
market        train/ test/ (or bounding_box_*), market-pairs-SPLIT.csv, market-annotation-SPLIT.csv
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from posewarp.models.data.framing import Size
from posewarp.runtime.errors import DataError

SPLITS = ("train", "test")
HIGH_RESOLUTION = (
    1101,
    750,
)  # DeepFashion's, which GFLA and NTED resize; their keypoints are of a 256-high frame
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Layout:
    """A data set's conventions: file names as patterns with {split}, picture size, and who is who."""

    size: Size
    picture_sizes: tuple[Size, ...]
    folders: tuple[str, ...]
    pairs: str
    annotations: str
    usual_pairs: str
    usual_annotations: str
    identity: re.Pattern[str]


LAYOUTS = {
    "deepfashion": Layout(
        size=(256, 176),
        picture_sizes=((256, 176), (256, 256), HIGH_RESOLUTION),
        folders=("{split}", "{split}_highres"),
        pairs=r"fash?ion(-resize)?-pairs-{split}\.csv",
        annotations=r"fash?ion(-resize)?-annotations?-{split}\.csv",
        usual_pairs="fasion-resize-pairs-{split}.csv",
        usual_annotations="fasion-resize-annotation-{split}.csv",
        # fashionWOMENSkirtsid0000062904_3back.jpg, or img/WOMEN/Skirts/id_00000629/04_3_back.jpg
        identity=re.compile(r"id_?(\d{8})"),
    ),
    "market": Layout(
        size=(128, 64),
        picture_sizes=((128, 64),),
        folders=("{split}", "bounding_box_{split}"),
        pairs=r"market-pairs-{split}\.csv",
        annotations=r"market-annotations?-{split}\.csv",
        usual_pairs="market-pairs-{split}.csv",
        usual_annotations="market-annotation-{split}.csv",
        identity=re.compile(r"^(-?\d+)_"),
    ),
}


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split.

    Attributes:
        layout: name of the layout.
        split: "train" or "test".
        root: of the tree.
        pictures: the folder that names of pictures are relative to.
        pairs: the csv or, of the NTED family, the text file.
        annotations: the csv; None where each picture has a text file in ``root/pose``.
    """

    layout: str
    split: str
    root: Path
    pictures: Path
    pairs: Path
    annotations: Path | None

    @cached_property
    def names(self) -> frozenset[str]:
        """The pictures that are there, as the lists name them."""
        if self.annotations is not None:
            return frozenset(entry.name for entry in os.scandir(self.pictures) if _is_picture(entry.name))
        walk = os.walk(self.root / "img")
        return frozenset(
            Path(folder, name).relative_to(self.root).as_posix()
            for folder, _, files in walk
            for name in files
            if _is_picture(name)
        )

    def keypoint_frame(self, picture: Size) -> Size:
        """The frame that the keypoints claim to be of, given the size of the pictures."""
        if self.annotations is None:  # NTED's are of the 256-wide pictures, whatever is trained on
            return (256, 256)
        cropped = "-resize-" in self.annotations.name and picture[0] == 256
        return (256, 176) if cropped or picture == HIGH_RESOLUTION else picture


def map_frames(layout: str, picture: Size) -> set[Size]:
    """The frames that parsing maps may have, at any resolution: the layout's, the 256-wide one, the pictures'."""
    return {LAYOUTS[layout].size, (256, 256), picture}


def find_layout(root: Path) -> str:
    """The name of a tree's layout, by its files.

    Raises: DataError if there is no such folder, or it holds none of the lists, or those of two layouts.
    """
    names = _listing(root)
    found = [
        name
        for name, layout in LAYOUTS.items()
        if any(_matches(names, pattern, s) for s in SPLITS for pattern in (layout.pairs, layout.annotations))
    ]
    if not found and {"train_pairs.txt", "test_pairs.txt"} & set(names):
        return "deepfashion"
    if len(found) != 1:
        usual = ", ".join(
            layout.usual_pairs.format(split=s) for layout in LAYOUTS.values() for s in SPLITS[:1]
        )
        what = "lists of several layouts" if found else "no list of pairs"
        raise DataError(
            f"{root} has {what} ({usual}, train_pairs.txt); say which it is: --layout deepfashion or market",
            got=found,
        )
    return found[0]


def find_files(root: Path, split: str, layout: str | None = None) -> SplitFiles:
    """The files of one split.

    Raises: DataError that names every missing one, with its usual name.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    layout = layout or find_layout(root)
    if layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r}, expected one of {', '.join(LAYOUTS)}")
    kind, names = LAYOUTS[layout], _listing(root)
    pairs = _matches(names, kind.pairs, split)
    if layout == "deepfashion" and not pairs and f"{split}_pairs.txt" in names:
        absent = [f"{folder}/" for folder in ("img", "pose") if not (root / folder).is_dir()]
        files = SplitFiles(layout, split, root, root, root / f"{split}_pairs.txt", None)
    else:
        annotations = _matches(names, kind.annotations, split)
        folders = [folder.format(split=split) for folder in kind.folders]
        folder = next((name for name in folders if (root / name).is_dir()), None)
        absent = [
            usual.format(split=split)
            for found, usual in (
                (pairs, kind.usual_pairs),
                (annotations, kind.usual_annotations),
                (folder, "{split}/ (pictures)"),
            )
            if not found
        ]
        if not absent:
            files = SplitFiles(layout, split, root, root / folder, root / pairs[0], root / annotations[0])
    if absent:
        raise DataError(
            f"{root} has no {', no '.join(absent)}; the {layout} layout needs it, and / means a folder, not a file",
            got=absent,
            expected=layout,
        )
    return files


def identity(name: str, layout: str) -> str | None:
    """Who a picture shows, by its name; None if the name does not say it."""
    found = LAYOUTS[layout].identity.search(name)
    return found[1] if found else None


def _listing(root: Path) -> list[str]:
    try:
        return sorted(os.listdir(root))
    except OSError as exc:
        raise DataError(f"{root} cannot be listed: {exc.strerror}; give the folder of the data set") from exc


def _matches(names: list[str], pattern: str, split: str) -> list[str]:
    """Those of the pattern, the -resize- one first: its keypoints are of the 256x176 pictures."""
    found = [name for name in names if re.fullmatch(pattern.format(split=split), name)]
    return sorted(found, key=lambda name: "-resize-" not in name)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_SUFFIXES)
