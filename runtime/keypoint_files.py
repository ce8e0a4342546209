"""Keypoint files: OpenPose and COCO JSON, PATN's annotation csv, plain lists; all become (18, 2), in px."""

from __future__ import annotations

import difflib
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posewarp.runtime.errors import DataError, PosewarpWarning
from posewarp.runtime.keypoints import KEYPOINT_ORDER, KEYPOINTS, MISSING

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Order:
    """A set of keypoints in other files, and where ours are in it; the neck may have to be made."""

    name: str
    count: int
    ours: tuple[int, ...]
    neck_between: tuple[int, int] | None = None


ORDERS = {
    KEYPOINT_ORDER: _Order("OpenPose's COCO-18", 18, tuple(range(18))),
    # Without the middle of the hips (8) and the feet (19 to 24).
    "body-25": _Order("OpenPose's BODY_25", 25, (*range(8), *range(9, 19))),
    "coco-17": _Order(
        "COCO-17", 17, (0, 0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3), neck_between=(5, 6)
    ),
}
_BY_COUNT = {order.count: key for key, order in ORDERS.items()}


def read_keypoints(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    order: str | None = None,
    allow_empty: bool = False,
) -> np.ndarray:
    """Read the keypoints of one person from a file.

    Read are OpenPose's JSON (``people``), COCO's (``keypoints``, a list of results, or a whole annotations file
    with ``images``), a plain JSON list or text of 18 rows (x, y) or (x, y, score), the same as ``.npy``, and
    PATN's annotation csv (``name: [y...]: [x...]``). Flat lists say by their length what they are (54, 75, 51);
    17 or 25 rows must be declared by ``order``. Of several people the largest and surest is taken, with a
    PosewarpWarning.

    A joint is missing if x or y is -1, null or NaN, its score is 0, or, but in a csv, it lies at (0, 0), as
    a detector without scores says it.

    Args:
        path: the file.
        name: the row of a csv with several, or the picture, by its name or image id, of a COCO file with several.
        order: ``openpose-18``, ``body-25`` or ``coco-17``: what the rows are, where the file does not tell.
        allow_empty: JSON without a person gives 18 missing keypoints, not an error.

    Returns: (18, 2), float32, (x, y) in pixels of whatever picture they were made for; missing (-1, -1).
    Raises: DataError, naming the file, if it cannot be read, holds no person, or another number of keypoints.
    """
    return parse_keypoints(_read_text(path), str(path), name=name, order=order, allow_empty=allow_empty)


def parse_keypoints(
    text: str,
    what: str = "keypoints",
    *,
    name: str | None = None,
    order: str | None = None,
    allow_empty: bool = False,
) -> np.ndarray:
    """As ``read_keypoints``, from the text of such a file; ``what`` names it in messages."""
    people = _parse(text, what, order).choose(name, what)
    if not people:
        if allow_empty:
            return np.full((KEYPOINTS, 2), MISSING, np.float32)
        raise DataError(f"{what} has no person in it")
    return _finish(choose_person(people, what))


def read_people(
    path: str | os.PathLike[str], *, name: str | None = None, order: str | None = None, may_lack: bool = False
) -> Iterator[tuple[str | None, list[np.ndarray]]]:
    """Read everybody in a file that ``read_keypoints`` can read, whose arguments these are; ``name``: only this one.

    ``may_lack``: a file that has no such name yields nothing, instead of an error.

    Yields: the name of each picture, None where the file has none, whatever ``name`` is; and the people in it,
        (18, 3) each, float64: x, y and score (1 where there is none), NaN in a missing joint.
    Raises: DataError as ``read_keypoints``, but for people that are not there.
    """
    yield from parse_people(_read_text(path), str(path), name=name, order=order, may_lack=may_lack)


def parse_people(
    text: str,
    what: str = "keypoints",
    *,
    name: str | None = None,
    order: str | None = None,
    may_lack: bool = False,
) -> Iterator[tuple[str | None, list[np.ndarray]]]:
    """As ``read_people``, from the text of such a file; ``what`` names it in messages."""
    document = _parse(text, what, order)
    if name is not None and document.people.keys() != {None}:
        if document.has(name) or not may_lack:
            yield name, document.choose(name, what)
    else:
        for each in document.people:
            yield each, document.joints_of(each, what)


def choose_person(people: list[np.ndarray], what: str = "keypoints") -> np.ndarray:
    """The largest and surest of several people, (18, 3) each, with a PosewarpWarning if there is a choice."""
    best = int(np.argmax([presence(each) for each in people]))
    if len(people) > 1:
        message = f"{what} has {len(people)} people; number {best + 1}, the largest and surest, is taken"
        warnings.warn(message, PosewarpWarning, stacklevel=3)
    return people[best]


