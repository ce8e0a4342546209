"""A data set on disk as pairs: read lazily, with what was decoded kept as far as a limit allows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from posewarp.models.data.annotations import Annotations, PoseFolder, frame_fault, read_lines, read_poses
from posewarp.models.data.faults import Fault, refuse
from posewarp.models.data.framing import Size, frame_image, frame_keypoints
from posewarp.models.data.layouts import LAYOUTS, SplitFiles, find_files, map_frames
from posewarp.models.data.masks import Masks
from posewarp.models.data.pair import Pair
from posewarp.runtime.errors import DataError, PosewarpWarning
from posewarp.runtime.image import read_image
from posewarp.runtime.keypoints import visible

CACHE_MIB = 256  # of decoded pictures, in each worker
# What can be looked up, so that it need not stop a run.
TOLERATED = ("duplicate_annotation", "duplicate_pair", "self_pair")


class PairDataset(Sequence[Pair]):
    """Pairs of pictures of the same person, decoded when asked for; ``open_dataset`` makes one.

    Attributes:
        files: where they lie.
        names: (source, target) of each pair, as the lists name the pictures.
        size: (height, width) of the pictures as they are given.
        picture_size: of the pictures on disk.
        keypoint_frame: (height, width) that the keypoints on disk are in pixels of.
    """

    def __init__(
        self,
        files: SplitFiles,
        names: list[tuple[str, str]],
        poses: Annotations | PoseFolder,
        masks: Masks | None,
        *,
        size: Size,
        picture_size: Size,
        keypoint_frame: Size,
        cache_mib: float = CACHE_MIB,
    ):
        self.files, self.names, self.poses, self.masks = files, names, poses, masks
        self.size, self.picture_size, self.keypoint_frame = size, picture_size, keypoint_frame
        self.cache_mib = cache_mib
        self._remember()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        """Pictures are read-only: they may be given again.

        Raises: DataError, naming the file, if one cannot be read or has another size than the others.
        """
        source, target = self.names[index]
        return Pair(
            self._picture(source),
            self._picture(target),
            self._keypoints(source),
            self._keypoints(target),
            self._mask(target),
        )

    def __getstate__(self) -> dict[str, object]:
        """For a worker process: without what is cached here."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_picture", "_mask")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._remember()

    def _remember(self) -> None:
        # A pixel has 3 bytes of picture and 1 of mask, and a picture is target as often as source.
        count = int(self.cache_mib * 2**20 / (4 * self.size[0] * self.size[1]))
        self._picture = functools.lru_cache(count)(self._read_picture)
        self._mask = functools.lru_cache(count)(self._read_mask)

    def _read_picture(self, name: str) -> np.ndarray:
        path = self.files.pictures / name
        image = read_image(path)
        check_size(path, image, self.picture_size)
        return _read_only(frame_image(image, self.size))

    def _read_mask(self, name: str) -> np.ndarray:
        if self.masks is None:
            return _read_only(np.ones(self.size, bool))
        frames = map_frames(self.files.layout, self.picture_size)
        return _read_only(self.masks.garment(name, self.size, frames))

    def _keypoints(self, name: str) -> np.ndarray:
        return frame_keypoints(self.poses[name], self.keypoint_frame, self.size)


def open_dataset(
    root: Path,
    split: str,
    *,
    layout: str | None = None,
    size: Size | None = None,
    masks: Path | None = None,
    parsing: str | Mapping[int, bool] = "adgan8",
    keypoint_frame: Size | None = None,
    cache_mib: float = CACHE_MIB,
) -> PairDataset:
    """Open one split of a data set. Lists are read now and held against each other, pictures when asked for.

    Args:
        root: folder of the data set.
        split: "train" or "test".
        layout: "deepfashion" or "market"; None finds it by the file names.
        size: (height, width) to give; None for the layout's, 256x176 or 128x64. ``framing`` says how pictures,
            maps and keypoints get there.
        masks: folder of parsing maps; None gives masks of ones.
        parsing: what their labels mean: ``adgan8``, ``casd8``, ``pise8``, ``cihp20``, ``lip20``, garment labels such
            as "3,4,5", or {label: whether it is a garment}.
        keypoint_frame: (height, width) that the keypoints are in pixels of; None for what the files say: 256x176 of
            a ``-resize-`` csv and of 750x1101 pictures, 256x256 of NTED's pose files, else the pictures' size.
        cache_mib: how much of decoded pictures a process keeps.

    Raises: DataError if a file is missing or malformed, a pair names a picture that is not there or not annotated, or
        the keypoints look made for another frame than is assumed.
    """
    root = Path(root)
    files = find_files(root, split, layout)
    names, lines, faults = read_pairs(files)
    poses, more = read_poses(files)
    refuse(fault for fault in (*faults, *more) if fault.kind not in TOLERATED)
    refuse(unresolved(files, names, lines, poses))
    first = files.pictures / names[0][0]
    picture_size = read_image(first).shape[:2]
    frame = keypoint_frame or files.keypoint_frame(picture_size)
    sample = poses.sample([name for pair in names for name in pair])
    where = str(files.annotations or files.root / "pose")
    if keypoint_frame is None:
        refuse(filter(None, [frame_fault(sample, frame, where)]))
    inside = visible(sample, *frame).any(1)
    if not inside.all():
        message = f"{where}: {(~inside).sum()} of {len(inside)} pictures have no keypoint inside their frame"
        if 2 * inside.sum() < len(inside):
            raise DataError(f"{message}; posewarp data check says more")
        warnings.warn(f"{message}, and are trained on all the same", PosewarpWarning, stacklevel=2)
    return PairDataset(
        files,
        names,
        poses,
        None if masks is None else Masks(Path(masks), parsing),
        size=size or LAYOUTS[files.layout].size,
        picture_size=picture_size,
        keypoint_frame=frame,
        cache_mib=cache_mib,
    )


