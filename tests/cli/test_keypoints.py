"""``posewarp keypoints convert`` and ``detect``, from files to files."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from posewarp.runtime.keypoint_files import read_keypoints
from posewarp.runtime.poses import Poses
from tests.cli.conftest import read
from tests.runtime.pose_models import photo, rtmo, rtmpose, yolox

POINTS = np.stack((np.arange(18) * 9 + 44.0, np.arange(18) * 13 + 10.0), 1)  # in 256 x 256, inside 176
COCO = np.array([(20.5 + 33 * (k % 9), 40.25 + 75 * (k // 9) + 5 * (k % 4)) for k in range(17)])
OURS = [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
EXPECTED = np.insert(COCO[OURS], 1, COCO[[5, 6]].mean(0), axis=0)


def flat(points) -> list:
    return [float(v) for x, y in points for v in (x, y, 0.5)]


def csv(points=POINTS, names=("a_1.jpg", "b_2.jpg")) -> str:
    rows = [f"{n}: {points[:, 1].astype(int).tolist()}: {points[:, 0].astype(int).tolist()}" for n in names]
    return "\n".join(["name:keypoints_y:keypoints_x", *rows]) + "\n"


def left(tmp_path) -> set[str]:
    return {each.name for each in tmp_path.iterdir()}


# convert


def test_openpose_of_256_wide_becomes_patns_row_of_176(posewarp, tmp_path):
    people = {"people": [{"pose_keypoints_2d": flat(POINTS)}]}
    (tmp_path / "photo_keypoints.json").write_text(json.dumps(people))
    code, out, err = posewarp(
        "keypoints", "convert", tmp_path / "photo_keypoints.json", "-o", tmp_path / "a.csv",
        "--from-size", "256x256", "--x-offset", -40, "--name-suffix", ".jpg",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out == (
        f"wrote {tmp_path / 'a.csv'} (patn): 1 picture, 0 of 18 joints missing, 0 of them out of frame\n"
    )
    assert (tmp_path / "a.csv").read_text() == csv(POINTS - [40, 0], ["photo.jpg"])


def test_a_whole_csv_becomes_poses_that_animate_takes(posewarp, tmp_path):
    (tmp_path / "a.csv").write_text(csv())
    code, out, _ = posewarp("keypoints", "convert", tmp_path / "a.csv", "-o", tmp_path / "a.jsonl")
    assert (code, "2 pictures, 0 of 36 joints" in out) == (0, True)
    for _, keypoints in Poses(tmp_path / "a.jsonl"):
        np.testing.assert_array_equal(keypoints, POINTS)
    code, out, _ = posewarp(
        "keypoints", "convert", tmp_path / "a.jsonl", "-o", tmp_path / "poses", "--to", "nted"
    )
    assert (code, left(tmp_path / "poses")) == (0, {"a_1.txt", "b_2.txt"})
    np.testing.assert_array_equal(read_keypoints(tmp_path / "poses/b_2.txt"), POINTS)


@pytest.mark.parametrize("option", ["--name", "--image-id"])
def test_one_picture_of_a_coco_file(posewarp, tmp_path, option):
    rows = POINTS[[0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]]
    annotations = [{"image_id": i, "keypoints": flat(rows + i)} for i in (0, 1)]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (0, 1)]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    name = "1.jpg" if option == "--name" else "1"
    code, *_ = posewarp(
        "keypoints", "convert", tmp_path / "coco.json", "-o", tmp_path / "a.json", option, name
    )
    assert code == 0
    np.testing.assert_array_equal(read_keypoints(tmp_path / "a.json")[2:], POINTS[2:] + 1)


def test_many_warnings_are_counted(posewarp, tmp_path):
    (tmp_path / "a.csv").write_text(csv(POINTS + np.array([80, 0]), [f"{i}.jpg" for i in range(5)]))
    arguments = (
        "keypoints",
        "convert",
        tmp_path / "a.csv",
        "-o",
        tmp_path / "b.csv",
        "--from-size",
        "256x256",
    )
    code, out, err = posewarp(*arguments)
    assert code == 0
    assert "out of frame" in out
    assert [line.split(":")[0] for line in err.splitlines()] == ["warning", "warning"]
    assert err.endswith("warning: 4 more warnings, not shown\n")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (csv(POINTS * 4), ("--from-size", "256x256"), "DataError: .*row a_1.jpg: .* another resolution"),
        (csv(POINTS * 0 - 1), (), "DataError: no keypoint is visible in any of 2 pictures"),
        (csv(), ("--name", "c.jpg"), "DataError: .*none is named c.jpg"),
        (csv(), ("--to-size", "64x64"), "ContractError: .*--from-size"),
        ("hello", (), "DataError: .*a.csv has keypoints that are not rows"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_no_file(posewarp, tmp_path, content, options, message):
    (tmp_path / "a.csv").write_text(content)
    code, _, err = posewarp("keypoints", "convert", tmp_path / "a.csv", "-o", tmp_path / "b.jsonl", *options)
    assert (code, err.count("\n")) == (1, 1)
    assert re.match(message, err)
    assert left(tmp_path) == {"a.csv"}


def test_the_input_is_not_overwritten(posewarp, tmp_path):
    (tmp_path / "a.csv").write_text(csv())
    code, _, err = posewarp("keypoints", "convert", tmp_path / "a.csv", "-o", tmp_path / "a.csv")
    assert (code, "would overwrite the input" in err) == (1, True)


def test_a_size_that_is_none_is_misuse(posewarp, tmp_path):
    code, _, err = posewarp("keypoints", "convert", "a.json", "-o", tmp_path / "b.json", "--from-size", "256")
    assert (code, "--from-size" in err) == (2, True)


# detect


@pytest.fixture(scope="module")
def pose_model(tmp_path_factory):
    return rtmpose(tmp_path_factory.mktemp("pose") / "rtmpose.onnx")


@pytest.fixture
def pictures(tmp_path):
    """A folder of two photos, one turned by EXIF, one of nobody, and a web page."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    shown = Image.fromarray(photo(COCO, 200, 320))
    shown.save(folder / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = shown.transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "more" / "10.jpg", exif=exif, quality=100, subsampling=0)
    Image.new("RGB", (30, 40), "grey").save(folder / "2.png")
    (folder / "3.png").write_bytes(b"<html>")
    return folder


