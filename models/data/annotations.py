"""Keypoints of a data set: PATN's annotation csv and NTED's folder of pose files, and what is suspicious in them."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import numpy as np

from posewarp.models.data.faults import Fault
from posewarp.models.data.framing import Size
from posewarp.models.data.layouts import SplitFiles
from posewarp.runtime.errors import DataError
from posewarp.runtime.keypoint_files import read_keypoints
from posewarp.runtime.keypoints import KEYPOINTS, is_missing, visible

COLUMNS = ("name", "keypoints_y", "keypoints_x")
# Fewer joints say nothing about where a data set's people stand.
ENOUGH_JOINTS = 100
# Of the joints; a well cropped data set has well under 1 % outside its frame.
MANY_OUTSIDE = 0.05
# Between the people's middle and the frame's, of a 256-high frame. The 256- and the 176-wide frame are 40 apart.
OFF_CENTRE_PX = 20
# Of the joints; that many stand there only if missing ones are written so.
MANY_AT_ORIGIN = 0.02
# Trunk, head and legs, which are more upright than level in people who stand or sit.
UPRIGHT = np.array([(1, 0), (1, 8), (1, 11), (8, 9), (9, 10), (11, 12), (12, 13)])
SAMPLED_FILES = 200


class Annotations:
    """Keypoints by name of a picture, from a csv.

    Attributes:
        names: of the pictures, in the order of the rows.
        keypoints: float32 (N, 18, 2), (x, y) in pixels of the frame that they were made for; missing ones have a -1.
        lines: (N) where each row stands, from 1.
    """

    def __init__(self, names: list[str], keypoints: np.ndarray, lines: list[int]):
        self.names, self.keypoints, self.lines = names, keypoints, lines
        self._rows = {name: row for row, name in enumerate(names)}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> np.ndarray:
        return self.keypoints[self._rows[name]]

    def sample(self, names: list[str]) -> np.ndarray:
        """Keypoints that stand for all, (M, 18, 2): here, all."""
        return self.keypoints


class PoseFolder:
    """Keypoints by name of a picture, from NTED's text files (18 rows x y), each read when asked for."""

    def __init__(self, root: Path):
        self.root = root

    def path(self, name: str) -> Path:
        """img/a/b.jpg to root/pose/a/b.txt."""
        return self.root / re.sub(r"^img/", "pose/", os.path.splitext(name)[0] + ".txt")

    def __contains__(self, name: str) -> bool:
        return self.path(name).is_file()

    def __getitem__(self, name: str) -> np.ndarray:
        return read_keypoints(self.path(name))

    def sample(self, names: list[str]) -> np.ndarray:
        """Keypoints that stand for all, (M, 18, 2): of some hundred evenly spaced names."""
        chosen = names[:: max(len(names) // SAMPLED_FILES, 1)]
        return np.stack([self[name] for name in chosen])


def read_poses(files: SplitFiles) -> tuple[Annotations | PoseFolder, list[Fault]]:
    """The keypoints of a split, and what is wrong in their csv.

    Raises: DataError if the csv cannot be read at all.
    """
    if files.annotations is None:
        return PoseFolder(files.root), []
    return read_annotations(files.annotations)


def read_annotations(path: Path) -> tuple[Annotations, list[Fault]]:
    """Read PATN's csv: a header, then ``name: [y0, ..., y17]: [x0, ..., x17]``; NumPy 2's ``np.int64(1)`` too.

    The columns are those that the header names. Faulty rows are left out.

    Raises: DataError if it is no text.
    """
    lines = read_lines(path)
    faults: list[Fault] = []

    def fault(kind: str, message: str, line: int) -> None:
        faults.append(Fault(kind, str(path), message, line))

    columns = _columns(lines[0] if lines else "", fault)
    rows: dict[str, tuple[np.ndarray, int]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(":")]
        if len(cells) != 3:
            separated = len(cells) == 1 and re.match(r"[^\[]*[,;\t|]", line)
            kind = "wrong_separator" if separated else "bad_row"
            fault(kind, f"expected name: [y, ...]: [x, ...], got {line[:60]!r}", number)
            continue
        name, ys, xs = (cells[columns.index(column)] for column in COLUMNS)
        try:
            x, y = _numbers(xs), _numbers(ys)
        except ValueError as exc:
            fault("bad_row", f"not two lists of numbers: {exc}", number)
            continue
        if len(x) != len(y):
            fault("keypoint_count", f"{name} has {len(y)} y and {len(x)} x, expected {KEYPOINTS}", number)
        elif len(x) != KEYPOINTS:
            fault("keypoint_count", f"{name} has {_count(len(x))}", number)
        elif name in rows:
            fault("duplicate_annotation", f"{name} is annotated in line {rows[name][1]} too", number)
        else:
            rows[name] = np.array([x, y], np.float32).T, number
    if not rows:  # another separator in every row is said once
        lines_of_it = [found.line for found in faults if found.kind == "wrong_separator" and found.line > 1]
        repeated = set(lines_of_it[1:])
        faults = [found for found in faults if found.line not in repeated]
    if not rows and not faults:
        faults.append(Fault("empty_list", str(path), "it has no rows"))
    points = [row[0] for row in rows.values()]
    keypoints = np.stack(points) if points else np.empty((0, KEYPOINTS, 2), np.float32)
    return Annotations(list(rows), keypoints, [row[1] for row in rows.values()]), faults


def read_lines(path: Path) -> list[str]:
    """Lines of a text file; a byte order mark and Windows' line ends are no matter.

    Raises: DataError if it cannot be read as text.
    """
    try:
        return path.read_text("utf-8-sig").splitlines()
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path} is no UTF-8 text: {exc.reason} at byte {exc.start}") from exc


def suspicious_rows(keypoints: np.ndarray, frame: Size) -> dict[str, np.ndarray]:
    """Which of (N, 18, 2) are suspicious: a mask (N) of each kind; a row has at most one.

    ``no_keypoints``: all are missing. ``swapped_columns``: trunk, head and legs are twice as wide as high, and with x
    and y exchanged most lie inside the frame. ``keypoints_outside``: more than half lie outside.
    """
    present = ~is_missing(keypoints)
    count = present.sum(1)
    none = count == 0
    ends = keypoints[:, UPRIGHT]  # (N, limbs, 2 ends, x and y)
    seen = present[:, UPRIGHT].all(2)
    across, down = (np.abs(ends[:, :, 0] - ends[:, :, 1]) * seen[..., None]).sum(1).T  # (N) each
    exchanged = (visible(keypoints[..., ::-1], *frame) & present).sum(1)
    swapped = ~none & (seen.sum(1) >= 3) & (across > 2 * down) & (2 * exchanged > count)
    outside = 2 * (~visible(keypoints, *frame) & present).sum(1) > count
    return {"no_keypoints": none, "swapped_columns": swapped, "keypoints_outside": outside & ~swapped}


def frame_fault(keypoints: np.ndarray, frame: Size, file: str) -> Fault | None:
    """Whether (N, 18, 2) look made for another frame than this one, and for which.

    People stand in the middle of their pictures, and nearly all of their joints lie inside.
    """
    rows = suspicious_rows(keypoints, frame)["swapped_columns"]
    if 2 * rows.sum() > len(rows):
        return Fault("swapped_columns", file, f"in {rows.sum()} of {len(rows)} rows x and y look swapped")
    points = keypoints[~is_missing(keypoints)]
    if len(points) < ENOUGH_JOINTS:
        return None
    height, width = frame
    outside = 1 - visible(points, height, width).mean()
    at_origin = (points == 0).all(1).mean()
    middle = float(np.median(points[:, 0]))
    off = (middle - (width - 1) / 2) * 256 / height
    if abs(off) <= OFF_CENTRE_PX and outside <= MANY_OUTSIDE:
        return None
    seen = f"the people's middle is at x = {middle:.0f}, and {outside:.1%} of the joints lie outside"
    if at_origin > MANY_AT_ORIGIN:
        hint = f"{at_origin:.1%} stand at exactly (0, 0): a missing joint is written as -1, -1"
        return Fault("keypoint_frame", file, f"not of the {height}x{width} frame: {seen}; {hint}")
    wider, narrower = (round(height * width_ / 256) for width_ in (256, 176))
    if abs(off - 40) <= OFF_CENTRE_PX and width == narrower:
        hint = f"the 256-wide one: pass --keypoint-frame {height}x{wider}, which takes 40 off x"
    elif abs(off + 40) <= OFF_CENTRE_PX and width == wider:
        hint = f"the 176-wide one: pass --keypoint-frame {height}x{narrower}"
    else:
        reach = ", ".join(f"{axis} = {value:g}" for axis, value in zip("xy", points.max(0), strict=True))
        hint = f"another resolution or crop (they reach to {reach}): "
        centred = 2 * middle + 1  # the width of the frame whose middle they are in
        if (np.abs(points[:, 0] - middle) <= centred / 2).mean() >= 1 - MANY_OUTSIDE:
            hint += f"pass its --keypoint-frame HEIGHTxWIDTH, about {centred:.0f} wide"
        else:
            hint += "no frame has them inside and people in its middle"
    return Fault(
        "keypoint_frame", file, f"not of the {height}x{width} frame: {seen}; they look made for {hint}"
    )


def _columns(header: str, fault) -> list[str]:
    """The header's columns; the usual ones, and a fault, if it names others."""
    found = [cell.strip() for cell in header.split(":")]
    if sorted(found) == sorted(COLUMNS):
        return found
    if re.fullmatch(r"\s*name\s*[,;|\t].*", header):
        fault("wrong_separator", f"expected {':'.join(COLUMNS)}, got {header[:60]!r}", 1)
    else:
        fault("wrong_header", f"expected {':'.join(COLUMNS)}, got {header[:60]!r}", 1)
    return list(COLUMNS)


def _numbers(cell: str) -> list[float]:
    """Raises: ValueError if it is no list of finite numbers."""
    # NumPy 2 prints str(list(array)) as [np.int64(1), np.int64(-1)].
    text = re.sub(r"np\.\w+\(([^()]*)\)", r"\1", cell) if "np." in cell else cell
    if found := re.search(r"nan|inf(inity)?", text, re.IGNORECASE):
        raise ValueError(f"one holds {found[0]}; a missing joint is written as -1, -1")
    try:
        numbers = json.loads(text)
        if all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            return list(numbers)
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(f"got {cell if len(cell) <= 40 else f'{cell[:18]} ... {cell[-18:]}'}")


def _count(count: int) -> str:
    known = {25: "; OpenPose's BODY_25", 17: "; COCO-17", 54: "; 18 flat triples of x, y, score"}
    return f"{count} keypoints, expected {KEYPOINTS}{known.get(count, '')}"
