"""Keypoints of one picture or of thousands, from any format and frame to another: read, moved, and checked."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posewarp.runtime.errors import ContractError, DataError, PosewarpWarning
from posewarp.runtime.keypoint_files import choose_person, parse_people, read_people
from posewarp.runtime.keypoints import KEYPOINTS, MISSING, check_keypoints, scale_keypoints, visible
from posewarp.runtime.poses import KINDS, natural_order


@dataclass(frozen=True)
class Entry:
    """One picture's people, as read.

    Attributes:
        name: of the picture: the csv's or COCO's, else the file's, without its suffix.
        what: names it in messages.
        people: (18, 3) each, float64, x, y and score; NaN in a missing joint.
    """

    name: str
    what: str
    people: list[np.ndarray]


@dataclass(frozen=True)
class Reframe:
    """From one frame to another: scaled, then cut or widened at either side. Called with (18, 3), it moves it.

    Pixel centres are at integers, so x becomes (x + 0.5) * scale - 0.5, as a resized picture's pixels do; a joint
    inside the frame stays inside by that, within half a pixel.

    Args:
        from_size: height and width of the frame that the keypoints are in; None: not known.
        to_size: of the frame that they are scaled to; None: they are not scaled.
        x_offset: px added to x afterwards, the frame being cut (-40) or widened (40) by that at either side, as the
            data set's pictures are cut from 256 to 176.

    Raises: ContractError if ``to_size`` is given without ``from_size``, or nothing is left of the frame.
    """

    from_size: tuple[int, int] | None = None
    to_size: tuple[int, int] | None = None
    x_offset: int = 0

    def __post_init__(self) -> None:
        if self.to_size is not None and self.from_size is None:
            raise ContractError(
                "to be scaled, keypoints need the frame that they are in: give --from-size too"
            )
        if self.size is not None and min(self.size) < 1:
            raise ContractError(f"moved by {self.x_offset}, a frame {self.size[1]} wide would be left")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the new frame, if they are known."""
        size = self.to_size or self.from_size
        return size and (size[0], size[1] + 2 * self.x_offset)

    def __call__(self, joints: np.ndarray) -> np.ndarray:
        moved = joints.copy()
        if self.from_size is not None and self.to_size not in (None, self.from_size):
            source, target = np.array(self.from_size[::-1]), np.array(self.to_size[::-1])
            moved[:, :2] = np.minimum(scale_keypoints(moved[:, :2], target / source), target - 0.5)
        moved[:, 0] += self.x_offset
        return moved


@dataclass
class Summary:
    """What a conversion met. ``out_of_frame`` joints became missing, and are counted in ``missing`` too."""

    entries: int = 0
    empty: int = 0
    missing: int = 0
    out_of_frame: int = 0

    def __str__(self) -> str:
        text = f"{self.entries} pictures" if self.entries != 1 else "1 picture"
        if self.empty:
            text += f" ({self.empty} without a visible joint)"
        return (
            f"{text}, {self.missing} of {self.entries * KEYPOINTS} joints missing, "
            f"{self.out_of_frame} of them out of frame"
        )


def read_entries(
    path: str | os.PathLike[str], *, name: str | None = None, order: str | None = None
) -> Iterator[Entry]:
    """Read the keypoints of each picture from a file, a JSONL file, or the files in a folder and its folders.

    Args:
        path: what ``read_keypoints`` reads, with all its rows or pictures.
        name: only this row or picture; of files that name none, the one with this name.
        order: as for ``read_keypoints``.

    Raises: DataError, naming the file, if one cannot be read, or there is none, or none of that name.
    """
    path = Path(path)
    count = 0
    files = _files_in(path) if path.is_dir() else [path]
    for file in files:
        relative = file.relative_to(path).as_posix() if path.is_dir() else path.name
        for entry in _read_file(file, relative, name, order, may_lack=path.is_dir()):
            count += 1
            yield entry
    if name is not None and not count:
        raise DataError(
            f"{path}: none is named {name}; give a name as the file has it, or leave --name (--image-id) out",
            got=name,
        )


def _files_in(path: Path) -> list[Path]:
    files = [each for each in path.rglob("*") if each.suffix.lower() in (*KINDS, ".jsonl")]
    files = [each for each in files if each.name[0] != "." and each.is_file()]
    if not files:
        raise DataError(f"{path} has no keypoint files in it: no {', '.join(KINDS)}, .jsonl")
    return sorted(files, key=natural_order)


