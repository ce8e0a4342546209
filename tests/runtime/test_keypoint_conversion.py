"""Keypoints through every format and from frame to frame: what comes back, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from posewarp.runtime.errors import ContractError, DataError, PosewarpWarning
from posewarp.runtime.keypoint_conversion import Entry, Reframe, convert, read_entries
from posewarp.runtime.keypoint_files import read_keypoints
from posewarp.runtime.keypoint_writers import check_kind, write_keypoints
from posewarp.runtime.poses import Poses

# A person of 256 x 176: neck above hips, fractions, a joint in the corner and two that are missing.
JOINTS = np.stack((np.arange(18) * 9 + 4.25, np.arange(18) * 13 + 10.5, np.linspace(0.25, 1, 18)), 1)
JOINTS[0, :2] = 0
JOINTS[[4, 17]] = np.nan
ALONE = {
    "json": "pose.json",
    "openpose": "pose.json",
    "nted": "pose.txt",
    "patn": "a.csv",
    "jsonl": "a.jsonl",
}
SCORED = ("json", "openpose", "jsonl")


def entry(joints=JOINTS, name="a", *more):
    return Entry(name, name, [joints, *more])


def moved(x, joints=JOINTS):
    return joints + np.array([x, 0, 0])


def read_one(path):
    converted, _ = convert(read_entries(path))
    ((name, joints),) = converted.items()
    return name, joints


@pytest.mark.parametrize("kind", ALONE)
def test_every_format_gives_back_what_was_written(tmp_path, kind):
    path = tmp_path / ALONE[kind]
    write_keypoints(path, {"photo.jpg": [JOINTS]}, kind)
    name, joints = read_one(path)
    assert name == ("photo.jpg" if kind in ("patn", "jsonl") else "pose")
    np.testing.assert_array_equal(np.isnan(joints), np.isnan(JOINTS))
    # Of the corner, which the other formats read as missing, a thousandth of a pixel is given away.
    np.testing.assert_allclose(joints[0, :2], [0, 0 if kind == "patn" else 0.001], atol=1e-9)
    np.testing.assert_array_equal(joints[1:, :2], JOINTS[1:, :2])
    scores = JOINTS[:, 2] if kind in SCORED else np.where(np.isnan(JOINTS[:, 2]), np.nan, 1)
    np.testing.assert_array_equal(joints[:, 2], scores)


@pytest.mark.parametrize("first", ALONE)
@pytest.mark.parametrize("second", ALONE)
def test_from_any_format_to_any_other_nothing_is_lost(tmp_path, first, second):
    a, b = tmp_path / f"1{ALONE[first]}", tmp_path / f"2{ALONE[second]}"
    write_keypoints(a, {"x": [JOINTS]}, first)
    write_keypoints(b, {"x": [read_one(a)[1]]}, second)
    np.testing.assert_allclose(read_one(b)[1][:, :2], JOINTS[:, :2], atol=0.0011)
    assert [each.people[0].shape for each in read_entries(b)] == [(18, 3)]


@pytest.mark.parametrize("kind", ALONE)
def test_what_is_written_is_what_transfer_and_animate_read(tmp_path, kind):
    path = tmp_path / ALONE[kind]
    write_keypoints(path, {"x": [JOINTS]}, kind)
    expected = np.where(np.isnan(JOINTS[:, :2]), -1, JOINTS[:, :2]).astype(np.float32)
    if kind == "jsonl":
        ((_, keypoints),) = Poses(path)
    else:
        keypoints = read_keypoints(path)
    np.testing.assert_allclose(keypoints, expected, atol=0.0011)


def test_the_csv_and_the_text_are_written_as_their_readers_want_them(tmp_path):
    joints = np.stack((np.arange(18), np.arange(18) + 100, np.ones(18)), 1).astype(float)
    joints[3] = np.nan
    write_keypoints(tmp_path / "a.csv", {"id_1_front.jpg": [joints]})
    xs, ys = ([-1 if i == 3 else i + add for i in range(18)] for add in (0, 100))
    assert (tmp_path / "a.csv").read_text() == f"name:keypoints_y:keypoints_x\nid_1_front.jpg: {ys}: {xs}\n"
    write_keypoints(tmp_path / "a.txt", {"id_1_front.jpg": [joints]})
    assert (tmp_path / "a.txt").read_text().splitlines()[2:5] == ["2,102", "-1,-1", "4,104"]


def test_a_whole_csv_becomes_a_folder_and_comes_back(tmp_path):
    named = {f"WOMEN/id_{i}/{i}_front": [moved(i)] for i in (1, 2, 10)}
    write_keypoints(tmp_path / "a.csv", named)
    converted, summary = convert(read_entries(tmp_path / "a.csv"))
    assert (summary.entries, summary.missing, summary.out_of_frame) == (3, 6, 0)
    write_keypoints(tmp_path / "poses", {name: [joints] for name, joints in converted.items()}, "nted")
    assert (tmp_path / "poses/WOMEN/id_10/10_front.txt").is_file()
    again, _ = convert(read_entries(tmp_path / "poses"))
    assert list(again) == list(named)
    for name in named:
        np.testing.assert_allclose(again[name][:, :2], named[name][0][:, :2], atol=0.0011)


def test_openpose_files_are_named_as_openpose_names_them(tmp_path):
    write_keypoints(tmp_path / "out", {"photo_1.jpg": [JOINTS, JOINTS * 0.5]}, "openpose")
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == "photo_1_keypoints.json"
    (read,) = read_entries(tmp_path / "out")
    assert (read.name, len(read.people)) == ("photo_1", 2)


# COCO


def coco(points=JOINTS) -> list:
    """51 numbers whose keypoints in our order are ``points``, but for the neck."""
    rows = np.nan_to_num(points)[[0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]]
    rows[:, 2] = np.where(rows[:, :2].any(1), 2, 0)
    return rows.ravel().tolist()


@pytest.fixture
def annotations(tmp_path):
    """Two pictures with people, of whom one has no joints, and one without."""
    people = [(7, coco(), 15), (7, [0] * 51, 0), (8, coco(JOINTS * 0.5), 15), (7, coco(JOINTS * 0.4), 15)]
    content = {
        "images": [{"id": 7, "file_name": "seven.jpg"}, {"id": 8, "file_name": "eight.jpg"}, {"id": 9}],
        "annotations": [{"image_id": i, "keypoints": k, "num_keypoints": n} for i, k, n in people],
    }
    path = tmp_path / "person_keypoints.json"
    path.write_text(json.dumps(content))
    return path


def test_a_coco_annotations_file_is_read_by_picture(annotations):
    entries = list(read_entries(annotations))
    assert [(each.name, len(each.people)) for each in entries] == [("seven.jpg", 2), ("eight.jpg", 1)]
    np.testing.assert_allclose(entries[1].people[0][2:4, :2], JOINTS[2:4, :2] * 0.5)
    assert [each.name for each in read_entries(annotations, name="eight.jpg")] == ["eight.jpg"]
    with pytest.raises(DataError, match=r"none is named nine\.jpg, or has that image id; one would be"):
        list(read_entries(annotations, name="nine.jpg"))


@pytest.mark.parametrize("name", ["seven.jpg", "7"])
def test_one_picture_of_a_coco_file_is_chosen_by_name_or_number(annotations, name):
    with pytest.warns(PosewarpWarning, match="has 2 people; number 1"):
        keypoints = read_keypoints(annotations, name=name)
    np.testing.assert_allclose(keypoints[2], JOINTS[2, :2])
    with pytest.raises(DataError, match=r"has people in 2 pictures, choose one by name .*--name.*seven\.jpg"):
        read_keypoints(annotations)


def test_coco_results_are_read_by_picture(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": i, "keypoints": coco(), "score": 0.9} for i in (3, 4, 3)]))
    assert [(each.name, len(each.people)) for each in read_entries(path)] == [("3", 2), ("4", 1)]


# People


def test_a_person_is_chosen_by_size_or_number():
    people = entry(JOINTS * 0.5, "a", JOINTS)
    with pytest.warns(PosewarpWarning, match="a has 2 people; number 2, the largest and surest"):
        converted, _ = convert([people])
    np.testing.assert_array_equal(converted["a"], JOINTS)
    converted, _ = convert([people], person=1)
    np.testing.assert_array_equal(converted["a"], JOINTS * 0.5)
    with pytest.raises(DataError, match="a has 2 people, no number 3"):
        convert([people], person=3)


# Frames


def test_from_256_wide_to_176_and_back():
    wide = moved(40)
    cut, _ = convert([entry(wide)], Reframe(from_size=(256, 256), x_offset=-40))
    np.testing.assert_allclose(cut["a"], JOINTS)
    back, _ = convert([entry(cut["a"])], Reframe(from_size=(256, 176), x_offset=40))
    np.testing.assert_allclose(back["a"], wide)


def test_what_the_cut_takes_away_is_missing_and_counted():
    """x = 39 would become -1, which says missing by chance, and x = 38 a joint at -2; 215.9 is the last that stays."""
    joints = moved(40)
    joints[[1, 2, 3, 5], 0] = 39, 38, 215.9, 216
    converted, summary = convert([entry(joints)], Reframe(from_size=(256, 256), x_offset=-40))
    assert np.flatnonzero(np.isnan(converted["a"][:, 0])).tolist() == [1, 2, 4, 5, 17]
    assert (summary.missing, summary.out_of_frame) == (5, 3)
    assert str(summary) == "1 picture, 5 of 18 joints missing, 3 of them out of frame"


def test_scaling_keeps_pixel_centres_and_the_frame():
    """Twice as large: pixel 0 becomes pixels 0 and 1, whose middle is 0.5."""
    joints = np.full((18, 3), np.nan)
    joints[0], joints[1], joints[8], joints[11] = (0, 0, 1), (100, 10, 1), (100, 50, 1), (175.9, 255.9, 1)
    scaled, _ = convert([entry(joints)], Reframe((256, 176), (512, 352)))
    np.testing.assert_allclose(scaled["a"][[0, 1, 11], :2], [(0.5, 0.5), (200.5, 20.5), (351.5, 511.5)])
    halved, summary = convert([entry(joints)], Reframe((256, 176), (128, 88)))
    np.testing.assert_allclose(halved["a"][[0, 1], :2], [(0, 0), (49.75, 4.75)])
    assert summary.out_of_frame == 0


def test_scaling_and_cutting_go_together():
    """As GFLA's pictures: 1101 x 750 to 256 x 256, of which 176 stay in the middle."""
    frames = Reframe((1101, 750), (256, 256), -40)
    assert frames.size == (256, 176)
    joints = np.stack((np.full(18, 374.5), np.linspace(0, 1100, 18), np.ones(18)), 1)
    converted, _ = convert([entry(joints)], frames)
    np.testing.assert_allclose(converted["a"][:, 0], 87.5)  # the middle of either


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to_size": (256, 176)}, "give --from-size too"),
        ({"from_size": (256, 60), "x_offset": -40}, "a frame -20 wide would be left"),
    ],
)
def test_frames_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ContractError, match=message):
        Reframe(**arguments)


