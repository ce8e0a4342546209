"""Which parsing map belongs to a picture, and what of it is garment."""

import numpy as np
import pytest
from PIL import Image

from posewarp.models.data.masks import PARSINGS, Masks, read_labels, to_parsing
from posewarp.runtime.errors import DataError

NAME = "fashionWOMENTees_Tanksid0000762403_1front.jpg"


def save(path, labels, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.asarray(labels, np.uint8)
    if path.suffix == ".npy":
        np.save(path, labels)
    else:
        picture = Image.fromarray(labels)
        if mode == "P":
            picture = picture.copy()
            picture.putpalette(list(range(255, -1, -1)) * 3)  # colours say nothing about labels
        picture.save(path)


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("WOMEN/Tees_Tanks/id_00007624/03_1_front.npy", NAME),
        ("WOMEN/Tees_Tanks/id_00007624/03_1_front.png", NAME),
        ("WOMEN/TeesTanks/id_00007624/03_1_front.npy", NAME),
        ("fashionWOMENTees_Tanksid0000762403_1front.png", NAME),
        ("trainSPL8/fashionWOMENTees_Tanksid0000762403_1front.png", NAME),
        ("fashionWOMENTeesTanksid0000762403_1front.png", NAME),
        ("MEN/Pants/id_00000001/01_2_side.npy", "img/MEN/Pants/id_00000001/01_2_side.jpg"),
        ("CIHP/0002_c1s1_000451_03.png", "0002_c1s1_000451_03.jpg"),
    ],
)
def test_the_map_of_a_picture_is_found(tmp_path, where, name):
    save(tmp_path / where, [[5, 0], [4, 3]])
    save(tmp_path / "WOMEN/Dresses/id_00000009/01_1_front.npy", [[0, 0], [0, 0]])
    masks = Masks(tmp_path, "adgan8")
    assert masks.path(name) == tmp_path / where
    np.testing.assert_array_equal(masks.garment(name, (2, 2), [(2, 2)]), [[True, False], [False, True]])


def test_men_are_not_women(tmp_path):
    save(tmp_path / "MEN/Shorts/id_00000001/01_1_front.npy", [[5]])
    assert Masks(tmp_path).path("fashionWOMENShortsid0000000101_1front.jpg") is None


@pytest.mark.parametrize(
    ("parsing", "garments"),
    [
        ("adgan8", {1, 3, 5}),
        ("casd8", {1, 3, 5}),
        ("pise8", {3, 4, 5}),
        ("cihp20", {5, 6, 7, 9, 11, 12}),
        ("lip20", {5, 6, 7, 9, 10, 11, 12}),
        ("3,4", {3, 4}),
        ({0: False, 7: True, 9: True}, {7, 9}),
    ],
)
def test_garment_labels(tmp_path, parsing, garments):
    known = to_parsing(parsing)
    assert known.garments == garments
    save(tmp_path / "a.png", np.array(sorted(known.labels))[None], mode="P")
    mask = Masks(tmp_path, parsing).is_garment(read_labels(tmp_path / "a.png"))
    np.testing.assert_array_equal(mask[0], [label in garments for label in sorted(known.labels)])


def test_a_label_that_the_parsing_does_not_know_is_refused(tmp_path):
    save(tmp_path / "a.png", [[3, 12]])
    with pytest.raises(DataError, match=r"a.png has the labels \[12\]"):
        Masks(tmp_path, "adgan8").garment("a.jpg", (1, 2), [(1, 2)])
    assert Masks(tmp_path, "cihp20").garment("a.jpg", (1, 2), [(1, 2)]).tolist() == [[False, True]]


def test_two_maps_of_one_picture_are_refused(tmp_path):
    save(tmp_path / "x" / "a.png", [[1]])
    save(tmp_path / "y" / "a.png", [[1]])
    with pytest.raises(DataError, match="are maps of one picture"):
        Masks(tmp_path)


def test_a_map_of_another_frame_is_refused(tmp_path):
    save(tmp_path / "a.png", np.ones((20, 30)))
    masks = Masks(tmp_path)
    assert masks.garment("a.jpg", (2, 3), [(2, 3)]).all()
    with pytest.raises(DataError, match=r"a\.png is 20x30 \(height x width\), another frame"):
        masks.garment("a.jpg", (2, 3), [(3, 2), (256, 256)])


def test_a_missing_map_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has no parsing map of a\.jpg"):
        Masks(tmp_path).garment("a.jpg", (2, 2), [(2, 2)])


def write_pickle(path):
    np.save(path, np.array([{"a": 1}], object))


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.npy", write_pickle, "no parsing map: it is no .npy of plain numbers, or damaged"),
        ("a.npy", lambda path: np.save(path, np.zeros((2, 2, 3))), r"float64 \(2, 2, 3\), expected labels"),
        ("a.npy", lambda path: np.save(path, np.array([[-1]])), "expected labels from 0 to 255"),
        ("a.npy", lambda path: np.save(path, np.array([[0.5]])), "expected labels from 0 to 255"),
        ("a.png", lambda path: Image.new("RGB", (2, 2)).save(path), "mode RGB, expected one label a pixel"),
        ("a.png", lambda path: path.write_text("<html>"), "no parsing map: UnidentifiedImageError"),
        ("a.png", lambda path: None, "no parsing map: FileNotFoundError"),
    ],
)
def test_what_is_no_map_is_refused(tmp_path, name, write, said):
    write(tmp_path / name)
    with pytest.raises(DataError, match=said):
        read_labels(tmp_path / name)


def test_presets_are_subsets_of_their_labels():
    assert all(parsing.garments < parsing.labels for parsing in PARSINGS.values())
