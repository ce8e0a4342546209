"""Frames one by one: their pictures, how many are held at once, and the file or folder that they go to."""

from __future__ import annotations

import subprocess
import sys
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from posewarp.runtime.contract import Contract, TensorSpec
from posewarp.runtime.errors import BackendError, ContractError, DataError, PosewarpWarning
from posewarp.runtime.pipeline import PoseTransfer
from posewarp.runtime.video import animate, open_output

H, W = 32, 24


class CountingSession:
    """A stand-in for a session: half the picture, plus the target keypoints' mean; counts arrays that live."""

    path = "counting.onnx"

    def __init__(self, batch: int | str = "batch"):
        specs = {"source_image": (H, W, 3), "source_keypoints": (18, 2), "target_keypoints": (18, 2)}
        inputs = tuple(TensorSpec(name, "float32", (batch, *shape)) for name, shape in specs.items())
        self.contract = Contract(
            "image", inputs, (TensorSpec("generated", "uint8", (batch, H, W, 3)),), {"height": H, "width": W}
        )
        self.batches: list[int] = []
        self.frames = self.most_frames = 0

    def run(self, feeds):
        count = len(feeds["source_image"])
        self.batches.append(count)
        level = feeds["target_keypoints"].mean((1, 2))[:, None, None, None]
        generated = (feeds["source_image"] / 2 + level).round().clip(0, 255).astype(np.uint8)
        self.frames += count
        self.most_frames = max(self.most_frames, self.frames)
        weakref.finalize(generated, self._forget, count)
        return {"generated": generated}

    def _forget(self, count: int) -> None:
        self.frames -= count


@pytest.fixture
def scene(rng):
    """A picture twice the network's height, keypoints in it, and a function of poses that differ."""

    def poses(count: int):
        for index in range(count):
            yield f"pose {index}", np.where(keypoints < 0, -1, keypoints + index % 7 * 2).astype(np.float32)

    image = rng.integers(0, 256, (2 * H, 2 * W + 5, 3), dtype=np.uint8)
    keypoints = (rng.uniform(0.1, 0.7, (18, 2)) * (2 * W, 2 * H)).astype(np.float32)
    keypoints[3] = -1
    return image, keypoints, poses