def test_a_picture_gives_keypoints_and_an_overlay(posewarp, pose_model, pictures, tmp_path):
    code, out, err = posewarp(
        "keypoints", "detect", pictures / "more/10.jpg", "--model", pose_model, "-o", tmp_path / "pose.json",
        "--overlay", tmp_path / "look.png",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out == f"wrote {tmp_path / 'pose.json'} (json): 1 person, 0 of 18 joints missing\n"
    assert np.abs(read_keypoints(tmp_path / "pose.json") - EXPECTED).max() < 1
    assert len(json.loads((tmp_path / "pose.json").read_text())[0]) == 3  # with scores
    overlay = read(tmp_path / "look.png")
    assert overlay.shape == (200, 320, 3)
    x, y = EXPECTED[1].round().astype(int)  # the neck, where the photo is grey
    assert overlay[y, x].tolist() == [255, 85, 0]


@pytest.mark.filterwarnings("default::posewarp.runtime.errors.PosewarpWarning")
def test_a_folder_gives_a_folder_and_says_what_is_left_out(posewarp, pose_model, pictures, tmp_path):
    code, out, err = posewarp(
        "keypoints", "detect", pictures, "--model", pose_model, "-o", tmp_path / "poses",
        "--overlay", tmp_path / "look",
    )  # fmt: skip
    assert code == 0
    assert out.endswith("2 people, 0 of 36 joints missing, 2 pictures left out\n")
    assert err == (
        f"warning: nobody was found in {pictures / '2.png'}; it is left out\n"
        "warning: 1 more warnings, not shown\n"
    )
    for name in ("1.json", "more/10.json"):
        assert np.abs(read_keypoints(tmp_path / "poses" / name) - EXPECTED).max() < 1
    assert (tmp_path / "look/more/10.png").is_file()


@pytest.mark.filterwarnings("default::posewarp.runtime.errors.PosewarpWarning")
def test_a_folder_as_a_csv_names_the_pictures(posewarp, pose_model, pictures, tmp_path):
    code, *_ = posewarp("keypoints", "detect", pictures, "--model", pose_model, "-o", tmp_path / "a.csv")
    assert code == 0
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["name", "1.png", "more/10.jpg"]


def test_the_largest_or_all_people(posewarp, tmp_path):
    joints = np.column_stack((COCO, np.full(17, 0.8)))
    people = np.stack((joints * [0.5, 0.5, 1], joints + np.array([300, 300, 0])))
    model = rtmo(tmp_path / "rtmo.onnx", people)
    Image.new("RGB", (640, 640)).save(tmp_path / "two.png")
    command = ("keypoints", "detect", tmp_path / "two.png", "--model", model, "-o")
    assert posewarp(*command, tmp_path / "largest.json")[0] == 0
    assert np.abs(read_keypoints(tmp_path / "largest.json") - (EXPECTED + 300)).max() < 0.01
    assert posewarp(*command, tmp_path / "all.json", "--people", "all")[0] == 0
    assert len(json.loads((tmp_path / "all.json").read_text())["people"]) == 2


def test_a_detector_is_used(posewarp, pose_model, pictures, tmp_path):
    """It finds nobody where the first pixel is red."""
    detector = yolox(tmp_path / "yolox.onnx", np.array([[0, 0, 640, 400]]))
    command = ("keypoints", "detect", pictures / "1.png", "--model", pose_model, "-o", tmp_path / "a.json")
    picture = read(pictures / "1.png").copy()
    picture[0, 0] = (255, 0, 0)
    Image.fromarray(picture).save(pictures / "1.png")
    assert posewarp(*command)[0] == 0
    code, _, err = posewarp(*command, "--detector", detector)
    assert (code, err) == (1, f"DataError: nobody was found in {pictures / '1.png'}\n")


@pytest.mark.filterwarnings("default::posewarp.runtime.errors.PosewarpWarning")
def test_pictures_none_of_which_can_be_read_are_not_called_empty_of_people(posewarp, pose_model, tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"<html>")
    code, _, err = posewarp("keypoints", "detect", tmp_path, "--model", pose_model, "-o", tmp_path / "a.csv")
    assert code == 1
    assert "DataError: none of the 2 pictures of" in err
    assert "nobody" not in err


def test_failures_are_one_line_and_leave_nothing(posewarp, pose_model, pictures, tmp_path):
    out = ("-o", tmp_path / "poses", "--overlay", tmp_path / "look")
    for arguments, message in [
        ((pictures / "3.png", "--model", pose_model), "DataError: .*3.png is not a picture"),
        ((pictures, "--model", tmp_path / "absent.onnx"), "BackendError: .*absent.onnx does not exist"),
        ((pictures, "--model", pictures / "1.png"), "BackendError: .*1.png is not an ONNX model"),
        ((tmp_path / "nowhere", "--model", pose_model), "DataError: .*nowhere"),
    ]:
        code, _, err = posewarp("keypoints", "detect", *arguments, *out)
        assert (code, err.count("\n")) == (1, 1)
        assert re.match(message, err)
        assert left(tmp_path) == {"photos"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --model"),
        (("--model", "m.onnx", "--download"), "give --model"),
        (("--model", "m.onnx", "--people", "all", "--to", "nted"), "--people all"),
    ],
)
def test_misuse_of_detect(posewarp, tmp_path, options, message):
    code, _, err = posewarp("keypoints", "detect", "a.png", "-o", tmp_path / "poses", *options)
    assert (code, message in " ".join(err.split())) == (2, True)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (("-o", "out", "--overlay", "out"), "--output and --overlay are one folder, .*out; name two"),
        (("-o", "photos"), ".*photos has files in it"),
        (("-o", "no/such"), ".*no/such cannot be written"),
        (
            ("-o", "out", "--overlay", "look.png"),
            "--overlay look.png is one picture; for the folder photos name a",
        ),
        (("-o", "out", "--overlay", "look.gif"), "look.gif: cannot write a picture"),
        (("-o", "out.xml"), "out.xml: cannot write keypoints as .xml"),
    ],
)
def test_outputs_are_checked_before_a_model_is_opened(
    posewarp, pictures, tmp_path, monkeypatch, outputs, message
):
    monkeypatch.chdir(tmp_path)
    code, _, err = posewarp("keypoints", "detect", "photos", "--model", "absent.onnx", *outputs)
    assert code == 1
    assert re.match(f"DataError: {message}", err)
    assert left(tmp_path) == {"photos"}


def test_a_missing_picture_is_told_before_the_model_is_opened(posewarp, tmp_path):
    picture = tmp_path / "absent.png"
    code, _, err = posewarp(
        "keypoints", "detect", picture, "--model", tmp_path / "absent.onnx", "-o", tmp_path / "a.json"
    )
    assert (code, err) == (
        1,
        f"DataError: {picture} does not exist; expected a picture, or a folder of them\n",
    )
