"""Annotation csv files in all spellings that occur, and which frame their keypoints are of."""

import numpy as np
import pytest

from posewarp.models.data.annotations import frame_fault, read_annotations, suspicious_rows
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.runtime.errors import DataError

HEADER = "name:keypoints_y:keypoints_x"
YS, XS = list(range(100, 118)), list(range(60, 78))


def read(tmp_path, *lines, encoding="utf-8", end="\n"):
    path = tmp_path / "fasion-annotation-train.csv"
    path.write_bytes(end.join(lines).encode(encoding))
    return read_annotations(path)


@pytest.fixture(scope="module")
def people():
    """Keypoints of 60 synthetic people at 256x176, (60, 18, 2)."""
    pairs = SyntheticPeople(256, 176, length=60)
    return np.array([pairs[index].source_keypoints for index in range(60)])


def moved(keypoints, by):
    return np.where(keypoints == -1, -1, keypoints + np.float32(by))


def test_the_y_list_comes_first(tmp_path):
    annotations, faults = read(tmp_path, HEADER, f"a.jpg: {YS}: {XS}")
    assert not faults
    np.testing.assert_array_equal(annotations["a.jpg"][0], (60, 100))


@pytest.mark.parametrize(
    "row",
    [
        f"a.jpg:{YS}:{XS}",
        f"a.jpg: {[np.int64(y) for y in YS]!r}: {[np.int64(x) for x in XS]!r}",
        f"a.jpg: {[np.float32(y) for y in YS]!r}: {[np.float32(x) for x in XS]!r}",
        f"  a.jpg : {[float(y) for y in YS]} : {XS}  ",
    ],
)
def test_spellings_of_a_row(tmp_path, row):
    annotations, faults = read(tmp_path, HEADER, row)
    assert not faults
    np.testing.assert_array_equal(annotations["a.jpg"], np.array([XS, YS], np.float32).T)


def test_columns_are_those_that_the_header_names(tmp_path):
    annotations, faults = read(tmp_path, "name:keypoints_x:keypoints_y", f"a.jpg: {XS}: {YS}")
    assert not faults
    np.testing.assert_array_equal(annotations["a.jpg"][0], (60, 100))


@pytest.mark.parametrize(("encoding", "end"), [("utf-8-sig", "\n"), ("utf-8", "\r\n")])
def test_windows_files_are_read(tmp_path, encoding, end):
    annotations, faults = read(tmp_path, HEADER, f"a.jpg: {YS}: {XS}", "", encoding=encoding, end=end)
    assert (annotations.names, faults) == (["a.jpg"], [])


def test_fractions_and_missing_joints_are_kept(tmp_path):
    ys, xs = [99.5, -1, *YS[2:]], [255.9, -1, *XS[2:]]
    annotations, _ = read(tmp_path, HEADER, f"a.jpg: {ys}: {xs}")
    np.testing.assert_allclose(annotations["a.jpg"][:2], [(255.9, 99.5), (-1, -1)], rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        (f'a.jpg,"{YS}","{XS}"', "wrong_separator", "expected name: "),
        (f"a.jpg: {YS}", "bad_row", "expected name: "),
        ("fashionWOMENDr", "bad_row", "expected name: "),
        (f"a.jpg {YS} {XS}", "bad_row", "expected name: "),
        (f"a.jpg: {YS}: {XS[:-1]}", "keypoint_count", "a.jpg has 18 y and 17 x, expected 18"),
        (f"a.jpg: {YS}: {XS}".replace("60", "nan"), "bad_row", "numbers: one holds nan; a missing joint is"),
        (f"a.jpg: {YS}: {XS}".replace("60", "NaN"), "bad_row", "numbers: one holds NaN; a missing joint is"),
        (f"a.jpg: {YS}: {XS}"[:-1], "bad_row", "two lists of numbers: got [60, 61"),
        (f"a.jpg: {YS}: {XS}".replace("60", "'60'"), "bad_row", "two lists of numbers"),
        (f"a.jpg: {[0] * 25}: {[0] * 25}", "keypoint_count", "BODY_25"),
        (f"a.jpg: {[0] * 17}: {[0] * 17}", "keypoint_count", "COCO-17"),
        (f"a.jpg: {[0] * 54}: {[0] * 54}", "keypoint_count", "flat triples"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, row, kind, said):
    others = [f"{name}: {YS}: {XS}" for name in ("b.jpg", "c.jpg")]
    annotations, (fault,) = read(tmp_path, HEADER, others[0], row, others[1])
    assert (annotations.names, fault.kind, fault.line) == (["b.jpg", "c.jpg"], kind, 3)
    assert said in fault.message


def test_another_separator_in_every_row_is_said_once(tmp_path):
    rows = [f'{name},"{YS}","{XS}"' for name in ("a.jpg", "b.jpg", "c.jpg")]
    annotations, faults = read(tmp_path, HEADER.replace(":", ","), *rows)
    assert annotations.names == []
    assert [(fault.kind, fault.line) for fault in faults] == [("wrong_separator", 1), ("wrong_separator", 2)]


def test_a_file_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="no UTF-8 text"):
        read(tmp_path, HEADER, encoding="utf-16")


def test_synthetic_people_are_not_suspicious(people):
    assert not any(rows.any() for rows in suspicious_rows(people, (256, 176)).values())
    assert frame_fault(people, (256, 176), "csv") is None


@pytest.mark.parametrize(
    ("by", "frame", "hint"),
    [
        ((40, 0), (256, 176), "pass --keypoint-frame 256x256"),
        ((0, 0), (256, 256), "pass --keypoint-frame 256x176"),
        ((-60, 0), (256, 176), "no frame has them inside and people in its middle"),
    ],
)
def test_keypoints_of_another_frame_are_recognised(people, by, frame, hint):
    fault = frame_fault(moved(people, by), frame, "csv")
    assert fault.kind == "keypoint_frame"
    assert hint in fault.message


@pytest.mark.parametrize("factor", [0.5, 2])
def test_keypoints_of_another_resolution_are_recognised(people, factor):
    fault = frame_fault(np.where(people == -1, -1, people * factor), (256, 176), "csv")
    assert "another resolution" in fault.message
    assert "pass its --keypoint-frame HEIGHTxWIDTH, about " in fault.message


def test_missing_joints_written_as_0_are_no_matter_of_the_frame(people):
    zeros = people.copy()
    zeros[:, ::2] = 0
    fault = frame_fault(zeros, (256, 176), "csv")
    assert "stand at exactly (0, 0): a missing joint is written as -1, -1" in fault.message
    assert "--keypoint-frame" not in fault.message


def test_keypoints_of_the_frame_they_claim_pass(people):
    assert frame_fault(moved(people, (40, 0)), (256, 256), "csv") is None


def test_swapped_columns_are_recognised_before_the_frame(people):
    assert frame_fault(people[..., ::-1], (256, 176), "csv").kind == "swapped_columns"
