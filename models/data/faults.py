"""What can be wrong with a data set on disk: every kind by name, and one finding of such a kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from posewarp.runtime.errors import DataError

# kind: what it means, in the order in which a tree is checked.
KINDS = {
    "missing_file": "a list, csv or folder of the layout is not there",
    "unreadable_file": "a list or csv cannot be read as text",
    "empty_list": "a list or csv has no rows",
    "wrong_separator": "pairs are separated by ',', annotations by ':'",
    "wrong_header": "the first line does not name the columns",
    "bad_row": "a row cannot be parsed",
    "keypoint_count": "a row does not have 18 keypoints",
    "duplicate_annotation": "a picture is annotated twice",
    "duplicate_pair": "a pair is listed twice",
    "self_pair": "source and target are the same picture",
    "mixed_identities": "source and target show different people",
    "identity_leak": "a person is in train and in test",
    "unannotated": "a pair names a picture that has no annotation",
    "list_mismatch": "train.lst or test.lst, and the folder of pictures, differ",
    "no_keypoints": "all keypoints of a picture are missing",
    "swapped_columns": "x and y look swapped; the y list comes first",
    "keypoints_outside": "most keypoints of a picture lie outside their frame",
    "keypoint_frame": "the keypoints look made for another frame (256- against 176-wide)",
    "missing_picture": "a picture is not there",
    "empty_picture": "a picture has no bytes",
    "truncated_picture": "a picture ends too soon",
    "unreadable_picture": "a file is no picture, or damaged",
    "picture_size": "a picture's size is not that of the others",
    "grey_picture": "a picture has no colours",
    "turned_picture": "EXIF turns a picture; were the keypoints made with or without?",
    "missing_mask": "a picture has no parsing map",
    "unreadable_mask": "a parsing map cannot be read",
    "mask_size": "a parsing map is of another frame than its picture",
    "mask_labels": "a parsing map has labels that the preset does not know",
    "no_garment": "a parsing map has no garment pixel",
}


@dataclass(frozen=True)
class Fault:
    """One finding.

    Attributes:
        kind: one of ``KINDS``.
        file: what it was found in.
        message: what is wrong there; what to do, if the kind does not say it.
        line: from 1, of a list or csv.
    """

    kind: str
    file: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f', line {self.line}'}: {self.message}"


def refuse(faults: Iterable[Fault]) -> None:
    """Raises: DataError that shows the first fault and counts the others, if there is any."""
    found = list(faults)
    if found:
        more = f" ({len(found) - 1} more faults; posewarp data check lists them)" if len(found) > 1 else ""
        raise DataError(f"{found[0]}{more}", got=found[0].kind)
