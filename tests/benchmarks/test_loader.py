"""benchmarks/loader.py on a tree of a few synthetic people."""

import json

import pytest
from typer.testing import CliRunner

from posewarp.benchmarks.loader import app, measure
from posewarp.models.data.pairs import open_dataset
from posewarp.models.data.tree import write_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tree"
    write_tree(root, "market", train=4, test=2, size=(32, 16))
    return root


def test_each_round_gives_a_rate(tree):
    rates = measure(open_dataset(tree, "train"), workers=0, batch_size=2, pairs=6, rounds=3)
    assert len(rates) == 3
    assert min(rates) > 0


def test_the_command_says_and_writes_both_ways(tree, tmp_path):
    options = ["--workers", "0", "--pairs", "4", "--rounds", "2", "--size", "32x16"]
    result = CliRunner().invoke(app, [str(tree), *options, "--json", str(tmp_path / "loader.json")])
    assert result.exit_code == 0, result.output
    assert result.output.count("pairs/s at best") == 2
    written = json.loads((tmp_path / "loader.json").read_text())
    assert len(written["every_picture_decoded_pairs_per_s"]) == 2
    assert len(written["decoded_pictures_kept_pairs_per_s"]) == 2
    assert (written["pairs"], written["height"], written["width"]) == (4, 32, 16)