# What looks wrong


@pytest.mark.parametrize(
    ("joints", "frames", "message"),
    [
        (
            (JOINTS * [0.5, 0.2, 1])[:, [1, 0, 2]] + [180.0, 0, 0],
            Reframe((256, 176)),
            "it looks as if x and y are swapped",
        ),
        (JOINTS * [4, 4, 1], Reframe((256, 176)), "as if made for another resolution"),
        (
            moved(175, JOINTS * [0.2, 1, 1]),
            Reframe((256, 176)),
            "made for the 256-wide frame: subtract 40 from x",
        ),
        (JOINTS / [176, 256, 1] * 0.5, Reframe(), "multiply x by the width"),
        (JOINTS * [0.2, 1, 1], Reframe(x_offset=-40), "moved: 16 of 16 keypoints lie outside any frame"),
        (JOINTS * np.nan, Reframe(), "no keypoint is visible in any of 1 pictures"),
    ],
)
@pytest.mark.filterwarnings("ignore::posewarp.runtime.errors.PosewarpWarning")
def test_one_picture_that_looks_wrong_is_refused_with_what_it_looks_like(joints, frames, message):
    with pytest.raises(DataError, match=message):
        convert([entry(joints)], frames)


@pytest.mark.filterwarnings("ignore:.*taken as missing")
def test_of_many_a_few_are_warnings_and_most_an_error():
    good, large = (
        [entry(name=f"g{i}") for i in range(3)],
        [entry(JOINTS * [9, 9, 1], f"b{i}") for i in range(4)],
    )
    empty = [entry(JOINTS * np.nan, f"e{i}") for i in range(9)]
    with pytest.warns(PosewarpWarning, match="b0: .* another resolution"):
        converted, summary = convert([*good, large[0], *empty], Reframe((256, 176)))
    assert len(converted) == 13
    assert str(summary).startswith("13 pictures (9 without a visible joint), ")
    with pytest.raises(DataError, match=r"b0: .* another resolution.* \(4 of 16 pictures are alike\)"):
        convert([*good, *large, *empty], Reframe((256, 176)))


