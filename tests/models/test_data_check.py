"""Every kind of fault, planted in a tree on disk, is found by its name, and nothing else is."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from posewarp.models.data import faults
from posewarp.models.data.check import check
from posewarp.models.data.pairs import open_dataset
from posewarp.models.data.tree import write_tree
from posewarp.runtime.errors import DataError

PAIRS = "fasion-resize-pairs-train.csv"
TEST_PAIRS = "fasion-resize-pairs-test.csv"
ANNOTATIONS = "fasion-resize-annotation-train.csv"
FIRST = "fashionWOMENDressesid0000000101_1front.jpg"
FIRST_BACK = "fashionWOMENDressesid0000000101_2side.jpg"
SECOND = "fashionWOMENDressesid0000000201_1front.jpg"
FIRST_MAP = "semantic_merge3/WOMEN/Dresses/id_00000001/01_1_front.npy"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "whole"
    write_tree(root, "deepfashion", train=16, test=4, masks="adgan8")
    return root


@pytest.fixture
def tree(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "tree")


def edit(path, change):
    """Replace a text file's lines by what ``change`` makes of them."""
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def edit_row(path, name, change):
    """Replace the keypoints (x list, y list) of one row, or of all, of an annotation csv."""

    def change_line(line):
        found, *cells = line.split(": ")
        if "[" not in line or name not in (None, found):
            return line
        ys, xs = map(json.loads, cells)
        xs, ys = change(xs, ys)
        return f"{found}: {ys}: {xs}"

    edit(path, lambda lines: [change_line(line) for line in lines])


def shifted(values, by):
    return [value if value == -1 else value + by for value in values]


def resave(path, change, **options):
    with Image.open(path) as picture:
        changed = change(picture.convert("RGB"))
    changed.save(path, **options)


def exif_turned(path):
    with Image.open(path) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def cut(path, keep):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def leak(tree):
    """The first two people of test become those of train that they are renamed to."""
    for path in (tree / TEST_PAIRS, tree / ANNOTATIONS.replace("train", "test"), tree / "test.lst"):
        path.write_text(path.read_text().replace("id00000009", "id00000001"))
    for picture in list((tree / "test").glob("*id00000009*")):
        picture.rename(picture.with_name(picture.name.replace("id00000009", "id00000001")))


# kind: how it is planted, where it shows, and what else follows from it.
PLANTED = {
    "missing_file": (lambda t: (t / PAIRS).unlink(), PAIRS, ()),
    "unreadable_file": (lambda t: (t / PAIRS).write_bytes(b"from,to\n\xff\xfe,\xff\n"), PAIRS, ()),
    "empty_list": (lambda t: (t / PAIRS).write_text("from,to\n"), PAIRS, ()),
    "wrong_separator": (
        lambda t: edit(t / PAIRS, lambda lines: [line.replace(",", ";") for line in lines]),
        PAIRS,
        (),
    ),
    "wrong_header": (
        lambda t: edit(t / ANNOTATIONS, lambda lines: ["name:y:x", *lines[1:]]),
        "line 1: expected name:keypoints_y:keypoints_x, got 'name:y:x'",
        (),
    ),
    "bad_row": (
        lambda t: edit(t / ANNOTATIONS, lambda lines: [lines[0], lines[1][:-1], *lines[2:]]),
        "line 2: not two lists of numbers",
        ("unannotated",),
    ),
    "keypoint_count": (
        lambda t: edit_row(t / ANNOTATIONS, FIRST, lambda x, y: (x + [1] * 7, y + [1] * 7)),
        f"line 2: {FIRST} has 25 keypoints, expected 18; OpenPose's BODY_25",
        ("unannotated",),
    ),
    "duplicate_annotation": (
        lambda t: edit(t / ANNOTATIONS, lambda lines: [*lines, lines[1]]),
        f"line 18: {FIRST} is annotated in line 2 too",
        (),
    ),
    "duplicate_pair": (
        lambda t: edit(t / PAIRS, lambda lines: [*lines, lines[1]]),
        "line 18: ",
        (),
    ),
    "self_pair": (lambda t: edit(t / PAIRS, lambda lines: [*lines, f"{FIRST},{FIRST}"]), "line 18: ", ()),
    "mixed_identities": (
        lambda t: edit(t / PAIRS, lambda lines: [*lines, f"{FIRST},{SECOND}"]),
        "00000001",
        (),
    ),
    "identity_leak": (leak, "person 00000001 is in test too", ("missing_mask",)),
    "unannotated": (
        lambda t: edit(t / ANNOTATIONS, lambda lines: [line for line in lines if FIRST not in line]),
        f"line 2: {FIRST} has no keypoints",
        (),
    ),
    "list_mismatch": (lambda t: edit(t / "train.lst", lambda lines: lines[1:]), FIRST, ()),
    "no_keypoints": (
        lambda t: edit_row(t / ANNOTATIONS, FIRST, lambda x, y: ([-1] * 18, [-1] * 18)),
        f"line 2: {FIRST}",
        (),
    ),
    "swapped_columns": (
        lambda t: edit_row(t / ANNOTATIONS, None, lambda x, y: (y, x)),
        "of 16 rows x and y look swapped",
        ("keypoints_outside",),
    ),
    "keypoints_outside": (
        lambda t: edit_row(t / ANNOTATIONS, FIRST, lambda x, y: (shifted(x, 900), shifted(y, 900))),
        f"line 2: {FIRST}: most keypoints lie outside the 256x176 frame",
        ("keypoint_frame",),
    ),
    "keypoint_frame": (
        lambda t: edit_row(t / ANNOTATIONS, None, lambda x, y: (shifted(x, 40), y)),
        "the 256-wide one: pass --keypoint-frame 256x256",
        (),
    ),
    "missing_picture": (lambda t: (t / "train" / FIRST).unlink(), FIRST, ("list_mismatch",)),
    "empty_picture": (lambda t: (t / "train" / FIRST).write_bytes(b""), FIRST, ()),
    "truncated_picture": (lambda t: cut(t / "train" / FIRST, 0.6), FIRST, ()),
    "unreadable_picture": (lambda t: (t / "train" / FIRST).write_text("<html>404</html>"), FIRST, ()),
    "picture_size": (
        lambda t: resave(t / "train" / FIRST, lambda picture: picture.resize((256, 256))),
        f"{FIRST}: 256x256 (height x width), 15 others are 256x176",
        (),
    ),
    "grey_picture": (lambda t: resave(t / "train" / FIRST, lambda picture: picture.convert("L")), FIRST, ()),
    "turned_picture": (lambda t: exif_turned(t / "train" / FIRST), "its EXIF orientation is 6", ()),
    "missing_mask": (lambda t: (t / FIRST_MAP).unlink(), FIRST, ()),
    "unreadable_mask": (lambda t: cut(t / FIRST_MAP, 0.5), FIRST_MAP, ()),
    "mask_size": (lambda t: np.save(t / FIRST_MAP, np.full((100, 300), 5)), "it is 100x300", ()),
    "mask_labels": (lambda t: np.save(t / FIRST_MAP, np.full((256, 176), 19)), "no label 19", ()),
    "no_garment": (lambda t: np.save(t / FIRST_MAP, np.full((256, 176), 2)), FIRST_MAP, ()),
}


