from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posewarp.runtime.errors import DataError, PosewarpWarning
from posewarp.runtime.keypoint_files import parse_keypoints, read_keypoints
from posewarp.runtime.keypoints import KEYPOINT_NAMES

# Eighteen different points with fractions, so that a swap, a cast or another order shows.
POINTS = np.stack((np.arange(18) * 3 + 60.25, np.arange(18) * 7 + 10.5), 1).astype(np.float32)


def rows(points=POINTS, score=0.9) -> list:
    """x, y, score; a missing one as OpenPose writes it."""
    return [[0, 0, 0] if x == -1 else [float(x), float(y), score] for x, y in points]


def flat(points=POINTS, score=0.9) -> list:
    return [number for row in rows(points, score) for number in row]


def without(*joints, points=POINTS):
    points = points.copy()
    points[list(joints)] = -1
    return points


@pytest.fixture
def read(tmp_path):
    def read(content, file="pose.json", **options):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / file).write_text(text)
        return read_keypoints(tmp_path / file, **options)

    return read


@pytest.mark.parametrize(
    "content",
    [
        POINTS.tolist(),
        rows(),
        flat(),
        POINTS.ravel().tolist(),
        {"keypoints": POINTS.tolist()},
        {"keypoints": flat()},
        {"people": [{"pose_keypoints_2d": flat()}]},
        {"version": 1.0, "people": [{"pose_keypoints": flat(), "hand_left_keypoints": []}]},
        [[str(x), str(y)] for x, y in POINTS],
        "\n".join(f"{x},{y}" for x, y in POINTS),
        "\n".join(f"{x} {y} 1\n" for x, y in POINTS),
        "\ufeff" + json.dumps(POINTS.tolist()),
        f"me.jpg: {POINTS[:, 1].tolist()}: {POINTS[:, 0].tolist()}\n",
    ],
)
def test_every_form_of_18_gives_the_same_floats(read, content):
    keypoints = read(content)
    assert keypoints.dtype == np.float32
    np.testing.assert_array_equal(keypoints, POINTS)


