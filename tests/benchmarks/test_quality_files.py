"""Files that quality.py reads: who belongs to whom by name, and what is damaged is one line."""

from __future__ import annotations

import numpy as np
import pytest

from posewarp.benchmarks.scoring.folders import Pictures, generated_path, split_name
from posewarp.benchmarks.scoring.inception import Statistics
from posewarp.runtime.errors import DataError


def pictures(folder, *names):
    for name in names:
        (folder / name).touch()  # names alone are read
    return Pictures(folder)


def test_names_of_results_are_read_in_every_spelling(tmp_path):
    truths = pictures(tmp_path, "b_2side.jpg", "c.jpg")
    assert split_name("a_1front_2_b_2side_vis", truths) == ("a_1front", "b_2side")
    assert split_name("a.jpg___c.jpg_vis", truths) == ("a", "c")
    assert split_name("c", truths) == (None, "c")
    with pytest.raises(DataError, match=r"no ground truth for x_2_y_vis"):
        split_name("x_2_y_vis", truths)


@pytest.mark.parametrize(
    "name", ["a_2_b_vis.png", "a___b_vis.jpg", "a.jpg___b.jpg_vis.jpg", "a.png_2_b_vis.png", "a___b.jpg.png"]
)
def test_the_picture_of_a_pair_is_found_in_every_spelling(tmp_path, name):
    found = pictures(tmp_path, name, "b___a_vis.png", "a___bb_vis.png")
    assert generated_path(found, ("a", "b")) == tmp_path / name
    with pytest.raises(DataError, match=r"has no a_{3}c_vis and no a_2_c_vis; nothing was measured"):
        generated_path(found, ("a", "c"))


@pytest.mark.parametrize("damage", ["cut short", "flipped", "an array", "text", "empty", "without sigma"])
def test_damaged_statistics_are_one_line(tmp_path, damage):
    path = tmp_path / "statistics.npz"
    Statistics(np.zeros(2048), np.eye(2048), {"count": 4}).save(path)
    whole = path.read_bytes()
    if damage == "an array":
        np.save(tmp_path / "array.npy", np.zeros(3))
        whole = (tmp_path / "array.npy").read_bytes()
    elif damage == "without sigma":
        np.savez(path, mu=np.zeros(2048))
        whole = path.read_bytes()
    path.write_bytes(
        {
            "cut short": whole[: len(whole) // 2],
            "flipped": whole[:5000] + b"\xff" * 8 + whole[5008:],
            "text": b"<html>",
            "empty": b"",
        }.get(damage, whole)
    )
    with pytest.raises(
        DataError, match=r"statistics\.npz holds no statistics \(.*expected mu and sigma"
    ) as error:
        Statistics.load(path)
    assert "\n" not in str(error.value)
