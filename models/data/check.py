"""Everything that is wrong with a data set on disk, found before an hour of training is lost to it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from posewarp.models.data.annotations import (
    Annotations,
    PoseFolder,
    frame_fault,
    read_lines,
    read_poses,
    suspicious_rows,
)
from posewarp.models.data.faults import KINDS, Fault
from posewarp.models.data.framing import Size
from posewarp.models.data.layouts import SPLITS, SplitFiles, find_files, find_layout, identity, map_frames
from posewarp.models.data.masks import Masks, is_frame, read_labels
from posewarp.models.data.pairs import read_pairs, unresolved
from posewarp.runtime.errors import DataError
from posewarp.runtime.keypoints import KEYPOINTS, is_missing, visible
from posewarp.runtime.threads import available_cpus

EXIF_ORIENTATION = 0x0112
UPRIGHT_ORIENTATIONS = (None, 0, 1)
GREY_MODES = ("1", "L", "LA", "I", "I;16")


@dataclass
class Report:
    """What was found in a tree.

    Attributes:
        layout: its name.
        counts: of each split: pairs, annotations, pictures, identities.
        faults: all, in the order of ``faults.KINDS``.
    """

    layout: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def by_kind(self) -> dict[str, list[Fault]]:
        """The faults of each kind that was found."""
        found = {kind: [fault for fault in self.faults if fault.kind == kind] for kind in KINDS}
        return {kind: faults for kind, faults in found.items() if faults}


def check(
    root: Path,
    splits: Sequence[str] = SPLITS,
    *,
    layout: str | None = None,
    masks: Path | None = None,
    parsing: str | Mapping[int, bool] = "adgan8",
    keypoint_frame: Size | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Report:
    """Read all lists of a tree, decode all pictures and maps that they name, and hold them against each other.

    Args:
        root, layout, masks, parsing, keypoint_frame: see ``pairs.open_dataset``.
        splits: which to check; people who are in both are looked for if both are.
        progress: called with what is read, how many are done and how many there are.

    Raises: DataError if there is no data set at all, or a setting is wrong.
    """
    report = Report(layout or find_layout(root))
    maps = None if masks is None else Masks(masks, parsing)
    people: dict[str, dict[str, str]] = {}
    for split in splits:
        try:
            files = find_files(root, split, report.layout)
        except DataError as exc:
            if exc.expected != report.layout:
                raise
            report.faults += [
                Fault("missing_file", str(root / name), _absence(root, name)) for name in exc.got
            ]
            continue
        try:
            people[split] = _check_split(files, maps, keypoint_frame, report, progress)
        except DataError as exc:
            report.faults.append(Fault("unreadable_file", str(root), str(exc)))
    report.faults += _leaks(people)
    order = list(KINDS)
    report.faults.sort(key=lambda fault: order.index(fault.kind))
    return report


def _check_split(
    files: SplitFiles,
    maps: Masks | None,
    keypoint_frame: Size | None,
    report: Report,
    progress: Callable[[str, int, int], None],
) -> dict[str, str]:
    """Add a split's faults to the report. Returns: a picture of each person, by person."""
    pairs, lines, faults = read_pairs(files)
    poses, more = read_poses(files)
    # Where no row could be read, each pair would be a fault once more.
    readable = not isinstance(poses, Annotations) or poses.names
    missing = unresolved(files, pairs, lines, poses) if readable else []
    named = sorted({name for pair in pairs for name in pair})
    persons = {name: identity(name, files.layout) for name in named}
    report.faults += [*faults, *more, *missing, *_list_mismatches(files)]
    for (source, target), line in zip(pairs, lines, strict=True):
        if persons[source] != persons[target]:
            message = f"{source} shows {persons[source]}, {target} shows {persons[target]}"
            report.faults.append(Fault("mixed_identities", str(files.pairs), message, line))

    there = [name for name in named if name in files.names]
    sizes = _check_pictures(files, there, report, progress)
    if sizes:
        frame = keypoint_frame or files.keypoint_frame(sizes.most_common(1)[0][0])
        report.faults += _check_keypoints(files, poses, named, frame)
    if maps is not None:
        frames = set().union(*(map_frames(files.layout, size) for size in sizes))
        targets = sorted({target for _, target in pairs})
        report.faults += _check_masks(files, maps, targets, frames, progress)
    report.counts[files.split] = {
        "pairs": len(pairs),
        "annotations": len(poses.names) if isinstance(poses, Annotations) else sum(n in poses for n in named),
        "pictures": len(files.names),
        "identities": len(set(persons.values()) - {None}),
    }
    return {person: name for name, person in persons.items() if person}


def _absence(root: Path, name: str) -> str:
    folder, slash, _ = name.partition("/")
    return "it is a file, expected a folder" if slash and (root / folder).is_file() else "it is not there"


def _leaks(people: dict[str, dict[str, str]]) -> list[Fault]:
    if len(people) < 2:
        return []
    train, test = (people[split] for split in SPLITS)
    return [
        Fault("identity_leak", train[person], f"person {person} is in test too, as {test[person]}")
        for person in sorted(set(train) & set(test))
    ]


def _list_mismatches(files: SplitFiles) -> list[Fault]:
    """Where train.lst or test.lst, if there is one, and the folder differ."""
    path = files.root / f"{files.split}.lst"
    if not path.exists():
        return []
    lines = {line.strip(): number for number, line in enumerate(read_lines(path), 1) if line.strip()}
    absent = [
        Fault("list_mismatch", str(path), f"{name} is not in {files.pictures}", number)
        for name, number in lines.items()
        if name not in files.names
    ]
    unlisted = [
        Fault("list_mismatch", str(path), f"{name} of {files.pictures} is not listed")
        for name in sorted(files.names - lines.keys())
    ]
    return absent + unlisted