def test_numpy_file_is_read_and_not_unpickled(tmp_path):
    np.save(tmp_path / "pose.npy", POINTS)
    np.testing.assert_array_equal(read_keypoints(tmp_path / "pose.npy"), POINTS)
    np.save(tmp_path / "pose.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"pose\.npy is not a keypoint file"):
        read_keypoints(tmp_path / "pose.npy")


@pytest.mark.parametrize(
    "missing",
    [
        [0, 0, 0],
        [5, 5, 0],
        [-1, -1, 1],
        [-1, 30, 1],
        [30, -1, 0.5],
        [None, None, None],
        None,
        [0, 0, 1],
        [float("nan"), 3, 1],
    ],
)
def test_every_form_of_missing_is_minus_one(read, missing):
    content = rows()
    content[4] = missing
    np.testing.assert_array_equal(read(content), without(4))


def test_a_number_too_large_for_float32_stays_outside_of_any_picture(read):
    content = POINTS.tolist()
    content[2] = [1e300, 5]
    np.testing.assert_array_equal(read(content)[2], [np.inf, 5])


def test_missing_without_scores(read):
    content = POINTS.tolist()
    content[2:5] = [[0, 0], [-1, 7], None]
    np.testing.assert_array_equal(read(content), without(2, 3, 4))


def test_body_25_drops_the_middle_hip_and_the_feet(read):
    by_name = dict(zip(KEYPOINT_NAMES, POINTS, strict=True))
    names = [
        *KEYPOINT_NAMES[:8],
        None,
        *KEYPOINT_NAMES[8:14],
        "right_eye",
        "left_eye",
        "right_ear",
        "left_ear",
    ]
    body25 = [by_name.get(name, (999.0, 999.0)) for name in names] + [(999.0, 999.0)] * 6
    content = {"people": [{"pose_keypoints_2d": flat(body25)}]}
    np.testing.assert_array_equal(read(content), POINTS)
    np.testing.assert_array_equal(read(rows(body25), order="body-25"), POINTS)


COCO_NAMES = ["nose"] + [
    f"{side}_{joint}"
    for joint in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
]


def coco(points=POINTS) -> np.ndarray:
    by_name = dict(zip(KEYPOINT_NAMES, points, strict=True))
    return np.array([by_name[name] for name in COCO_NAMES])


@pytest.mark.parametrize(
    ("content", "order"),
    [
        (flat(coco()), None),
        ({"keypoints": flat(coco(), 2), "num_keypoints": 17}, None),
        ([{"image_id": 1, "keypoints": flat(coco()), "score": 0.8}], None),
        (coco().tolist(), "coco-17"),
        (rows(coco()), "coco-17"),
        (coco().ravel().tolist(), "coco-17"),
    ],
)
def test_coco_17_gets_a_neck_between_the_shoulders(read, content, order):
    expected = POINTS.copy()
    expected[1] = (POINTS[2] + POINTS[5]) / 2
    np.testing.assert_array_equal(read(content, order=order), expected)


@pytest.mark.parametrize("shoulder", [2, 5])
def test_coco_17_without_a_shoulder_has_no_neck(read, shoulder):
    keypoints = read(flat(coco(without(shoulder))))
    np.testing.assert_array_equal(keypoints, without(1, shoulder))


def test_lengths_are_inferred_and_named(read, caplog):
    with caplog.at_level("INFO"):
        read(flat(coco()))
    assert "51 numbers, read as COCO-17" in caplog.text


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            coco().tolist(),
            {},
            r"17 keypoints, expected 18 .* if they are COCO-17, declare it: --source-order coco-17",
        ),
        ([[1, 1]] * 25, {}, r"25 keypoints, expected 18 .* BODY_25, declare it: --source-order body-25"),
        ([[1, 1]] * 16, {}, r"16 keypoints, expected 18 \(OpenPose's COCO-18\)$"),
        ([[1, 1]] * 18, {"order": "coco-17"}, r"18 keypoints, expected 17 \(COCO-17\)"),
        ([1] * 45, {}, r"list of 45 numbers, expected 54 .* 75 \(OpenPose's BODY_25\), 51 \(COCO-17\)"),
        ([1] * 54, {"order": "coco-17"}, r"list of 54 numbers, expected 51 \(COCO-17\), 34"),
        (
            POINTS.tolist(),
            {"order": "coco"},
            "no keypoint order 'coco'; there are openpose-18, body-25, coco-17",
        ),
        ([[1, 2, 3, 4]] * 18, {}, r"an array \(18, 4\), expected rows of x, y"),
        ([[[1, 2]] * 18], {}, r"an array \(1, 18, 2\)"),
        ([[1, 2]] * 17 + [[1]], {}, "not rows of two or three numbers"),
        ([[1, "a"]] * 18, {}, "not rows of two or three numbers"),
        ([1, [2, 3]], {}, "not rows of two or three numbers"),
        ([[10**400, 1]] * 18, {}, "not rows of two or three numbers"),
        ("[" * 100_000, {}, "is not valid JSON"),
        ({"keypoints": "none"}, {}, "has str where a list"),
        ({"people": []}, {}, "has no person in it"),
        ({"people": [{"pose_keypoints_2d": []}]}, {}, "has no person in it"),
        ([], {}, "has no person in it"),
        ({"joints": []}, {}, "has no list of keypoints"),
        ("", {}, "is empty"),
        ("{", {}, "is not valid JSON"),
        ("hello world", {}, "not rows of two or three numbers"),
        ("<a href='x:y'>", {}, "is no keypoint file; a csv has rows"),
    ],
)
def test_what_cannot_be_read_is_told_on_one_line(read, content, options, message):
    with pytest.raises(DataError, match=message) as caught:
        read(content, **options)
    assert "\n" not in str(caught.value)
    assert "pose.json" in str(caught.value) or "order" in options


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json cannot be read: No such file"):
        read_keypoints(tmp_path / "gone.json")
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match=r"picture\.jpg is not a keypoint file"):
        read_keypoints(tmp_path / "picture.jpg")


