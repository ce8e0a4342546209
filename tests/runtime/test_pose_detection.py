"""Detection through rtmlib's own pre- and post-processing, with stubs of its models."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from posewarp.runtime.errors import BackendError
from posewarp.runtime.image import read_image
from posewarp.runtime.pose_detection import PoseDetector
from tests.runtime.pose_models import photo, rtmo, rtmpose, yolox

# COCO's 17 in a picture of 320 x 200, none near another; shoulders are 5 and 6.
COCO = np.array([(20.5 + 33 * (k % 9), 40.25 + 75 * (k // 9) + 5 * (k % 4)) for k in range(17)])
OURS = [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]  # but for the neck, number 1


def openpose(coco: np.ndarray) -> np.ndarray:
    return np.insert(coco[OURS], 1, coco[[5, 6]].mean(0), axis=0)


@pytest.fixture(scope="module")
def pose_model(tmp_path_factory):
    return rtmpose(tmp_path_factory.mktemp("pose") / "rtmpose.onnx")


@pytest.fixture(scope="module")
def detector(pose_model):
    return PoseDetector.open(pose_model)


@pytest.mark.parametrize(("height", "width"), [(200, 320), (320, 200)], ids=["wide", "tall"])
def test_known_keypoints_come_out_within_a_pixel_of_the_photo(detector, height, width):
    coco = COCO if width > height else COCO[:, ::-1]
    (person,) = detector(photo(coco, height, width))
    assert person.shape == (18, 3)
    assert np.abs(person[:, :2] - openpose(coco)).max() < 1
    assert person[:, 2] == pytest.approx(1, abs=0.01)


def test_a_picture_turned_by_exif_is_found_upright(detector, tmp_path):
    # Orientation 6: stored is the upright one turned 90 degrees to the left.
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(photo(COCO, 200, 320)).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    (person,) = detector(read_image(tmp_path / "turned.jpg"))
    assert np.abs(person[:, :2] - openpose(COCO)).max() < 1


def test_what_is_not_seen_is_missing_and_takes_the_neck_along(detector):
    coco = COCO.copy()
    coco[[6, 15]] = np.nan  # right shoulder, left ankle
    (person,) = detector(photo(coco, 200, 320))
    assert np.flatnonzero(np.isnan(person[:, 0])).tolist() == [1, 2, 13]


def test_low_scores_are_missing(tmp_path):
    scores = np.ones((17, 1))
    scores[9] = 0.2  # left wrist
    detector = PoseDetector.open(rtmpose(tmp_path / "unsure.onnx", scores))
    picture = photo(COCO, 200, 320)
    assert np.flatnonzero(np.isnan(detector(picture)[0][:, 0])).tolist() == [7]
    assert detector(picture, min_score=0.1)[0][7, 2] == pytest.approx(0.2, abs=0.01)


def test_nobody_is_seen_in_a_grey_picture(detector):
    assert detector(np.full((50, 50, 3), 128, np.uint8)) == []


def test_people_are_found_by_the_detector_and_the_largest_comes_first(pose_model, tmp_path):
    """Side by side: at the left a small one, at the right a large one; boxes are in the detector's 640 x 640."""
    small, large = COCO * 0.6 + [3, 40], COCO + np.array([240, 0])
    picture = photo(small, 200, 560, radius=4)
    picture[:, 240:] = photo(COCO, 200, 320)
    picture[0, 0] = (0, 0, 255)
    scale = 640 / 560
    boxes = np.array([(0, 30, 215, 190), (235, 0, 560, 200)]) * scale
    detector = PoseDetector.open(pose_model, yolox(tmp_path / "yolox.onnx", boxes))
    people = detector(picture)
    assert len(people) == 2
    assert np.abs(people[0][:, :2] - openpose(large)).max() < 1
    assert np.abs(people[1][:, :2] - openpose(small)).max() < 1


def test_without_a_box_there_is_nobody(pose_model, tmp_path):
    """RTMPose would take the whole picture where the detector finds nobody: its first pixel is red, not blue."""
    detector = PoseDetector.open(pose_model, yolox(tmp_path / "yolox.onnx", np.array([[0, 0, 640, 400]])))
    picture = photo(COCO, 200, 320)
    picture[0, 0] = (255, 0, 0)
    assert detector(picture) == []