def convert(
    entries: Iterable[Entry], reframe: Reframe | None = None, *, person: int | None = None
) -> tuple[dict[str, np.ndarray], Summary]:
    """Choose one person of each picture, move the joints to another frame, and check them.

    What looks wrong in a few pictures is a PosewarpWarning each; in one alone, or in most, an error. Joints outside
    the frame, or with a negative coordinate where no frame is known, become missing.

    Args:
        entries: as ``read_entries`` gives them.
        reframe: the change of frame; None: none.
        person: which one of several, from 1 on in the file's order; None: the largest and surest, with a warning.

    Returns: by name, (18, 3) float64, x, y, score, NaN in a missing joint; and what was met.
    Raises: DataError if two pictures have one name, there is no such person, no picture has a visible joint, or most
        of them seem made for another frame, swapped, or not in pixels.
    """
    reframe = reframe or Reframe()
    converted: dict[str, np.ndarray] = {}
    summary, faults, sideways, with_joints = Summary(), [], [], 0
    for entry in entries:
        if entry.name in converted:
            raise DataError(f"{entry.what}: another one is named {entry.name} too; convert them one by one")
        joints = _choose(entry, person)
        before = _present(joints)
        joints, fault = _check(joints, reframe.from_size, entry.what)
        if reframe.x_offset or reframe.to_size:
            joints, lost = _cut(reframe(joints), reframe.size, f"{entry.what}, moved")
            fault = fault or lost
        faults += [fault] if fault else []
        converted[entry.name] = joints
        with_joints += before > 0
        summary.entries += 1
        summary.out_of_frame += before - _present(joints)
        summary.missing += KEYPOINTS - _present(joints)
        summary.empty += not _present(joints)
        trunk = np.abs(joints[1, :2] - joints[[8, 11], :2].mean(0))  # neck to the middle of the hips
        sideways += [] if np.isnan(trunk).any() else [trunk[0] > trunk[1]]
    if not with_joints:
        raise DataError(
            f"no keypoint is visible in any of {summary.entries} pictures; was anybody found in them?"
        )
    if 2 * len(faults) > with_joints:
        more = f" ({len(faults)} of {summary.entries} pictures are alike)" if len(faults) > 1 else ""
        raise DataError(faults[0] + more)
    for fault in faults:
        warnings.warn(fault, PosewarpWarning, stacklevel=2)
    if sum(sideways) * 2 > len(sideways):
        message = "most people lie on their side, as if x and y were swapped; in PATN's csv y comes first"
        warnings.warn(message, PosewarpWarning, stacklevel=2)
    return converted, summary


def _read_file(
    path: Path, relative: str, name: str | None, order: str | None, may_lack: bool
) -> Iterator[Entry]:
    unnamed = relative.removesuffix(path.suffix).removesuffix("_keypoints")  # OpenPose: photo_keypoints.json
    if path.suffix.lower() != ".jsonl":
        for found, people in read_people(path, name=name, order=order, may_lack=may_lack):
            if found is not None:
                yield Entry(found, f"{path}, row {found}", people)
            elif name in (None, unnamed):
                yield Entry(unnamed, str(path), people)
        return
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    for number, line in enumerate(lines, 1):
        what = f"{path}, line {number}"
        for found, people in parse_people(line, what, order=order):
            found = found or f"{unnamed}_{number:06}"
            if name in (None, found):
                yield Entry(found, what, people)


def _choose(entry: Entry, person: int | None) -> np.ndarray:
    if person is not None:
        if not 1 <= person <= len(entry.people):
            raise DataError(f"{entry.what} has {len(entry.people)} people, no number {person}")
        return entry.people[person - 1].copy()
    if not entry.people:
        return np.full((KEYPOINTS, 3), np.nan)
    return choose_person(entry.people, entry.what).copy()


def _check(joints: np.ndarray, size: tuple[int, int] | None, what: str) -> tuple[np.ndarray, str | None]:
    """Joints as read, with those outside the frame missing, and what looks wrong with them as a whole."""
    inside, fault = _cut(joints, size, what)
    with np.errstate(over="ignore"):  # as single precision, in which a network takes them
        infinite = int(np.isinf(joints[:, :2].astype(np.float32)).any(1).sum())
    if 2 * infinite > _present(joints):
        return inside, f"{what}: {infinite} of {_present(joints)} keypoints have an infinite x or y"
    seen = inside if size is None else joints
    if _present(seen):
        points = np.where(np.isnan(seen[:, :2]), MISSING, seen[:, :2])
        try:
            with np.errstate(over="ignore"):  # 1e300 becomes infinite: outside of any picture all the same
                check_keypoints(points, *(size or (np.inf, np.inf)), what)
        except DataError as exc:
            fault = str(exc)
    return inside, fault


def _cut(joints: np.ndarray, size: tuple[int, int] | None, what: str) -> tuple[np.ndarray, str | None]:
    """Joints, with those outside the frame missing, and a fault if those were most."""
    inside = joints.copy()
    inside[~visible(joints[:, :2], *(size or (np.inf, np.inf)))] = np.nan
    before, after = _present(joints), _present(inside)
    if 2 * after >= before:
        return inside, None
    frame = f"the frame of height {size[0]} and width {size[1]}" if size else "any frame: x or y is negative"
    return inside, f"{what}: {before - after} of {before} keypoints lie outside {frame}"


def _present(joints: np.ndarray) -> int:
    return int((~np.isnan(joints[:, 0])).sum())