def _check_keypoints(
    files: SplitFiles, poses: Annotations | PoseFolder, named: list[str], frame: Size
) -> list[Fault]:
    faults: list[Fault] = []
    if isinstance(poses, Annotations):
        names, keypoints, lines = poses.names, poses.keypoints, poses.lines
        where = [str(files.annotations)] * len(names)
    else:
        names, read, lines, where = [], [], [], []
        for name in (name for name in named if name in poses):
            try:
                read.append(poses[name])
            except DataError as exc:
                faults.append(Fault("bad_row", str(poses.path(name)), str(exc)))
                continue
            names.append(name)
            lines.append(None)
            where.append(str(poses.path(name)))
        keypoints = np.array(read, np.float32).reshape(-1, KEYPOINTS, 2)
    frame_name = f"{frame[0]}x{frame[1]}"
    whole = frame_fault(keypoints, frame, str(files.annotations or "pose")) if len(names) else None
    if whole is not None:
        faults.append(whole)
    said = {
        "no_keypoints": "all keypoints are missing",
        "swapped_columns": "x and y look swapped: trunk, head and legs are level",
        "keypoints_outside": f"most keypoints lie outside the {frame_name} frame",
    }
    for kind, rows in suspicious_rows(keypoints, frame).items():
        for row in np.flatnonzero(rows):
            reach = ""
            if kind == "keypoints_outside":
                seen = keypoints[row][~is_missing(keypoints[row])]
                reach = ": {} of {}, to x = {:g}, y = {:g}".format(
                    (~visible(seen, *frame)).sum(), len(seen), *seen.max(0)
                )
            faults.append(Fault(kind, where[row], f"{names[row]}: {said[kind]}{reach}", lines[row]))
    return faults


def _check_pictures(
    files: SplitFiles, names: list[str], report: Report, progress: Callable[[str, int, int], None]
) -> Counter[Size]:
    """Decode the pictures. Returns: how many have which size, the commonest first."""
    paths = [files.pictures / name for name in names]
    results = _in_parallel(_look_at_picture, paths, f"{files.split} pictures", progress)
    sizes: Counter[Size] = Counter(size for size, _ in results if size)
    for _, faults in results:
        report.faults += faults
    if sizes:
        usual = sizes.most_common(1)[0][0]
        for path, (size, _) in zip(paths, results, strict=True):
            if size not in (None, usual):
                message = (
                    f"{size[0]}x{size[1]} (height x width), {sizes[usual]} others are {usual[0]}x{usual[1]}"
                )
                report.faults.append(Fault("picture_size", str(path), message))
    return sizes


def _look_at_picture(path: Path) -> tuple[Size | None, list[Fault]]:
    """Size, upright, and faults of a picture; no size if it cannot be decoded."""
    try:
        if not os.path.getsize(path):
            return None, [Fault("empty_picture", str(path), "it has no bytes")]
        with Image.open(path) as picture:
            picture.load()
            mode, size = picture.mode, (picture.height, picture.width)
            orientation = picture.getexif().get(EXIF_ORIENTATION)
    except UnidentifiedImageError:
        return None, [Fault("unreadable_picture", str(path), "it is no picture")]
    except Exception as exc:  # damaged files make Pillow's decoders raise nearly anything
        kind = "truncated_picture" if "truncated" in str(exc).lower() else "unreadable_picture"
        return None, [Fault(kind, str(path), f"it cannot be decoded: {exc}")]
    faults = []
    if mode in GREY_MODES:
        faults.append(
            Fault("grey_picture", str(path), f"its mode is {mode}; its three channels will be equal")
        )
    if orientation not in UPRIGHT_ORIENTATIONS:
        faults.append(
            Fault("turned_picture", str(path), f"its EXIF orientation is {orientation}; it will be turned")
        )
        if orientation >= 5:
            size = size[::-1]
    return size, faults


def _check_masks(
    files: SplitFiles,
    maps: Masks,
    names: list[str],
    frames: set[Size],
    progress: Callable[[str, int, int], None],
) -> list[Fault]:
    """Faults of the maps; none of them is of another frame than ``frames``, if any is known."""

    def look_at(name: str) -> list[Fault]:
        path = maps.path(name)
        if path is None:
            return [Fault("missing_mask", str(maps.folder), f"no parsing map of {name}")]
        try:
            labels = read_labels(path)
        except DataError as exc:
            return [Fault("unreadable_mask", str(path), str(exc))]
        faults = []
        size = labels.shape
        if frames and not is_frame(labels, frames):
            faults.append(Fault("mask_size", str(path), f"it is {size[0]}x{size[1]} (height x width)"))
        unknown = maps.unknown(labels)
        if unknown:
            faults.append(
                Fault("mask_labels", str(path), f"its parsing knows no label {', '.join(map(str, unknown))}")
            )
        elif not maps.is_garment(labels).any():
            faults.append(Fault("no_garment", str(path), "no pixel of it is garment"))
        return faults

    results = _in_parallel(look_at, names, f"{files.split} parsing maps", progress)
    return [fault for faults in results for fault in faults]


def _in_parallel(
    look_at: Callable, items: Sequence, what: str, progress: Callable[[str, int, int], None]
) -> list:
    """Results in order. Threads are enough: decoders run without the interpreter's lock."""
    results = []
    with ThreadPoolExecutor(available_cpus()) as pool:
        for done, result in enumerate(pool.map(look_at, items), 1):
            results.append(result)
            progress(what, done, len(items))
    return results
