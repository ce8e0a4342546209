"""Sequences of keypoints: in which order frames come, and what is said of those that cannot be used."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest

from posewarp.runtime.errors import DataError
from posewarp.runtime.poses import Poses

EMPTY = '{"people": []}'


def person(first: float) -> list[list[float]]:
    """18 points, of which the first's x tells them apart."""
    return [[first, 2.0]] + [[3.0, 4.0]] * 17


def jsonl(tmp_path, *lines: object):
    path = tmp_path / "poses.jsonl"
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in lines))
    return path


def firsts(poses: Poses) -> list[float]:
    return [keypoints[0, 0] for _, keypoints in poses]


def test_files_of_a_folder_come_in_natural_order(tmp_path):
    names = ["a", "a2", "a10", "b1_keypoints", "b01_keypoints", "b9_2", "b9_11", "b10_1"]
    ordered = ["a", "a2", "a10", "b01_keypoints", "b1_keypoints", "b9_2", "b9_11", "b10_1"]
    for index, name in enumerate(names):
        (tmp_path / f"{name}.json").write_text(json.dumps(person(index)))
    (tmp_path / "frame.png").touch()
    (tmp_path / ".hidden.json").touch()
    poses = Poses(tmp_path)
    assert poses.total == 8
    assert firsts(poses) == [names.index(name) for name in ordered]
    assert [name for name, _ in poses] == [str(tmp_path / f"{name}.json") for name in ordered]


def test_a_line_is_18_points_or_a_document_of_openpose(tmp_path):
    flat = [value for x, y in person(7) for value in (x, y, 0.5)]
    openpose = {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": flat}]}
    path = jsonl(tmp_path, person(5), openpose, {"keypoints": person(6)})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n").rstrip())
    poses = Poses(path)
    assert poses.total == 3
    assert firsts(poses) == [5, 7, 6]
    assert firsts(poses) == [5, 7, 6]  # a file can be read again


def test_order_holds_for_each_frame(tmp_path):
    coco = [[float(index + 1), 1.0] for index in range(17)]
    ((_, keypoints),) = Poses(jsonl(tmp_path, coco), order="coco-17")
    assert keypoints.shape == (18, 2)
    assert keypoints[4, 0] == 11  # the right wrist is number 10 in COCO
    with pytest.raises(DataError, match=r"line 1 has 17 keypoints.*--target-order coco-17"):
        list(Poses(jsonl(tmp_path, coco)))


@pytest.mark.parametrize("empty", [EMPTY, "[]", json.dumps([[-1, -1]] * 18), json.dumps([[4, 4, 0]] * 18)])
def test_a_frame_without_visible_keypoint_is_an_error_or_skipped(tmp_path, empty):
    path = jsonl(tmp_path, person(1), empty, person(3))
    with pytest.raises(DataError, match=r"poses\.jsonl, line 2 has no visible keypoint.*--skip-empty"):
        list(Poses(path))
    poses = Poses(path, skip_empty=True)
    assert firsts(poses) == [1, 3]
    assert (poses.total, poses.skipped) == (3, 1)


def test_an_empty_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "1.json").write_text(EMPTY)
    with pytest.raises(DataError, match=r"1\.json has no visible keypoint"):
        list(Poses(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (person(1)[:5], "has 5 keypoints, expected 18"),
        ('{"people": [', "is not valid JSON"),
        ("1 2 3", "is not JSON; expected 18 points"),
        ("", "is empty"),
        ("\udcff", "is not text"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_even_when_empty_ones_are_skipped(tmp_path, line, message):
    path = tmp_path / "poses.jsonl"
    line = line if isinstance(line, str) else json.dumps(line)
    path.write_bytes(f"{json.dumps(person(1))}\n{line}\n".encode(errors="surrogateescape"))
    frames = iter(Poses(path, skip_empty=True))
    assert next(frames)[0] == f"{path}, line 1"
    with pytest.raises(DataError, match=rf"poses\.jsonl, line 2 {message}"):
        next(frames)


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ({}, "absent.jsonl", "absent.jsonl cannot be read: No such file"),
        ({}, ".", "has no keypoints in it: no .json, .txt, .csv, .npy"),
        ({"empty.jsonl": ""}, "empty.jsonl", "has no keypoints in it$"),
        ({"1.json": "[]", "frames.txt": ""}, ".", r"several kinds \(.json, .txt\)"),
    ],
)
def test_a_sequence_that_is_not_there_is_refused_before_it_is_read(tmp_path, files, path, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        Poses(tmp_path / path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_a_pipe_is_read_as_it_comes_and_has_no_total(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    poses = Poses(tmp_path / "pipe")
    assert poses.total is None
    came = threading.Event()

    def feed():
        with open(tmp_path / "pipe", "w") as pipe:
            pipe.write(json.dumps(person(1)) + "\n")
            pipe.flush()
            assert came.wait(30)
            pipe.write(json.dumps(person(2)) + "\n")

    feeder = threading.Thread(target=feed)
    feeder.start()
    frames = iter(poses)
    assert next(frames)[1][0, 0] == 1  # before the second line is written
    came.set()
    assert next(frames)[1][0, 0] == 2
    assert np.array_equal(list(frames), [])
    feeder.join()