@dataclass(frozen=True)
class _Document:
    """The people of a file as they are written there, by the name of their picture; None where it has none."""

    people: dict[str | None, list[Any]]
    read: Callable[[Any, str], np.ndarray]  # one person, and its name in messages, to (18, 3)
    ids: dict[str, str] = field(default_factory=dict)  # COCO's numbers of pictures, and their names
    one_each: bool = False  # a second person of a name is a mistake

    def has(self, name: str) -> bool:
        return self.ids.get(name, name) in self.people

    def joints_of(self, name: str | None, what: str) -> list[np.ndarray]:
        what = what if name is None else f"{what}, row {name}"
        if self.one_each and len(self.people[name]) > 1:
            raise DataError(f"{what} is there {len(self.people[name])} times; leave one of them")
        return [self.read(person, what) for person in self.people[name]]

    def choose(self, name: str | None, what: str) -> list[np.ndarray]:
        """The people of one picture, (18, 3) each; what has no names in it has one picture."""
        if self.people.keys() == {None}:
            return self.joints_of(None, what)
        if name is None and len(self.people) == 1:
            (name,) = self.people
        asked, name = name, self.ids.get(name, name)
        if name in self.people:
            return self.joints_of(name, what)
        names = [each for each in self.people if each is not None]
        such = (difflib.get_close_matches(name or "", names, 1) or names)[0]
        fault = (
            "choose one by name (--source-name, --target-name or --name)"
            if name is None
            else f"none is named {name}"
        )
        rows = f"{len(self.people)} rows"
        if not self.one_each:
            rows = f"people in {len(self.people)} picture{'s' * (len(self.people) > 1)}"
            if name is not None:
                fault = f"none is named {name}, or has that image id"
                fault = fault if asked == name else f"none of image id {asked} ({name})"
        raise DataError(f"{what} has {rows}, {fault}; one would be {such}", got=name)


def _read_text(path: str | os.PathLike[str]) -> str:
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"\x93NUMPY"):
            return json.dumps(np.load(io.BytesIO(data), allow_pickle=False).tolist())
        return data.decode("utf-8-sig")
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError, EOFError) as exc:
        raise DataError(f"{path} is not a keypoint file: {exc}") from exc


def _parse(text: str, what: str, order: str | None) -> _Document:
    def read(person: object, what: str) -> np.ndarray:
        return to_joints(person, what, order)

    text = text.strip()
    if not text:
        raise DataError(f"{what} is empty")
    if order is not None and order not in ORDERS:
        raise DataError(f"no keypoint order {order!r}; there are {', '.join(ORDERS)}")
    if text[0] in "{[":
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise DataError(f"{what} is not valid JSON: {exc}") from exc
        return _json_document(data, what, read)
    if ":" in text:
        rows = _patn_rows(text, what)
        return _Document(rows, lambda cells, what: _patn_joints(cells, what, order), one_each=True)
    rows = [re.split(r"[,;\s]+", row.strip()) for row in text.splitlines() if row.strip()]
    return _Document({None: [rows]}, read)


def _json_document(data: object, what: str, read: Callable[[Any, str], np.ndarray]) -> _Document:
    """The people in a JSON document; perhaps none."""
    names: dict[str, str] = {}
    if isinstance(data, dict) and isinstance(data.get("people"), list):  # OpenPose
        entries = [
            {"keypoints": person.get("pose_keypoints_2d") or person.get("pose_keypoints")}
            for person in data["people"]
            if isinstance(person, dict)
        ]
    elif isinstance(data, dict) and "keypoints" in data:  # ours, which may have a name
        entries = [data]
    elif isinstance(data, dict) and isinstance(data.get("annotations"), list):  # COCO
        names = _coco_names(data)
        entries = [entry for entry in data["annotations"] if isinstance(entry, dict)]
    elif isinstance(data, list) and all(isinstance(entry, dict) for entry in data):  # COCO results
        entries = data
    elif isinstance(data, list):
        entries = [{"keypoints": data}]
    else:
        raise DataError(
            f"{what} has no list of keypoints; expected 'people' (OpenPose), 'keypoints', or a plain list"
        )
    people: dict[str | None, list[Any]] = {}
    for entry in entries:
        if entry.get("keypoints") and entry.get("num_keypoints") != 0:  # COCO has boxes without any joint
            people.setdefault(_picture(entry, names), []).append(entry["keypoints"])
    return _Document(people or {None: []}, read, names)


def _picture(entry: dict[str, Any], names: dict[str, str]) -> str | None:
    """The name of an entry's picture, or its number where it has none."""
    if isinstance(entry.get("name"), str):
        return entry["name"]
    number = entry.get("image_id")
    return None if number is None else names.get(str(number), str(number))


def _coco_names(data: dict[str, Any]) -> dict[str, str]:
    """Names of pictures by their numbers, of a COCO annotations file."""
    pictures = data.get("images")
    pictures = [each for each in pictures if isinstance(each, dict)] if isinstance(pictures, list) else []
    return {str(each.get("id")): str(each["file_name"]) for each in pictures if "file_name" in each}


