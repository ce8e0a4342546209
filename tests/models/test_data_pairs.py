"""Data sets on disk, as real files in all the ways that people have them, give the pairs that were written."""

import pickle
import shutil
import subprocess
import sys
from dataclasses import astuple

import numpy as np
import pytest
from PIL import Image

from posewarp.models.data import pairs as module
from posewarp.models.data.annotations import read_annotations
from posewarp.models.data.check import check
from posewarp.models.data.framing import frame_keypoints
from posewarp.models.data.pairs import open_dataset
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.data.tree import MAPS, write_tree
from posewarp.runtime.errors import DataError, PosewarpWarning
from posewarp.runtime.image import read_image, write_image

ANNOTATIONS = "fasion-resize-annotation-train.csv"
PAIRS = "fasion-resize-pairs-train.csv"


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "fashion"
    write_tree(root, "deepfashion", train=16, test=2)
    return root


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "market"
    write_tree(root, "market", train=5, test=3)
    return root


@pytest.fixture
def tree(fashion, tmp_path):
    return shutil.copytree(fashion, tmp_path / "tree")


def assert_same(dataset, expected):
    assert len(dataset) == len(expected)
    for one, other in zip(dataset, expected, strict=True):
        for got, wanted in zip(astuple(one), astuple(other), strict=True):
            np.testing.assert_array_equal(got, wanted)


def each_picture(folder, change):
    for path in folder.iterdir():
        write_image(path, change(read_image(path)))


@pytest.mark.parametrize(("root", "size"), [("fashion", (256, 176)), ("market", (128, 64))])
def test_what_was_written_is_read(root, size, request):
    dataset = open_dataset(request.getfixturevalue(root), "train")
    people = SyntheticPeople(*size)
    for index in range(0, len(dataset), 2):
        pair, drawn = dataset[index], people[index // 2]
        assert pair.source_image.shape == pair.target_image.shape == (*size, 3)
        # JPEG at quality 95; another person's picture is some 60 levels off.
        assert np.abs(pair.source_image.astype(float) - drawn.source_image).mean() < 4
        assert np.abs(pair.target_image.astype(float) - drawn.target_image).mean() < 4
        np.testing.assert_array_equal(pair.source_keypoints, np.rint(drawn.source_keypoints))
        np.testing.assert_array_equal(pair.target_keypoints, np.rint(drawn.target_keypoints))
        assert (pair.garment_mask.shape, pair.garment_mask.dtype) == (size, bool)
        assert pair.garment_mask.all()


def test_every_second_pair_is_the_way_back(fashion):
    dataset = open_dataset(fashion, "train")
    assert dataset.names[1] == dataset.names[0][::-1]
    np.testing.assert_array_equal(dataset[0].source_image, dataset[1].target_image)
    np.testing.assert_array_equal(dataset[0].source_keypoints, dataset[1].target_keypoints)


def test_an_odd_number_of_pairs_is_that_number(market):
    assert [len(open_dataset(market, split)) for split in ("train", "test")] == [5, 3]


@pytest.mark.parametrize("prefix", ["fasion", "fashion"])
@pytest.mark.parametrize("middle", ["-resize-", "-"])
def test_both_spellings_with_and_without_resize(fashion, tree, prefix, middle):
    for what in ("pairs", "annotation"):
        (tree / f"fasion-resize-{what}-train.csv").rename(tree / f"{prefix}{middle}{what}-train.csv")
    assert_same(open_dataset(tree, "train"), open_dataset(fashion, "train"))


def test_of_two_annotations_the_resize_one_is_taken(tree):
    shutil.copy(tree / ANNOTATIONS, tree / "fashion-annotation-train.csv")
    assert open_dataset(tree, "train").files.annotations == tree / ANNOTATIONS


@pytest.mark.parametrize("name", ["fasion-resize-annotation-train.csv", "fasion-annotation-train.csv"])
def test_pictures_of_750x1101_take_the_keypoints_of_the_256x176_frame(fashion, tree, name):
    (tree / ANNOTATIONS).rename(tree / name)
    each_picture(tree / "train", lambda image: np.array(Image.fromarray(image).resize((750, 1101), 3)))
    for pair, expected in zip(open_dataset(tree, "train"), open_dataset(fashion, "train"), strict=True):
        assert np.abs(pair.source_image.astype(float) - expected.source_image).mean() < 6
        np.testing.assert_array_equal(pair.source_keypoints, expected.source_keypoints)


def padded(image):
    return np.pad(image, ((0, 0), (40, 40), (0, 0)), constant_values=255)


def test_pictures_of_256x256_are_cut_and_their_keypoints_moved(fashion, tree):
    """PISE: pictures and keypoints of the 256-wide frame, in a csv without -resize-."""
    each_picture(tree / "train", padded)
    annotations, _ = read_annotations(tree / ANNOTATIONS)
    (tree / ANNOTATIONS).unlink()
    lines = ["name:keypoints_y:keypoints_x"]
    for name in annotations.names:
        xs, ys = annotations[name].astype(int).T.tolist()
        lines.append(f"{name}: {ys}: {[x if x == -1 else x + 40 for x in xs]}")
    (tree / "fasion-annotation-train.csv").write_text("\n".join(lines))
    for pair, expected in zip(open_dataset(tree, "train"), open_dataset(fashion, "train"), strict=True):
        assert np.abs(pair.source_image.astype(float) - expected.source_image).mean() < 3
        np.testing.assert_array_equal(pair.source_keypoints, expected.source_keypoints)


def test_keypoints_of_the_other_frame_are_refused_until_they_are_declared(fashion, tree):
    """256x256 pictures with a 176-wide csv that does not say so."""
    each_picture(tree / "train", padded)
    (tree / ANNOTATIONS).rename(tree / "fasion-annotation-train.csv")
    with pytest.raises(DataError, match="176-wide one: pass --keypoint-frame 256x176"):
        open_dataset(tree, "train")
    pair = open_dataset(tree, "train", keypoint_frame=(256, 176))[0]
    np.testing.assert_array_equal(pair.source_keypoints, open_dataset(fashion, "train")[0].source_keypoints)


@pytest.fixture
def nted(fashion, tmp_path):
    """Target first, several sources a line, pose files of the 256-wide frame, folders as published."""
    expected = open_dataset(fashion, "train")
    lines = []
    for (source, target), pair in zip(expected.names, expected, strict=True):
        paths = []
        for name, image, keypoints in (
            (target, pair.target_image, pair.target_keypoints),
            (source, pair.source_image, pair.source_keypoints),
        ):
            view = name.split("_")[1].removesuffix(".jpg")
            folder = f"WOMEN/Dresses/id_{name.split('id')[1][:8]}"
            path = f"{folder}/01_{view[0]}_{view[1:]}"
            for kind in ("img", "pose"):
                (tmp_path / kind / folder).mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / "img" / f"{path}.jpg", padded(image))
            np.savetxt(
                tmp_path / "pose" / f"{path}.txt", frame_keypoints(keypoints, (256, 176), (256, 256)), "%g"
            )
            paths.append(f"img/{path}.jpg")
        lines.append(paths)
    joined = [[*lines[0], lines[2][1]], *lines[1:]]
    (tmp_path / "train_pairs.txt").write_text("\n".join(map(",".join, joined)))
    return tmp_path, lines