def test_rtmo_finds_people_by_itself(tmp_path):
    joints = np.column_stack((COCO * 2, np.full(17, 0.8)))  # 320 x 200 fills its 640 x 640 to the half
    joints[0, :2] = 30, 600  # below the picture
    model = rtmo(tmp_path / "rtmo.onnx", joints[None])
    (person,) = PoseDetector.open(model)(np.zeros((200, 320, 3), np.uint8))
    assert np.isnan(person[0]).all()
    assert np.abs(person[1:, :2] - openpose(COCO)[1:]).max() < 0.01
    with pytest.raises(BackendError, match=r"finds the people itself; leave yolox\.onnx out"):
        PoseDetector.open(model, "yolox.onnx")


def test_missing_rtmlib_is_said_with_the_way_to_install_it(pose_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(
        BackendError, match=r"pip install posewarp\[pose,cpu\], then pip install --no-deps rtmlib"
    ):
        PoseDetector.open(pose_model)


def test_a_model_that_is_missing_is_not_looked_for_on_the_internet(tmp_path, pose_model, monkeypatch):
    monkeypatch.setattr(
        "rtmlib.tools.base.download_checkpoint", lambda url: pytest.fail("asked the internet")
    )
    with pytest.raises(BackendError, match=r"absent\.onnx does not exist"):
        PoseDetector.open(tmp_path / "absent.onnx")
    with pytest.raises(BackendError, match=r"yolox\.onnx does not exist"):
        PoseDetector.open(pose_model, tmp_path / "yolox.onnx")


def another_model(path, text):
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}'), path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not an ONNX model that ONNX Runtime can open"),
        (
            "(float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) {y = Identity(x)}",
            r"is not a pose model: outputs .* 17",
        ),
        ("(float[4] x) => (float[4] y) {y = Identity(x)}", "is not a pose model"),
        (
            "(float[1, 3, 64, 48] x, float[1, 21, 96] a, float[1, 21, 128] b) => "
            "(float[1, 21, 96] c, float[1, 21, 128] d) {c = Identity(a) d = Identity(b)}",
            "is not a pose model",
        ),
    ],
)
def test_what_is_no_pose_model_is_refused(tmp_path, text, message):
    path = tmp_path / "model.onnx"
    another_model(path, text) if text else path.write_bytes(b"<html>")
    with pytest.raises(BackendError, match=rf"model\.onnx {message}") as caught:
        PoseDetector.open(path)
    assert str(path) in str(caught.value)


def test_what_is_no_detector_is_refused(pose_model, tmp_path):
    another_model(tmp_path / "id.onnx", "(float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) {y = Identity(x)}")
    with pytest.raises(BackendError, match=r"id\.onnx is not a detector"):
        PoseDetector.open(pose_model, tmp_path / "id.onnx")


def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(pose_model):
    with pytest.raises(BackendError, match="--device cuda was asked for"):
        PoseDetector.open(pose_model, device="cuda")


def test_a_download_that_fails_is_one_error_that_says_what_to_do(monkeypatch):
    def refuse(url):
        raise OSError("no route to host")

    monkeypatch.setattr("rtmlib.tools.file.download_checkpoint", refuse)
    with pytest.raises(
        BackendError, match=r"rtmlib cannot fetch .*no route to host; .* --model and --detector"
    ):
        PoseDetector.download()


def test_a_download_gives_pose_model_and_detector(pose_model, tmp_path, monkeypatch):
    boxes = yolox(tmp_path / "yolox.onnx", np.array([[0, 0, 640, 400]]))
    asked = []

    def fetch(url):
        asked.append(url)
        return str(boxes if "yolox" in url else pose_model)

    monkeypatch.setattr("rtmlib.tools.file.download_checkpoint", fetch)
    picture = photo(COCO, 200, 320)
    picture[0, 0] = (0, 0, 255)
    (person,) = PoseDetector.download()(picture)
    assert np.abs(person[:, :2] - openpose(COCO)).max() < 1
    assert ["rtmpose-m" in url or "yolox_m" in url for url in asked] == [True, True]


def test_opening_prints_nothing(pose_model, capsys):
    PoseDetector.open(pose_model)
    assert capsys.readouterr() == ("", "")