@pytest.mark.parametrize("size", ["network", "source"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_frames_are_what_transfer_gives_for_each_pose(scene, size, batch_size):
    image, keypoints, poses = scene
    transfer = PoseTransfer(CountingSession())
    frames = list(animate(transfer, image, keypoints, poses(7), size=size, batch_size=batch_size))
    expected = [transfer(image, keypoints, target, size=size) for _, target in poses(7)]
    assert np.array_equal(frames, expected)
    assert len(np.unique([frame.sum() for frame in frames])) == 7


def test_target_frame_scales_the_poses(scene):
    image, keypoints, _ = scene
    twice = np.where(keypoints < 0, -1, 2 * keypoints + 0.5).astype(np.float32)
    transfer = PoseTransfer(CountingSession())
    (frame,) = animate(transfer, image, keypoints, [("a", twice)], target_frame=(4 * H, 4 * W + 10))
    assert np.abs(frame.astype(int) - transfer(image, keypoints, keypoints)).max() <= 1
    assert np.array_equal(frame, transfer(image, keypoints, twice, target_frame=(4 * H, 4 * W + 10)))


@pytest.mark.parametrize("total", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_frames_are_never_more_than_two_batches_at_once(scene, total):
    image, keypoints, poses = scene
    session = CountingSession()
    asked = []
    watched = (asked.append(name) or (name, pose) for name, pose in poses(total))
    for count, _ in enumerate(animate(PoseTransfer(session), image, keypoints, watched, batch_size=8), 1):
        assert len(asked) <= count + 7
    assert count == sum(session.batches) == total
    assert session.most_frames <= 16


def test_a_fixed_batch_is_filled_up(scene):
    image, keypoints, poses = scene
    session = CountingSession(batch=4)
    frames = list(animate(PoseTransfer(session), image, keypoints, poses(6), batch_size=3))
    assert session.batches == [4, 4]
    assert np.array_equal(frames, list(animate(PoseTransfer(CountingSession()), image, keypoints, poses(6))))


def test_faults_of_a_pose_name_it(scene):
    image, keypoints, poses = scene
    transfer = PoseTransfer(CountingSession())
    far = [*poses(2), ("pose 2", np.where(keypoints < 0, -1, 10 * keypoints))]
    frames = animate(transfer, image, keypoints, far)
    assert len([next(frames), next(frames)]) == 2
    with pytest.raises(DataError, match=r"pose 2: \d+ of 17 keypoints lie outside"):
        next(frames)
    one_out = keypoints.copy()
    one_out[0, 0] = 1000
    with pytest.warns(PosewarpWarning, match=r"pose 9: nose .* taken as missing"):
        list(animate(transfer, image, keypoints, [("pose 9", one_out)]))


@pytest.mark.parametrize("fault", [{"size": "big"}, {"batch_size": 0}])
def test_arguments_of_animate_are_checked(scene, fault):
    image, keypoints, poses = scene
    with pytest.raises(ContractError, match=r"expected network or source, and at least 1"):
        next(animate(PoseTransfer(CountingSession()), image, keypoints, poses(1), **fault))


def decode(path) -> tuple[av.video.stream.VideoStream, list[av.VideoFrame]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream, list(container.decode(stream))


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(25, 25), (29.97, Fraction(2997, 100)), (30000 / 1001, Fraction(30000, 1001)), (0.5, 0.5)],
)
def test_video_reads_back_with_its_frames_size_and_rate(tmp_path, rng, fps, rate):
    frames = [np.full((H, W, 3), 20 * index, np.uint8) for index in range(12)]
    with open_output(tmp_path / "out.mp4", fps=fps) as write:
        for frame in frames:
            write(frame)
    stream, decoded = decode(tmp_path / "out.mp4")
    assert stream.frames == len(decoded) == 12
    assert (stream.width, stream.height, stream.codec_context.name) == (W, H, "h264")
    assert stream.average_rate == rate
    assert stream.pix_fmt == "yuv420p"
    assert [round(float(each.time * rate)) for each in decoded] == list(range(12))
    levels = [each.to_ndarray(format="rgb24").mean() for each in decoded]
    assert levels == pytest.approx([20 * index for index in range(12)], abs=2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_odd_sizes_are_padded_by_their_last_row_and_column(tmp_path):
    frame = np.zeros((33, 23, 3), np.uint8)
    frame[:, 22], frame[32] = 255, 255
    with open_output(tmp_path / "out.mp4") as write:
        write(frame)
    _, (decoded,) = decode(tmp_path / "out.mp4")
    picture = decoded.to_ndarray(format="rgb24")
    assert picture.shape == (34, 24, 3)
    assert picture[33, :20].min() > 240
    assert picture[:30, 23].min() > 240
    assert picture[:30, :20].max() < 20


def test_colours_are_bt709_and_say_so(tmp_path):
    with open_output(tmp_path / "out.mp4") as write:
        write(np.full((H, W, 3), (255, 0, 30), np.uint8))
    _, (decoded,) = decode(tmp_path / "out.mp4")
    assert (decoded.colorspace, decoded.color_range) == (1, 1)
    planes = decoded.to_ndarray(format="yuv420p").ravel()
    # ITU-R BT.709: Y = 0.2126 R + 0.7152 G + 0.0722 B, Cb = (B - Y) / 1.8556, Cr = (R - Y) / 1.5748, in [0, 1];
    # stored as 16 + 219 Y and 128 + 224 C.
    y = 0.2126 + 0.0722 * 30 / 255
    expected = 16 + 219 * y, 128 + 224 * (30 / 255 - y) / 1.8556, 128 + 224 * (1 - y) / 1.5748
    pixels = H * W
    means = [part.mean() for part in np.split(planes, [pixels, pixels * 5 // 4])]
    assert means == pytest.approx(expected, abs=1.5)


def test_folder_has_numbered_pictures_bit_by_bit(tmp_path, rng):
    frames = rng.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    (tmp_path / "out.frames").mkdir()  # a suffix is no matter where a folder is there
    for path in (tmp_path / "new", tmp_path / "out.frames"):
        with open_output(path) as write:
            for frame in frames:
                write(frame)
            assert not path.exists() or not list(path.iterdir())  # nothing before all is there
        files = sorted(path.iterdir())
        assert [file.name for file in files] == ["000001.png", "000002.png", "000003.png"]
        assert np.array_equal([np.asarray(Image.open(file)) for file in files], frames)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, SystemExit, DataError, ValueError])
def test_a_fault_in_the_middle_leaves_nothing_and_is_passed_on(tmp_path, name, fault):
    (tmp_path / "out.mp4").write_text("of before")
    with pytest.raises(fault), open_output(tmp_path / name) as write:  # noqa: PT012
        for _ in range(100):
            write(np.zeros((H, W, 3), np.uint8))
        assert len(list(tmp_path.iterdir())) == 2
        raise fault("in the middle")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "of before"


FULL_DISK = """
import os, resource, sys
import numpy as np
from posewarp.runtime.video import open_output

def run(path):
    rng = np.random.default_rng(0)
    with open_output(path) as write:
        for _ in range(20):
            write(rng.integers(0, 256, (32, 24, 3), dtype=np.uint8))

path, share = sys.argv[1], float(sys.argv[2])
whole = f"{path}.mp4" if path.endswith("mp4") else f"{path}-whole"
run(whole)
sizes = [os.path.getsize(whole)] if os.path.isfile(whole) else [file.stat().st_size for file in os.scandir(whole)]
limit = max(sizes) - 1 if share == 1 else int(max(sizes) * share)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    run(path)
except Exception as exc:
    print(type(exc).__name__, exc)
"""


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, name, share):
    """A limit on the size of files stands for the disk: none, half of what is needed, and all but a byte."""
    path = tmp_path / name
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path, str(share)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"DataError {path} cannot be written: File too large\n"
    assert done.stderr == ""
    assert len(list(tmp_path.iterdir())) == 1  # the whole one that was written to know its size


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.avi", r"out\.avi: cannot write a video as \.avi; use \.mp4, or a folder's name"),
        ("file", "file is a file; name a folder"),
        ("full", "full has files in it"),
        ("no/such/frames", "no/such/frames cannot be written: No such file"),
        ("no/such/out.mp4", r"no/such/out\.mp4 cannot be written: the folder .* does not exist"),
        ("/proc", "has files in it"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_a_frame_is_made(tmp_path, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "000001.png").touch()
    with pytest.raises(DataError, match=message), open_output(tmp_path / name):
        pytest.fail("was opened")


def test_a_mount_point_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.is_mount", lambda path: path == tmp_path)
    with pytest.raises(DataError, match="is a mount point; name a folder in it"), open_output(tmp_path):
        pytest.fail("was opened")


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_no_frame_at_all_is_an_error(tmp_path, name):
    with (
        pytest.raises(DataError, match=f"{name} is not written: there is no frame"),
        open_output(tmp_path / name),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
@pytest.mark.parametrize("frame", [np.zeros((H, W + 1, 3), np.uint8), np.zeros((H, W, 3), np.float32)])
def test_frames_of_another_kind_are_refused(tmp_path, name, frame):
    frames = [np.zeros((H, W, 3), np.uint8), frame]
    with (
        pytest.raises(ContractError, match=r"frame 2 is .* as the first|float32"),
        open_output(tmp_path / name) as write,
    ):
        list(map(write, frames))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1e4])
def test_rates_that_no_video_has_are_refused(tmp_path, fps):
    with pytest.raises(ContractError, match=r"expected 0\.001 to 1000"):
        open_output(tmp_path / "out.mp4", fps=fps)


def test_without_pyav_videos_are_refused_and_folders_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with (
        pytest.raises(BackendError, match=r"pip install posewarp\[video\]"),
        open_output(tmp_path / "out.mp4"),
    ):
        pytest.fail("was opened")
    with open_output(tmp_path / "frames") as write:
        write(np.zeros((H, W, 3), np.uint8))
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]


def test_a_pyav_without_h264_is_refused(tmp_path, monkeypatch):
    def codec(name, mode):
        raise av.codec.codec.UnknownCodecError(name)

    monkeypatch.setattr(av.codec, "Codec", codec)
    with pytest.raises(BackendError, match="this PyAV has no libx264"), open_output(tmp_path / "out.mp4"):
        pytest.fail("was opened")


def test_importing_this_does_not_import_pyav():
    code = "import sys, posewarp.runtime.video; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_size_that_the_encoder_refuses_is_one_line(tmp_path):
    with (
        pytest.raises(DataError, match=r"out\.mp4 cannot be written: .*(external library|Invalid)"),
        open_output(tmp_path / "out.mp4") as write,
    ):
        write(np.zeros((2, 17_000, 3), np.uint8))  # libx264 takes up to 16384
    assert not list(tmp_path.iterdir())