def test_nteds_lists_and_pose_files(fashion, nted):
    root, lines = nted
    dataset, expected = open_dataset(root, "train"), open_dataset(fashion, "train")
    assert dataset.names[:2] == [tuple(lines[0][::-1]), (lines[2][1], lines[0][0])]
    assert len(dataset) == 17
    for index, wanted in ((0, 0), (5, 4)):
        for name in ("source_keypoints", "target_keypoints"):
            np.testing.assert_array_equal(getattr(dataset[index], name), getattr(expected[wanted], name))
        assert np.abs(dataset[index].target_image.astype(float) - expected[wanted].target_image).mean() < 3


def test_nteds_faults_are_found(nted):
    root, lines = nted
    assert set(check(root, ["train"]).by_kind()) == {"mixed_identities"}  # the line with two sources
    first, second = (root / name.replace("img/", "pose/").replace(".jpg", ".txt") for name in lines[0])
    first.unlink()
    second.write_text("1 2\n")
    found = check(root, ["train"]).by_kind()
    assert set(found) == {"mixed_identities", "unannotated", "bad_row"}
    assert found["bad_row"][0].file == str(second)
    with pytest.raises(DataError, match=r"line 1: img/WOMEN/.* has no keypoints"):
        open_dataset(root, "train")


@pytest.mark.parametrize("masks", MAPS)
@pytest.mark.parametrize("layout", ["deepfashion", "market"])
def test_garment_masks_of_every_preset(layout, masks, tmp_path):
    folder = write_tree(tmp_path / "tree", layout, train=4, test=2, masks=masks)
    dataset = open_dataset(tmp_path / "tree", "train", masks=folder, parsing=masks)
    people = SyntheticPeople(*dataset.size)
    for index in (0, 2):
        np.testing.assert_array_equal(dataset[index].garment_mask, people[index // 2].garment_mask)


def test_another_size_is_given_when_asked_for(fashion):
    dataset = open_dataset(fashion, "train", size=(128, 88))
    np.testing.assert_allclose(
        dataset[0].source_keypoints,
        frame_keypoints(open_dataset(fashion, "train")[0].source_keypoints, (256, 176), (128, 88)),
    )
    assert dataset[0].source_image.shape == (128, 88, 3)


def test_pictures_are_read_when_asked_for_and_once(fashion, monkeypatch):
    read = []
    monkeypatch.setattr(module, "read_image", lambda path: read.append(path.name) or read_image(path))
    dataset = open_dataset(fashion, "train")
    assert len(read) == 1  # for the size of all
    _ = dataset[0], dataset[1], dataset[0]
    assert sorted(read[1:]) == sorted(dataset.names[0])


def test_what_is_kept_is_bounded(fashion):
    picture_mib = 4 * 256 * 176 / 2**20
    dataset = open_dataset(fashion, "train", cache_mib=3 * picture_mib)
    assert len([*dataset]) == 16
    assert dataset._picture.cache_info().currsize == 3
    assert len([*open_dataset(fashion, "train", cache_mib=0)]) == 16


def test_pictures_that_are_given_again_cannot_be_written_to(fashion):
    with pytest.raises(ValueError, match="read-only"):
        open_dataset(fashion, "train")[0].source_image[:] = 0


def test_a_worker_gets_the_set_without_what_is_kept(fashion):
    dataset = open_dataset(fashion, "train")
    before = len(pickle.dumps(dataset))
    copy = pickle.loads(pickle.dumps((dataset, [*dataset])[0]))
    assert len(pickle.dumps(dataset)) == before
    assert_same(copy, [*dataset])


def test_an_index_outside_ends_the_sequence(fashion):
    with pytest.raises(IndexError):
        open_dataset(fashion, "train")[16]


def rewrite(path, change):
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda t: (t / PAIRS).unlink(),
            "has no fasion-resize-pairs-train.csv; the deepfashion layout needs",
        ),
        (lambda t: rewrite(t / PAIRS, lambda x: [*x, "nobody.jpg,else.jpg"]), "nobody.jpg is not there"),
        (lambda t: rewrite(t / ANNOTATIONS, lambda x: x[:-1]), "line 16: .* has no keypoints"),
        (lambda t: rewrite(t / ANNOTATIONS, lambda x: [s.replace(":", ",") for s in x]), "expected name:"),
        (lambda t: rewrite(t / ANNOTATIONS, lambda x: [*x, "a: [1]: [2]"]), "1 keypoints, expected 18"),
        (lambda t: rewrite(t / PAIRS, lambda x: x[:1]), "it has no pairs"),
        (lambda t: (t / PAIRS).write_text(""), "it is empty"),
        (lambda t: (t / ANNOTATIONS).write_text(""), "expected name:keypoints_y:keypoints_x, got ''"),
    ],
)
def test_a_broken_tree_is_refused_when_it_is_opened(tree, break_it, said):
    break_it(tree)
    with pytest.raises(DataError, match=said):
        open_dataset(tree, "train")