def test_people_on_their_side_are_a_warning():
    upright = np.stack((np.arange(18) + 50.0, np.arange(18) * 10.0, np.ones(18)), 1)
    convert([entry(upright)])
    with pytest.warns(PosewarpWarning, match="as if x and y were swapped"):
        convert([entry(upright[:, [1, 0, 2]])])


def csv(path, *names):
    path.write_text("".join(f"{name}: {list(range(18))}: {list(range(18))}\n" for name in names))
    return path


def test_a_csv_with_one_name_twice_is_refused_and_its_other_names_are_not(tmp_path):
    path = csv(tmp_path / "a.csv", "a", "b", "a")
    with pytest.raises(DataError, match=r"a\.csv, row a is there 2 times; leave one"):
        convert(read_entries(path))
    assert [each.name for each in read_entries(path, name="b")] == ["b"]


def test_a_name_in_the_second_file_of_a_folder_is_found(tmp_path):
    csv(tmp_path / "1.csv", "a", "b")
    csv(tmp_path / "2.csv", "c", "d")
    assert [each.name for each in read_entries(tmp_path, name="d")] == ["d"]


@pytest.mark.parametrize("kind", ALONE)
def test_a_name_that_is_nowhere_is_said(tmp_path, kind):
    write_keypoints(tmp_path / ALONE[kind], {"photo.jpg": [JOINTS]}, kind)
    for path in (tmp_path / ALONE[kind], tmp_path):
        with pytest.raises(DataError, match="none is named nobody"):
            list(read_entries(path, name="nobody"))