def read_pairs(files: SplitFiles) -> tuple[list[tuple[str, str]], list[int], list[Fault]]:
    """(source, target) of each pair, the line each stands in, and what is wrong in the list.

    Raises: DataError if it is no text.
    """
    path, lines, faults = files.pairs, read_lines(files.pairs), []

    def fault(kind: str, message: str, line: int) -> None:
        faults.append(Fault(kind, str(path), message, line))

    target_first, start = files.annotations is None, 0  # NTED: target,source[,source...], without a header
    if not target_first:
        header = [cell.strip() for cell in lines[0].split(",")] if lines else []
        target_first, start = header == ["to", "from"], 1
        if sorted(header) != ["from", "to"]:
            wrong = bool(lines) and any(mark in lines[0] for mark in ":;\t|")
            kind = "wrong_separator" if wrong else "wrong_header"
            fault(kind, f"expected from,to, got {lines[0][:60]!r}" if lines else "it is empty", 1)
    pairs: dict[tuple[str, str], int] = {}
    rows: list[tuple[tuple[str, str], int]] = []
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < 2 or not all(cells) or (start and len(cells) > 2):
            kind = (
                "wrong_separator" if len(cells) == 1 and any(mark in line for mark in ":;\t|") else "bad_row"
            )
            fault(kind, f"expected two names and a comma, got {line[:80]!r}", number)
            if kind == "wrong_separator":
                break  # so has every other row
            continue
        found = [(other, cells[0]) for other in cells[1:]] if target_first else [(cells[0], cells[1])]
        for pair in found:
            if pair[0] == pair[1]:
                fault("self_pair", f"{pair[0]} is paired with itself", number)
            if pair in pairs:
                fault("duplicate_pair", f"{pair[0]},{pair[1]} stands in line {pairs[pair]} too", number)
            pairs.setdefault(pair, number)
            rows.append((pair, number))
    if not rows and not faults:
        faults.append(Fault("empty_list", str(path), "it has no pairs"))
    return [pair for pair, _ in rows], [number for _, number in rows], faults


def unresolved(
    files: SplitFiles, names: list[tuple[str, str]], lines: list[int], poses: Annotations | PoseFolder
) -> list[Fault]:
    """Pictures that pairs name and that are not there, or not annotated; each once, where it is first named."""
    first = {name: line for pair, line in zip(reversed(names), reversed(lines), strict=True) for name in pair}
    other_case = {name.lower(): name for name in files.names}
    faults = []
    for name, line in sorted(first.items(), key=lambda item: item[1]):
        if name not in files.names:
            similar = other_case.get(name.lower())
            hint = f"; there is {similar}" if similar else ""
            faults.append(
                Fault(
                    "missing_picture", str(files.pairs), f"{files.pictures / name} is not there{hint}", line
                )
            )
        if name not in poses:
            faults.append(Fault("unannotated", str(files.pairs), f"{name} has no keypoints", line))
    return faults


def check_size(path: Path, image: np.ndarray, expected: Size) -> None:
    """Raises: DataError if a picture has not the size of the others."""
    if image.shape[:2] != expected:
        got = "x".join(map(str, image.shape[:2]))
        raise DataError(
            f"{path} is {got} (height x width), the others are {expected[0]}x{expected[1]}",
            got=image.shape[:2],
            expected=expected,
        )


def _read_only(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