def blank(lines, count):
    """All joints of the first rows missing."""
    missing = f": {[-1] * 18}: {[-1] * 18}"
    return [lines[0], *(line.split(":")[0] + missing for line in lines[1 : count + 1]), *lines[count + 1 :]]


def test_some_people_without_a_joint_are_said_and_most_are_refused(tree):
    rewrite(tree / ANNOTATIONS, lambda lines: blank(lines, 2))
    with pytest.warns(PosewarpWarning, match="2 of 16 pictures have no keypoint"):
        open_dataset(tree, "train")
    rewrite(tree / ANNOTATIONS, lambda lines: blank(lines, 16))
    with pytest.raises(DataError, match="16 of 16 pictures have no keypoint"):
        open_dataset(tree, "train")


def test_duplicated_rows_do_not_stop_a_run(tree):
    rewrite(tree / PAIRS, lambda lines: [*lines, lines[1]])
    rewrite(tree / ANNOTATIONS, lambda lines: [*lines, lines[1]])
    assert len(open_dataset(tree, "train")) == 17


def test_a_picture_of_another_size_is_named(tree):
    dataset = open_dataset(tree, "train")
    write_image(tree / "train" / dataset.names[4][0], np.zeros((256, 256, 3), np.uint8))
    with pytest.raises(DataError, match=r"_1front.jpg is 256x256 \(height x width\), the others are 256x176"):
        dataset[4]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "val"}, "unknown split 'val'"),
        ({"layout": "celeba"}, "unknown layout 'celeba'"),
        ({"layout": "market"}, "no market-pairs-train.csv, no market-annotation-train.csv"),
        ({"masks": "nowhere"}, "nowhere, the folder of parsing maps, is not there"),
        ({"masks": ".", "parsing": "cihp"}, "unknown parsing 'cihp'; use adgan8"),
    ],
)
def test_wrong_settings_are_refused(fashion, options, said):
    with pytest.raises(DataError, match=said):
        open_dataset(fashion, **{"split": "train", **options})


def test_reading_and_checking_need_neither_torch_nor_opencv():
    code = (
        "import sys, posewarp.models.data.check, posewarp.models.data.pairs\n"
        "assert not {'torch', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