def test_two_pictures_of_one_name_are_refused():
    with pytest.raises(DataError, match="another one is named a too"):
        convert([entry(), entry()])


# Files


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("out.xml", None, r"cannot write keypoints as \.xml; use \.json, \.csv, \.txt, \.jsonl, or a folder"),
        ("out.json", "patn", r"patn files end in \.csv"),
        ("out", "jsonl", r"out is a folder; jsonl is one file, \.jsonl"),
    ],
)
def test_kinds_and_suffixes_must_agree(path, kind, message):
    with pytest.raises(DataError, match=message):
        check_kind(path, kind)


@pytest.mark.parametrize(
    ("names", "path", "message"),
    [
        (["a", "b"], "out.json", "holds one picture, 2 are to be written; name a folder"),
        (["a.jpg", "a.png"], "out", r"two pictures would be written to a\.json"),
        (["../a"], "out", "cannot be the name of a file"),
        (["/etc/a"], "out", "cannot be the name of a file"),
        (["a" * 300], "out", "out cannot be written: File name too long"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, names, path, message):
    with pytest.raises(DataError, match=message):
        write_keypoints(tmp_path / path, {name: [JOINTS] for name in names})
    assert not list(tmp_path.iterdir())


def test_several_people_go_into_openpose_only(tmp_path):
    with pytest.raises(DataError, match="a has 2 people; json holds one, openpose all of them"):
        write_keypoints(tmp_path / "a.json", {"a": [JOINTS, JOINTS]})


def test_a_folder_with_files_in_it_is_left_as_it_is(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(DataError, match="has files in it"):
        write_keypoints(tmp_path, {"a": [JOINTS]})
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("kept.txt", "kept")]


def test_a_folder_without_keypoints_is_said(tmp_path):
    with pytest.raises(DataError, match="has no keypoint files in it"):
        list(read_entries(tmp_path))


def test_a_line_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps([[1, 2]] * 18) + "\n[[1, 2]]\n")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2 has 1 keypoints"):
        list(read_entries(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("value", [np.inf, 1e300])
@pytest.mark.parametrize("size", [None, (256, 176)])
def test_infinite_coordinates_are_called_so(value, size):
    joints = JOINTS.copy()
    joints[:, 0] = value
    with pytest.raises(DataError, match="18 of 18 keypoints have an infinite x or y"):
        convert([entry(joints, "a", joints)], Reframe(size), person=1)


def test_a_picture_that_is_not_there_is_not_called_a_row(tmp_path):
    people = {"keypoints": [5, 6, 2] * 17, "image_id": 1}
    pictures = [{"id": 1, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}]
    (tmp_path / "a.json").write_text(json.dumps({"images": pictures, "annotations": [people]}))
    for asked, said in (
        ("2", "none is named 2, or has that image id"),
        ("3", r"none of image id 3 \(b\.jpg\)"),
    ):
        with pytest.raises(DataError, match=rf"a\.json has people in 1 picture, {said}; one would be a\.jpg"):
            list(read_entries(tmp_path / "a.json", name=asked))
