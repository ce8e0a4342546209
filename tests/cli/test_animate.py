"""``posewarp animate``: its frames are those of ``posewarp transfer``, and nothing half is ever left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from tests.cli.conftest import HEIGHT, WIDTH, read, transfer_arguments


@pytest.fixture
def poses(files, tmp_path):
    """Four poses of a person who steps to the right; a JSONL file."""
    target = np.array(json.loads(files["target_keypoints"].read_text()))
    frames = [np.where(target < 0, -1, target + np.array([step, 0])).tolist() for step in range(4)]
    path = tmp_path / "poses.jsonl"
    path.write_text("".join(json.dumps(frame) + "\n" for frame in frames))
    return path


def arguments(model, files, poses, output):
    return [
        "animate",
        model,
        *("--source", files["image"], "--source-keypoints", files["source_keypoints"]),
        *("--poses", poses, "-o", output),
    ]


@pytest.mark.parametrize("size", ["network", "source"])
def test_a_frame_is_the_file_that_transfer_writes(posewarp, model, files, poses, tmp_path, size):
    code, out, err = posewarp(*arguments(model, files, poses, tmp_path / "frames"), "--size", size)
    assert (code, err) == (0, "")
    assert out == f"wrote {tmp_path / 'frames'}: 4 frames\n"
    for number, line in enumerate(poses.read_text().splitlines(), 1):
        files["target_keypoints"].write_text(line)
        output = tmp_path / "one.png"
        assert posewarp(*transfer_arguments(model, files, output), "--size", size)[0] == 0
        frame = tmp_path / "frames" / f"{number:06}.png"
        assert frame.read_bytes() == output.read_bytes()
    assert not np.array_equal(read(tmp_path / "frames" / "000001.png"), read(frame))


def test_two_parts_give_the_frames_of_the_whole(posewarp, model, parts, files, poses, tmp_path):
    for path, name in ((model, "whole"), (parts, "parts")):
        code, _, err = posewarp(*arguments(path, files, poses, tmp_path / name))
        assert (code, err) == (0, "")
    for file in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "parts" / file.name).read_bytes() == file.read_bytes()


def test_larger_batches_differ_by_no_more_than_rounding(posewarp, model, files, poses, tmp_path):
    for name, batch_size in (("one", 1), ("three", 3)):
        code, *_ = posewarp(*arguments(model, files, poses, tmp_path / name), "--batch-size", batch_size)
        assert code == 0
    for file in sorted((tmp_path / "one").iterdir()):
        difference = read(file).astype(int) - read(tmp_path / "three" / file.name)
        assert np.abs(difference).max() <= 1


def test_a_folder_of_poses_becomes_a_video_of_its_length_size_and_rate(
    posewarp, model, files, poses, tmp_path
):
    (tmp_path / "folder").mkdir()
    for number, line in enumerate(poses.read_text().splitlines(), 8):
        (tmp_path / "folder" / f"{number}.json").write_text(line)
    output = tmp_path / "out.mp4"
    code, _, err = posewarp(
        *arguments(model, files, tmp_path / "folder", output), "--fps", 12.5, "--size", "source"
    )
    assert (code, err) == (0, "")
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, stream.average_rate, stream.frames) == (96, 80, 12.5, 4)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 4
    # The last of the poses, 11.json; as text it would come second.
    files["target_keypoints"].write_text(poses.read_text().splitlines()[-1])
    assert posewarp(*transfer_arguments(model, files, tmp_path / "one.png"), "--size", "source")[0] == 0
    distances = [np.abs(frame.astype(int) - read(tmp_path / "one.png")).mean() for frame in decoded]
    assert np.argmin(distances) == 3


def test_each_side_has_an_order_of_its_own(posewarp, model, files, poses, tmp_path):
    coco = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]  # of each of COCO's 17, ours
    rows = [np.array(json.loads(line))[coco].tolist() for line in poses.read_text().splitlines()]
    poses.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = posewarp(*arguments(model, files, poses, tmp_path / "a"))
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"DataError: {poses}, line 1 has 17 keypoints")
    code, _, err = posewarp(
        *arguments(model, files, poses, tmp_path / "a"),
        *("--source-order", "openpose-18", "--target-order", "coco-17"),
    )
    assert (code, err) == (0, "")


@pytest.mark.parametrize("output", ["out.mp4", "frames"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"people": []}', "line 3 has no visible keypoint"),
        ("[[1, 2]]", "line 3 has 1 keypoints"),
        (json.dumps([[900, 900]] * 18), "line 3: 18 of 18 keypoints lie outside"),
    ],
)
def test_a_bad_frame_in_the_middle_is_one_line_and_leaves_nothing(
    posewarp, model, files, poses, tmp_path, output, line, message
):
    lines = poses.read_text().splitlines()
    poses.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    before = sorted(tmp_path.iterdir())
    code, out, err = posewarp(*arguments(model, files, poses, tmp_path / output))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"DataError: {poses}, {message}")
    assert sorted(tmp_path.iterdir()) == before


def test_empty_frames_are_skipped_when_asked_for(posewarp, model, files, poses, tmp_path):
    poses.write_text('{"people": []}\n' + poses.read_text() + "[]\n")
    code, out, err = posewarp(*arguments(model, files, poses, tmp_path / "frames"), "--skip-empty")
    assert (code, err) == (0, "")
    assert "4 frames, 2 poses without a visible keypoint left out" in out
    assert len(list((tmp_path / "frames").iterdir())) == 4
    poses.write_text("[]\n")
    code, _, err = posewarp(*arguments(model, files, poses, tmp_path / "none"), "--skip-empty")
    assert (code, err) == (1, f"DataError: none of the 1 poses of {poses} has a visible keypoint\n")


def test_of_many_warnings_the_first_is_shown_and_the_rest_counted(posewarp, model, files, poses, tmp_path):
    frames = [json.loads(line) for line in poses.read_text().splitlines()]
    for frame in frames:
        frame[4] = [500, 500]
    poses.write_text("".join(json.dumps(frame) + "\n" for frame in frames))
    code, _, err = posewarp(*arguments(model, files, poses, tmp_path / "frames"))
    assert code == 0
    first, last = err.splitlines()
    assert first.startswith(f"warning: {poses}, line 1: right_wrist (500, 500) outside")
    assert last == "warning: 3 more warnings, not shown"


def test_progress_shows_the_total_on_a_terminal(posewarp, model, files, poses, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    poses.write_text("[]\n" + poses.read_text())
    code, _, err = posewarp(*arguments(model, files, poses, tmp_path / "frames"), "--skip-empty")
    assert code == 0
    assert "frames" in err
    assert "5/5" in err


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ("--batch-size=0", 2, "--batch-size"),
        ("--size=big", 2, "--size"),
        ("--target-frame=9", 2, "--target-frame"),
        ("--fps=0", 1, "ContractError: fps is 0.0"),
        ("--poses=absent", 1, "DataError: absent cannot be read"),
        ("--source=absent.png", 1, "DataError: absent.png cannot be read"),
        ("--output=out.gif", 1, "DataError: out.gif: cannot write a video as .gif"),
    ],
)
def test_options_are_checked(posewarp, model, files, poses, tmp_path, option, code, message):
    before = sorted(tmp_path.iterdir())
    got, _, err = posewarp(*arguments(model, files, poses, tmp_path / "frames"), option)
    assert got == code
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
@pytest.mark.parametrize(
    ("output", "sent", "code"), [("out.mp4", signal.SIGINT, 130), ("frames", signal.SIGTERM, 143)]
)
def test_an_interrupted_run_leaves_nothing(model, files, poses, tmp_path, output, sent, code):
    """The poses come by a pipe that stays open, so that the run is in the middle when the signal comes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = sorted(tmp_path.iterdir())
    # In a background job of a shell SIGINT may be ignored, and Python then leaves it so.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from posewarp.cli.main import main; main()"
    )
    command = [sys.executable, "-c", start, *map(str, arguments(model, files, pipe, tmp_path / output))]
    feed = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # A pipe holds 64 KiB: once 96 have gone in, frames have been made of the first.
        left = poses.read_bytes() * (96 * 1024 // poses.stat().st_size + 1)
        while left:
            try:
                left = left[os.write(feed, left[:4096]) :]
            except BlockingIOError:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
        assert len(list(tmp_path.iterdir())) == len(before) + 1
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    os.close(feed)
    assert (process.returncode, out, err) == (code, b"", b"")
    assert sorted(tmp_path.iterdir()) == before


def test_the_frames_have_the_networks_size(posewarp, model, files, poses, tmp_path):
    assert posewarp(*arguments(model, files, poses, tmp_path / "frames"))[0] == 0
    assert read(tmp_path / "frames" / "000004.png").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", ["transfer", "animate"])
@pytest.mark.parametrize(("options", "device"), [((), None), (("--device", "auto"), "auto")])
def test_device_is_left_to_the_session_unless_given(
    posewarp, model, files, poses, tmp_path, monkeypatch, name, options, device
):
    """A plan runs on CUDA unless told otherwise, an ONNX file on the CPU."""
    asked = []

    def refuse(path, *, device, threads, extra_outputs):
        asked.append(device)
        raise SystemExit(7)

    monkeypatch.setattr("posewarp.runtime.session.Session.open", refuse)
    given = (
        transfer_arguments(model, files, tmp_path / "out.png")
        if name == "transfer"
        else arguments(model, files, poses, tmp_path / "out.mp4")
    )
    assert posewarp(*given, *options)[0] == 7
    assert asked == [device]