def presence(joints: np.ndarray) -> float:
    """Diagonal of the box around a person's joints, times the sum of their scores."""
    seen = joints[np.isfinite(joints).all(1)]
    return float(np.hypot(*np.ptp(seen[:, :2], axis=0)) * seen[:, 2].sum()) if len(seen) else 0.0


def _finish(joints: np.ndarray) -> np.ndarray:
    """(18, 3) with NaN to (18, 2) with -1."""
    joints = np.where(np.isnan(joints).any(1, keepdims=True), MISSING, joints)[:, :2]
    with np.errstate(over="ignore"):  # 1e300 becomes infinite: outside of any picture all the same
        return joints.astype(np.float32)


def to_joints(raw: object, what: str, order: str | None, zero_is_missing: bool = True) -> np.ndarray:
    """One person's joints as written, a flat list or rows, in our order: (18, 3), x, y, score; NaN in a missing one."""
    rows, order = _rows(raw, what, order)
    values, scores = rows[:, :2], rows[:, 2:] if rows.shape[1] == 3 else np.ones((len(rows), 1))
    missing = (values == MISSING).any(1) | (scores[:, 0] <= 0)
    if zero_is_missing:
        missing |= (values == 0).all(1)
    rows = np.where(missing[:, None], np.nan, np.hstack((values, scores)))
    known = ORDERS[order]
    joints = rows[list(known.ours)]
    if known.neck_between:
        joints[1] = rows[list(known.neck_between)].mean(0)  # NaN if either is
    return joints


def _rows(raw: object, what: str, order: str | None) -> tuple[np.ndarray, str]:
    """The rows, (count, 2 or 3), and their order; null becomes NaN."""
    if not isinstance(raw, list):
        raise DataError(f"{what} has {type(raw).__name__} where a list of keypoints was expected")
    flat = bool(raw) and not any(isinstance(row, list) for row in raw)
    try:
        if flat:
            values = np.array(raw, dtype=np.float64)
        else:
            width = max((len(row) for row in raw if row is not None), default=0)
            values = np.array([[None] * width if row is None else row for row in raw], dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as exc:
        raise DataError(f"{what} has keypoints that are not rows of two or three numbers: {exc}") from exc
    if flat:
        return _unflatten(values, what, order)
    if values.ndim != 2 or values.shape[1] not in (2, 3):
        raise DataError(f"{what} has an array {values.shape}, expected rows of x, y or x, y, score")
    expected = ORDERS[order or KEYPOINT_ORDER]
    if len(values) != expected.count:
        other = _BY_COUNT.get(len(values))
        declare = f"--source-order {other}, --target-order {other} or --order {other}"
        hint = f"; if they are {ORDERS[other].name}, declare it: {declare}" if other else ""
        raise DataError(
            f"{what} has {len(values)} keypoints, expected {expected.count} ({expected.name}){hint}",
            got=len(values),
            expected=expected.count,
        )
    return values, order or KEYPOINT_ORDER


def _unflatten(values: np.ndarray, what: str, order: str | None) -> tuple[np.ndarray, str]:
    lengths = {3 * each.count: key for key, each in ORDERS.items()}
    if order is not None:
        lengths = {columns * ORDERS[order].count: order for columns in (3, 2)}
    else:
        lengths[2 * KEYPOINTS] = KEYPOINT_ORDER
    found = lengths.get(len(values))
    if found is None:
        known = ", ".join(f"{length} ({ORDERS[key].name})" for length, key in lengths.items())
        declared = "" if order is None else f", or leave the order {order} out"
        raise DataError(
            f"{what} has a list of {len(values)} numbers, expected {known}{declared}", got=len(values)
        )
    if found != KEYPOINT_ORDER:
        _LOG.info("%s: %d numbers, read as %s", what, len(values), ORDERS[found].name)
    return values.reshape(ORDERS[found].count, -1), found


def _patn_rows(text: str, what: str) -> dict[str | None, list[Any]]:
    """PATN writes y first: ``name: [y0, ..., y17]: [x0, ..., x17]``; by name, two cells a row."""
    parts = [line.rsplit(":", 2) for line in text.splitlines() if "[" in line]  # the header has none
    rows: dict[str | None, list[Any]] = {}
    for name, *cells in (part for part in parts if len(part) == 3):
        rows.setdefault(name.strip(), []).append(cells)
    if not rows:
        raise DataError(f"{what} is no keypoint file; a csv has rows name: [y, ...]: [x, ...]")
    return rows


def _patn_joints(cells: list[str], what: str, order: str | None) -> np.ndarray:
    try:  # NumPy 2 writes [np.int64(y0), ...
        ys, xs = (json.loads(re.sub(r"np\.\w+\(([^()]*)\)", r"\1", cell)) for cell in cells)
        raw = [list(pair) for pair in zip(xs, ys, strict=True)]
    except (ValueError, TypeError) as exc:
        raise DataError(f"{what} is not two lists of equal length, y first: {exc}") from exc
    return to_joints(raw, what, order, zero_is_missing=False)
