"""``posewarp train``: data sets on disk, the paper's budget, and what it refuses in one line."""

from __future__ import annotations

import json

import pytest

from posewarp.models import checkpoint

SMALL = ("--height", 64, "--width", 32, "--batch-size", 2, "--workers", 0)


@pytest.fixture
def tree(posewarp, tmp_path):
    """Synthetic people in the layout of DeepFashion, with parsing maps."""
    folder = tmp_path / "tree"
    options = ("--layout", "deepfashion", "--train", 6, "--test", 4, "--masks", "pise8")
    assert posewarp("data", "synthetic", *options, "-o", folder)[0] == 0
    return folder


def test_a_data_set_on_disk_is_trained_on_and_named_in_the_checkpoint(posewarp, tree, tmp_path):
    (masks,) = (path for path in tree.iterdir() if path.is_dir() and path.name not in ("train", "test"))
    run = tmp_path / "run"
    options = ("--data", tree, "--masks", masks, "--parsing", "pise8", "--steps", 2, *SMALL)
    code, out, err = posewarp("train", "-o", run, *options)
    assert code == 0, err
    assert "training 2 steps on 6 pairs" in out
    metadata = checkpoint.load(run / "generator.safetensors").metadata
    assert json.loads(metadata["data"]) == {
        "root": str(tree),
        "layout": "deepfashion",
        "masks": str(masks),
        "parsing": "pise8",
        "keypoint_frame": [256, 176],
        "train_pairs": 6,
        "test_pairs": 4,
    }
    assert metadata["pairs"] == "6"


def test_steps_left_out_are_the_papers_and_said_so(posewarp, tmp_path):
    options = ("--pairs", 100, "--epoch-pairs", 10, "--stop-after", 1, *SMALL)
    code, out, _ = posewarp("train", "-o", tmp_path, *options)
    assert code == 0
    # sqrt(100) + 600 epochs of 10 pairs, 2 a step.
    assert "training 3050 steps on 100 pairs" in out
    assert "that is the paper's budget; --steps fits its schedule into another one" in out
    assert "stopped at step 1 of 3050" in out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--data", "nowhere"), "DataError: nowhere cannot be listed"),
        (("--layout", "market"), "ContractError: --layout belongs to a data set, but there is no --data"),
        (("--masks", "maps"), "ContractError: --masks belongs to a data set, but there is no --data"),
        (("--parsing", "lip20"), "ContractError: --parsing belongs to a data set, but there is no --data"),
        (
            ("--data", ".", "--parsing", "lip20"),
            "ContractError: --parsing lip20 says what the maps of --masks mean",
        ),
        (("--data", ".", "--pairs", 4), "ContractError: --pairs is the number of synthetic pairs"),
        (
            ("--strict-paper",),
            "ContractError: strict_paper trains with eq. 5 and 6, which need VGG19's weights",
        ),
        (("--vgg", "vgg19.pth"), "CheckpointError: VGG19's weights are not at vgg19.pth"),
        (("--precision", "fp16"), "ContractError: precision is fp16 on the CPU"),
        (("--height", 30), "ContractError: height is 30"),
        (("--device", "gpu"), "BackendError: --device gpu is not one that torch knows"),
        (("--style-weight", "-1"), "ContractError: style_weight is -1.0"),
        (("--init-from", "other.pt"), "CheckpointError: other.pt"),
        (("--init-from", "garbage"), "CheckpointError: garbage"),
        (("--vgg", "garbage"), "CheckpointError: "),
        (("--perceptual-weight", 0.5), "ContractError: --perceptual-weight 0.5 needs VGG19's weights"),
        (("--style-weight", 100), "ContractError: --style-weight 100 needs VGG19's weights"),
    ],
)
def test_what_cannot_be_trained_is_one_line(posewarp, tmp_path, monkeypatch, options, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage").write_text("<html>")
    code, out, err = posewarp("train", "-o", "run", "--steps", 2, "--workers", 0, *options)
    assert code == 1
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert not out
    assert not (tmp_path / "run").exists()


def test_a_file_in_place_of_the_folder_is_named(posewarp, tmp_path):
    (tmp_path / "run").write_text("")
    code, _, err = posewarp("train", "-o", tmp_path / "run", "--steps", 2, *SMALL)
    assert code == 1
    assert err == f"DataError: {tmp_path / 'run'} cannot be made: Not a directory\n"


def test_a_finished_run_is_left_untouched_and_said_so(posewarp, tmp_path):
    options = ("train", "-o", tmp_path, "--steps", 2, "--pairs", 4, *SMALL)
    assert posewarp(*options)[0] == 0
    before = (tmp_path / "generator.safetensors").stat().st_mtime_ns
    code, out, _ = posewarp(*options)
    assert code == 0
    assert out.startswith(f"already finished: {tmp_path / 'generator.safetensors'} is of step 2")
    assert (tmp_path / "generator.safetensors").stat().st_mtime_ns == before


def test_a_negative_seed_is_misuse(posewarp, tmp_path):
    for command in (("train", "--steps", 2), ("data", "synthetic")):
        code, _, err = posewarp(*command, "-o", tmp_path / "new", "--seed", -1)
        assert code == 2
        assert "--seed" in err