def test_a_whole_tree_has_no_fault(whole):
    report = check(whole, masks=whole / "semantic_merge3")
    assert report.faults == []
    assert report.counts["train"] == {"pairs": 16, "annotations": 16, "pictures": 16, "identities": 8}


def test_every_kind_is_planted():
    assert set(PLANTED) == set(faults.KINDS)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_fault_is_found_by_its_name(kind, tree):
    plant, shown, consequences = PLANTED[kind]
    plant(tree)
    found = check(tree, masks=tree / "semantic_merge3").by_kind()
    assert kind in found
    assert set(found) <= {kind, *consequences}
    assert shown in str(found[kind][0]).replace(str(tree), "")


def test_many_faults_are_counted_one_by_one(tree):
    names = sorted(path.name for path in (tree / "train").iterdir())
    for name in names[:3]:
        (tree / "train" / name).write_bytes(b"")
    for name in names[3:5]:
        cut(tree / "train" / name, 0.5)
    edit(tree / PAIRS, lambda lines: [*lines, *lines[1:5]])
    counts = {kind: len(found) for kind, found in check(tree).by_kind().items()}
    assert counts == {"duplicate_pair": 4, "empty_picture": 3, "truncated_picture": 2}


def test_a_picture_of_another_case_is_named(tree):
    (tree / "train" / FIRST).rename(tree / "train" / FIRST.replace(".jpg", ".JPG"))
    (fault,) = check(tree, ["train"]).by_kind()["missing_picture"]
    assert f"there is {FIRST.replace('.jpg', '.JPG')}" in fault.message


def test_a_declared_keypoint_frame_is_believed(tree):
    edit_row(tree / ANNOTATIONS, None, lambda x, y: (shifted(x, 40), y))
    assert not check(tree, ["train"], keypoint_frame=(256, 256)).faults


def test_a_declared_keypoint_frame_that_people_do_not_stand_in_the_middle_of_is_a_fault(tree):
    (fault,) = check(tree, ["train"], keypoint_frame=(256, 256)).faults
    assert fault.kind == "keypoint_frame"
    assert "the 176-wide one: pass --keypoint-frame 256x176" in fault.message


def test_a_row_that_is_cut_hides_no_other(tree):
    edit(tree / ANNOTATIONS, lambda lines: [lines[0], lines[1][:20], *lines[2:]])
    found = check(tree, ["train"]).by_kind()
    assert {kind: len(faults) for kind, faults in found.items()} == {"bad_row": 1, "unannotated": 1}
    assert found["bad_row"][0].line == 2


def test_one_split_alone_needs_no_file_of_the_other(tree):
    (tree / TEST_PAIRS).unlink()
    assert not check(tree, ["train"]).faults


def test_a_file_in_place_of_a_folder_of_pictures_is_named(tree):
    shutil.rmtree(tree / "train")
    (tree / "train").write_text("")
    with pytest.raises(DataError, match=r"has no train/ \(pictures\); .* a folder, not a file"):
        open_dataset(tree, "train")
    (fault,) = check(tree).by_kind()["missing_file"]
    assert fault.message == "it is a file, expected a folder"


@pytest.mark.parametrize("name", ["img", "pose"])
def test_a_file_in_place_of_img_or_pose_is_named(tmp_path, name):
    for folder in ("img", "pose"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train_pairs.txt").write_text("")
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=f"has no {name}/; .* a folder, not a file"):
        open_dataset(tmp_path, "train")


def test_a_folder_without_lists_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no list of pairs"):
        check(tmp_path)


def test_progress_reaches_the_number_of_pictures(tree):
    seen = []
    check(tree, progress=lambda *step: seen.append(step))
    assert ("train pictures", 16, 16) in seen
    assert ("test pictures", 4, 4) in seen