NUMBERS = st.none() | st.integers() | st.floats() | st.sampled_from([-1, 0, 1e300, 10**400, "7", "x", True])
ROWS = st.lists(NUMBERS, min_size=2, max_size=3) | NUMBERS
PEOPLE = st.sampled_from([17, 18, 25, 36, 51, 54, 75]).flatmap(
    lambda n: st.lists(ROWS, min_size=n, max_size=n)
)


@settings(deadline=None)  # the machine may be busy
@given(
    PEOPLE.map(lambda person: {"people": [{"pose_keypoints_2d": person}, {"pose_keypoints_2d": flat()}]})
    | st.recursive(NUMBERS, lambda each: st.lists(each) | st.dictionaries(st.just("keypoints"), each))
    | PEOPLE
)
@pytest.mark.filterwarnings("ignore::posewarp.runtime.errors.PosewarpWarning")
def test_any_json_gives_keypoints_or_a_data_error(content):
    try:
        keypoints = parse_keypoints(json.dumps(content))
    except DataError as exc:
        assert "\n" not in str(exc)  # noqa: PT017 - either outcome is right
    else:
        assert keypoints.shape == (18, 2)
        assert not np.isnan(keypoints).any()
        assert ((keypoints == -1).any(1) == (keypoints == -1).all(1)).all()


# Several people


def test_the_largest_and_surest_person_is_taken_and_said(read):
    small = POINTS * 0.2 + 50
    doubtful = flat(POINTS * 1.2, 0.1)
    content = {
        "people": [{"pose_keypoints_2d": people} for people in (flat(small), flat(), doubtful, [0] * 54)]
    }
    with pytest.warns(PosewarpWarning, match=r"pose\.json has 4 people; number 2"):
        keypoints = read(content)
    np.testing.assert_array_equal(keypoints, POINTS)


# PATN's csv


def csv(kind=int) -> str:
    ys, xs = ([kind(value) for value in column] for column in (POINTS[:, 1], POINTS[:, 0]))
    return f"name:keypoints_y:keypoints_x\na_1.jpg: {ys}: {xs}\nb_2.jpg: {[-1] * 18}: {[-1] * 18}\n"


@pytest.mark.parametrize("kind", [int, np.int64, np.float64])
def test_csv_row_is_chosen_by_name_and_y_comes_first(read, kind):
    text = csv(kind)
    assert ("np.int64(" in text) == (kind is np.int64)  # NumPy 2's spelling is what is tested
    keypoints = read(text, "annotation.csv", name="a_1.jpg")
    np.testing.assert_array_equal(keypoints, np.vectorize(kind)(POINTS))
    assert (read(text, "annotation.csv", name="b_2.jpg") == -1).all()


def test_csv_keeps_a_corner_and_drops_half_a_joint():
    ys, xs = [0, -1, 5] + [9] * 15, [0, 8, -1] + [9] * 15
    keypoints = parse_keypoints(f"a: {ys}: {xs}")
    np.testing.assert_array_equal(keypoints[:4], [[0, 0], [-1, -1], [-1, -1], [9, 9]])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, r"has 2 rows, choose one by name .*; one would be a_1\.jpg"),
        ("b_3.jpg", r"none is named b_3\.jpg; .* b_2\.jpg"),
    ],
)
def test_csv_row_must_be_named(read, name, message):
    with pytest.raises(DataError, match=message):
        read(csv(), "annotation.csv", name=name)


@pytest.mark.parametrize("row", ["a: [1, 2]: [1]", "a: [x]: [1]", "a: [1"])
def test_damaged_csv_row_is_named(read, row):
    with pytest.raises(DataError, match=r"a\.csv(, row a is not two lists| is no keypoint file)"):
        read(row, "a.csv")
