"""Trees of synthetic people are there whole or not at all, and the same for the same seed."""

import pytest

from posewarp.models.data import tree
from posewarp.models.data.pairs import open_dataset
from posewarp.models.data.tree import write_tree
from posewarp.runtime.errors import DataError

SMALL = {"train": 3, "test": 2, "size": (64, 44)}


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_tree(tmp_path / name, "deepfashion", **SMALL, masks="pise8", seed=seed)
    first, second, third = (contents(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == third.keys()
    assert first != third


def test_files_bear_the_names_of_the_data_set(tmp_path):
    maps = write_tree(tmp_path / "a", "deepfashion", train=2, test=2, masks="adgan8")
    assert maps == tmp_path / "a" / "semantic_merge3"
    assert {name for name in contents(tmp_path / "a") if "id" not in name} == {
        f"{start}{split}{end}"
        for split in ("train", "test")
        for start, end in (
            ("", ".lst"),
            ("fasion-resize-pairs-", ".csv"),
            ("fasion-resize-annotation-", ".csv"),
        )
    }
    assert (tmp_path / "a" / "train" / "fashionWOMENDressesid0000000101_1front.jpg").is_file()
    assert (maps / "WOMEN" / "Dresses" / "id_00000001" / "01_1_front.npy").is_file()


def test_a_tree_of_another_size_does_not_claim_the_256x176_frame(tmp_path):
    write_tree(tmp_path / "a", "deepfashion", **SMALL)
    dataset = open_dataset(tmp_path / "a", "train", size=(64, 44))
    assert dataset.files.annotations.name == "fasion-annotation-train.csv"
    assert dataset.keypoint_frame == dataset.picture_size == (64, 44)


def test_after_a_failure_nothing_is_left(tmp_path, monkeypatch):
    written = []

    def write(path, image):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"")

    monkeypatch.setattr(tree, "write_image", write)
    with pytest.raises(DataError, match="a cannot be written: No space left on device"):
        write_tree(tmp_path / "a", "deepfashion", **SMALL)
    assert written[0].exists() is False
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_is_there_is_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="a is there already; name a new folder"):
        write_tree(tmp_path / "a", "deepfashion", **SMALL)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere/a cannot be written: No such file"):
        write_tree(tmp_path / "nowhere" / "a", "deepfashion", **SMALL)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layout": "celeba"}, "unknown layout 'celeba'"),
        ({"masks": "cihp"}, "unknown masks 'cihp'"),
        ({"test": 0}, "expected at least 1 of each split"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, options, said):
    with pytest.raises(DataError, match=said):
        write_tree(tmp_path / "a", **{"layout": "deepfashion", **SMALL, **options})
