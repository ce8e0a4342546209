"""``posewarp transfer`` on files as people have them, and what it says of files that it cannot use."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import HEIGHT, WIDTH, read, transfer_arguments


def test_photo_of_any_size_gives_a_picture_of_the_networks_size(posewarp, model, files, tmp_path):
    code, out, _ = posewarp(*transfer_arguments(model, files, tmp_path / "out.png"))
    assert code == 0
    assert f"wrote {tmp_path / 'out.png'}" in out
    assert read(tmp_path / "out.png").shape == (HEIGHT, WIDTH, 3)


def test_size_source_undoes_the_fit(posewarp, model, files, tmp_path):
    code, *_ = posewarp(*transfer_arguments(model, files, tmp_path / "out.png"), "--size", "source")
    assert code == 0
    assert read(tmp_path / "out.png").shape == (96, 80, 3)


def test_panel_shows_source_pose_flow_and_result(posewarp, model, files, tmp_path):
    code, *_ = posewarp(
        *transfer_arguments(model, files, tmp_path / "out.png"), "--panel", tmp_path / "panel.png"
    )
    assert code == 0
    height, width, _ = read(tmp_path / "panel.png").shape
    assert height > 256
    assert width > 4 * 256 * WIDTH / HEIGHT


@pytest.mark.parametrize("named", ["source", "pose"])
def test_either_part_of_a_split_model_stands_for_both(posewarp, model, parts, files, tmp_path, named):
    path = parts.with_name(f"model.{named}.onnx")
    options = ("--panel", tmp_path / "panel.png")
    code, _, err = posewarp(*transfer_arguments(path, files, tmp_path / "parts.png"), *options)
    assert (code, err) == (0, "")
    shown = read(tmp_path / "panel.png")
    assert posewarp(*transfer_arguments(model, files, tmp_path / "whole.png"), *options)[0] == 0
    assert np.array_equal(read(tmp_path / "parts.png"), read(tmp_path / "whole.png"))
    assert np.array_equal(shown, read(tmp_path / "panel.png"))


def test_parts_that_were_built_for_cpus_stand_for_both_too(posewarp, model, files, tmp_path):
    stem = tmp_path / "model.onnx"
    by = "source_image,source_keypoints"
    assert posewarp("split", model, "--by", by, "-o", stem, "--save-features")[0] == 0
    for part in ("source", "pose"):
        path = stem.with_suffix(f".{part}.onnx")
        code, out, err = posewarp("build", path, "--backend", "cpu", "--data", path.with_suffix(".npz"))
        assert (code, err) == (0, "")
        assert "of few outputs as ones of many" in out
    built = stem.with_suffix(".pose.cpu.onnx")
    options = ("--panel", tmp_path / "panel.png")
    code, _, err = posewarp(*transfer_arguments(built, files, tmp_path / "parts.png"), *options)
    assert (code, err) == (0, "")
    assert posewarp(*transfer_arguments(model, files, tmp_path / "whole.png"))[0] == 0
    apart = read(tmp_path / "parts.png").astype(int) - read(tmp_path / "whole.png")
    assert np.abs(apart).max() <= 1  # a rounding


def test_a_part_alone_is_refused_with_the_name_of_the_other(posewarp, parts, files, tmp_path):
    alone = tmp_path / "alone.pose.onnx"
    alone.write_bytes(parts.with_name("model.pose.onnx").read_bytes())
    code, _, err = posewarp(*transfer_arguments(alone, files, tmp_path / "out.png"))
    _check_refusal(
        code, err, r"BackendError: .*alone\.pose\.onnx is named as a part .*alone\.source\.onnx is not"
    )


def test_a_panel_of_a_model_that_cannot_give_its_flow_is_refused_before_anything_is_written(
    posewarp, mnn_model, files, tmp_path
):
    arguments = transfer_arguments(mnn_model, files, tmp_path / "out.png")
    before = sorted(tmp_path.iterdir())
    code, out, err = posewarp(*arguments, "--panel", tmp_path / "panel.png")
    _check_refusal(code, err, "ContractError: the panel shows the flow, but .*model.mnn has no output 'flow'")
    assert out == ""
    assert sorted(tmp_path.iterdir()) == before
    assert posewarp(*arguments)[0] == 0


def test_no_output_may_be_an_input_or_the_other_output(posewarp, model, files, tmp_path):
    code, _, err = posewarp(*transfer_arguments(model, files, files["image"]))
    _check_refusal(code, err, "DataError: --output .*photo.png would overwrite the input")
    arguments = transfer_arguments(model, files, tmp_path / "out.png")
    code, _, err = posewarp(*arguments, "--panel", tmp_path / "out.png")
    _check_refusal(code, err, "DataError: --panel .*out.png would overwrite --output")


def test_turned_jpeg_with_openpose_json_equals_upright_png_with_plain_keypoints(
    posewarp, model, files, tmp_path
):
    upright = Image.open(files["image"])
    keypoints = json.loads(files["source_keypoints"].read_text())
    # Orientation 6: the stored picture is the upright one turned 90 degrees to the left.
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif)
    decoded = Image.open(tmp_path / "turned.jpg")
    decoded.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    flat = [v for x, y in keypoints for v in ((0, 0, 0) if x < 0 else (x, y, 0.9))]
    (tmp_path / "openpose.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": flat}]}))

    turned = files | {"image": tmp_path / "turned.jpg", "source_keypoints": tmp_path / "openpose.json"}
    plain = files | {"image": tmp_path / "upright.png"}
    assert posewarp(*transfer_arguments(model, turned, tmp_path / "a.png"))[0] == 0
    assert posewarp(*transfer_arguments(model, plain, tmp_path / "b.png"))[0] == 0
    assert np.array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))
    assert read(tmp_path / "a.png").std() > 20


def truncate(files, tmp_path):
    picture = tmp_path / "cut.jpg"
    Image.open(files["image"]).save(picture)
    picture.write_bytes(picture.read_bytes()[:-300])
    return {"image": picture}


def seventeen_rows(files, tmp_path):
    rows = json.loads(files["source_keypoints"].read_text())[:17]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return {"source_keypoints": tmp_path / "rows.json"}


def twice_as_large(files, tmp_path):
    rows = [
        [4 * x, 4 * y] if x >= 0 else [-1, -1] for x, y in json.loads(files["source_keypoints"].read_text())
    ]
    (tmp_path / "large.json").write_text(json.dumps(rows))
    return {"source_keypoints": tmp_path / "large.json"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "DataError: .*cut.jpg"),
        (seventeen_rows, "DataError: .*rows.json.*17"),
        (twice_as_large, "DataError: .*source_keypoints.*outside"),
        (lambda files, tmp_path: {"image": tmp_path / "absent.png"}, "DataError: .*absent.png"),
    ],
)
def test_files_that_cannot_be_used_give_one_line_and_no_output(
    posewarp, model, files, tmp_path, spoil, message
):
    spoiled = files | spoil(files, tmp_path)
    code, _, err = posewarp(*transfer_arguments(model, spoiled, tmp_path / "out.png"))
    _check_refusal(code, err, message)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("absent_model", "output", "message"),
    [
        (True, "out.png", "BackendError: .*absent.onnx"),
        (False, "no/such/folder/out.png", "DataError: .*out.png"),
        (False, "photo.png/out.png", "DataError: .*out.png"),
        (False, "out.webm", "DataError: .*out.webm"),
    ],
)
def test_model_and_output_are_checked(posewarp, model, files, tmp_path, absent_model, output, message):
    before = sorted(tmp_path.iterdir())
    path = tmp_path / "absent.onnx" if absent_model else model
    code, _, err = posewarp(*transfer_arguments(path, files, tmp_path / output))
    _check_refusal(code, err, message)
    assert sorted(tmp_path.iterdir()) == before


def test_misuse_exits_with_2(posewarp, model):
    assert posewarp("transfer", model)[0] == 2
    assert posewarp("no-such-command")[0] == 2


@pytest.mark.parametrize(
    "option",
    ["--target-frame=256", "--target-frame=0x9", "--size=big", "--device=tpu", "--source-order=coco"],
)
def test_values_that_no_option_has_are_misuse(posewarp, model, files, tmp_path, option):
    code, _, err = posewarp(*transfer_arguments(model, files, tmp_path / "out.png"), option)
    assert code == 2
    assert option.partition("=")[0] in err


def test_each_keypoint_file_has_an_order_of_its_own(posewarp, model, files, tmp_path):
    """17 rows of COCO as the source, 18 of OpenPose as the target."""
    rows = np.array(json.loads(files["source_keypoints"].read_text()))
    coco = rows[[0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]]
    (tmp_path / "coco.json").write_text(json.dumps(coco.tolist()))
    mixed = files | {"source_keypoints": tmp_path / "coco.json"}
    code, _, err = posewarp(
        *transfer_arguments(model, mixed, tmp_path / "out.png"), "--source-order", "coco-17"
    )
    assert (code, err) == (0, "")


def _check_refusal(code, err, message):
    assert code == 1
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert re.match(message, err)
