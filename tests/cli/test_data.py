"""``posewarp data``, as a shell sees it."""

import json

import pytest


@pytest.fixture
def tree(posewarp, tmp_path):
    code, out, err = posewarp(
        "data", "synthetic", "--layout", "market", "-o", tmp_path / "tree", "--train", 4, "--test", 2,
        "--masks", "cihp20",
    )  # fmt: skip
    assert (code, err.strip()) == (0, "")
    assert out.startswith("wrote 4 and 2 pairs")
    return tmp_path / "tree"


def test_a_whole_tree_passes(posewarp, tree):
    code, out, _ = posewarp("data", "check", tree, "--masks", tree / "CIHP", "--parsing", "cihp20")
    assert code == 0
    assert "market, train: 4 pairs, 4 annotations, 4 pictures, 2 identities" in out
    assert "no fault of 30 kinds" in out


def test_parsing_without_masks_is_refused(posewarp, tree):
    code, _, err = posewarp("data", "check", tree, "--parsing", "cihp20")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("ContractError: --parsing cihp20 says what the maps of --masks mean")


def test_faults_are_listed_counted_written_and_exit_with_1(posewarp, tree, tmp_path):
    pictures = sorted((tree / "train").iterdir())
    for path in pictures:
        path.write_bytes(b"")
    (tree / "test.lst").write_text("nobody.jpg\n")
    code, out, _ = posewarp("data", "check", tree, "--json", tmp_path / "faults.json")
    assert code == 1
    assert "empty_picture: 4 (a picture has no bytes)" in out
    assert str(pictures[2]) in out
    assert str(pictures[3]) not in out
    assert "  and 1 more" in out
    written = json.loads((tmp_path / "faults.json").read_text())
    assert written["fault_counts"] == {"list_mismatch": 3, "empty_picture": 4}
    assert [fault["file"] for fault in written["faults"]["empty_picture"]] == list(map(str, pictures))
    assert written["splits"]["train"]["pairs"] == 4


def test_one_split_is_checked_alone(posewarp, tree):
    (tree / "market-pairs-test.csv").unlink()
    assert posewarp("data", "check", tree, "--split", "train")[0] == 0
    code, out, _ = posewarp("data", "check", tree)
    assert code == 1
    assert "missing_file: 1" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "nowhere"), "DataError: nowhere cannot be listed: No such file or directory"),
        (("synthetic", "-o", "."), "DataError: . is there already"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(posewarp, arguments, said):
    code, _, err = posewarp("data", *arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert said in err


@pytest.mark.parametrize(
    "arguments", [("check", ".", "--keypoint-frame", "256"), ("synthetic", "-o", "new", "--size", "0x4")]
)
def test_what_is_no_size_is_misuse(posewarp, arguments):
    code, _, err = posewarp("data", *arguments)
    assert code == 2
    assert f"{arguments[-2]} is '{arguments[-1]}'" in " ".join(err.split())


def test_one_fault_is_not_counted_in_the_plural(posewarp, tree):
    next((tree / "train").iterdir()).write_bytes(b"")
    assert posewarp("data", "check", tree)[1].endswith("1 fault of 1 kind\n")
