"""Keypoint files: OpenPose and COCO JSON, PATN's annotation csv, plain lists; all become (18, 2), in px."""

from __future__ import annotations

import difflib
import io
import json
import logging
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

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

    Read are OpenPose's JSON (``people``), COCO's (``keypoints``, or a list of results), a plain JSON list or
    text of 18 rows (x, y) or (x, y, score), the same as ``.npy``, and PATN's annotation csv
    (``name: [y...]: [x...]``). Flat lists say by their length what they are (54, 75, 51); 17 or 25 rows must
    be declared by ``order``. Of several people the largest and surest is taken, with a PosewarpWarning.

    A joint is missing if x or y is -1, null or NaN, its score is 0, or, but in a csv, it lies at (0, 0), as
    a detector without scores says it.

    Args:
        path: the file.
        name: the row of a csv with several.
        order: ``openpose-18``, ``body-25`` or ``coco-17``: what the rows are, where the file does not tell.
        allow_empty: JSON without a person gives 18 missing keypoints, not an error.

    Returns: (18, 2), float32, (x, y) in pixels of whatever picture they were made for; missing (-1, -1).
    Raises: DataError, naming the file, if it cannot be read, holds no person, or another number of keypoints.
    """
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"\x93NUMPY"):
            text = json.dumps(np.load(io.BytesIO(data), allow_pickle=False).tolist())
        else:
            text = data.decode("utf-8-sig")
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError, EOFError) as exc:
        raise DataError(f"{path} is not a keypoint file: {exc}") from exc
    return parse_keypoints(text, str(path), name=name, order=order, allow_empty=allow_empty)


def parse_keypoints(
    text: str,
    what: str = "keypoints",
    *,
    name: str | None = None,
    order: str | None = None,
    allow_empty: bool = False,
) -> np.ndarray:
    """As ``read_keypoints``, from the text of such a file; ``what`` names it in messages."""
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
        people = _people(data, what)
        if not people:
            if allow_empty:
                return np.full((KEYPOINTS, 2), MISSING, np.float32)
            raise DataError(f"{what} has no person in it")
        return _choose(people, what, order)
    if ":" in text:
        return _patn_row(text, what, name, order)
    rows = [re.split(r"[,;\s]+", row.strip()) for row in text.splitlines() if row.strip()]
    return _choose([rows], what, order)


def _people(data: object, what: str) -> list[object]:
    """The raw joints of each person in a JSON document; perhaps none."""
    if isinstance(data, dict) and isinstance(data.get("people"), list):  # OpenPose
        people = [
            person.get("pose_keypoints_2d") or person.get("pose_keypoints")
            for person in data["people"]
            if isinstance(person, dict)
        ]
    elif isinstance(data, dict) and "keypoints" in data:
        people = [data["keypoints"]]
    elif isinstance(data, list) and all(isinstance(entry, dict) for entry in data):  # COCO results
        people = [entry.get("keypoints") for entry in data]
    elif isinstance(data, list):
        people = [data]
    else:
        raise DataError(
            f"{what} has no list of keypoints; expected 'people' (OpenPose), 'keypoints', or a plain list"
        )
    return [person for person in people if person]


def _choose(people: list[object], what: str, order: str | None) -> np.ndarray:
    joints = [_joints(person, what, order) for person in people]
    best = int(np.argmax([_presence(each) for each in joints]))
    if len(people) > 1:
        message = f"{what} has {len(people)} people; number {best + 1}, the largest and surest, is taken"
        warnings.warn(message, PosewarpWarning, stacklevel=4)
    return _finish(joints[best])


def _presence(joints: np.ndarray) -> float:
    """Diagonal of the box around a person's joints, times the sum of their scores."""
    seen = joints[~np.isnan(joints).any(1)]
    return float(np.hypot(*np.ptp(seen[:, :2], axis=0)) * seen[:, 2].sum()) if len(seen) else 0.0


def _finish(joints: np.ndarray) -> np.ndarray:
    """(18, 3) with NaN to (18, 2) with -1."""
    joints = np.where(np.isnan(joints).any(1, keepdims=True), MISSING, joints)[:, :2]
    with np.errstate(over="ignore"):  # 1e300 becomes infinite: outside of any picture all the same
        return joints.astype(np.float32)


def _joints(raw: object, what: str, order: str | None, zero_is_missing: bool = True) -> np.ndarray:
    """One person's joints in our order, (18, 3): x, y, score; NaN in a missing one."""
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
        declare = f"--source-order {other} or --target-order {other}"
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


def _patn_row(text: str, what: str, name: str | None, order: str | None) -> np.ndarray:
    """PATN writes y first: ``name: [y0, ..., y17]: [x0, ..., x17]``; with NumPy 2 ``[np.int64(y0), ...``."""
    parts = [line.rsplit(":", 2) for line in text.splitlines() if "[" in line]  # the header has none
    rows = {part[0].strip(): part[1:] for part in parts if len(part) == 3}
    if name is None and len(rows) == 1:
        (name,) = rows
    if not rows:
        raise DataError(f"{what} is no keypoint file; a csv has rows name: [y, ...]: [x, ...]")
    if name not in rows:
        such = (difflib.get_close_matches(name or "", rows, 1) or list(rows))[0]
        fault = (
            "choose one by name (--source-name, --target-name)" if name is None else f"none is named {name}"
        )
        raise DataError(f"{what} has {len(rows)} rows, {fault}; one would be {such}", got=name)
    what = f"{what}, row {name}"
    try:
        ys, xs = (json.loads(re.sub(r"np\.\w+\(([^()]*)\)", r"\1", cell)) for cell in rows[name])
        raw = [list(pair) for pair in zip(xs, ys, strict=True)]
    except (ValueError, TypeError) as exc:
        raise DataError(f"{what} is not two lists of equal length, y first: {exc}") from exc
    return _finish(_joints(raw, what, order, zero_is_missing=False))
