from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.errors import ContractError, DataError, PosewarpWarning
from posewarp.runtime.image import read_image, write_image
from posewarp.runtime.keypoint_files import read_keypoints
from posewarp.runtime.keypoints import to_heatmaps
from posewarp.runtime.pipeline import PoseTransfer
from posewarp.runtime.session import Session

H, W = 32, 24
SETTINGS = {"height": H, "width": W, "heatmap_sigma_px": 2.0, "heatmap_kind": "gaussian"}


@pytest.fixture
def image_model(onnx_file):
    """generated = picture / 2 + mean of the target keypoints."""

    def write(batch="batch", height=H, width=W):
        shapes = {
            "source_image": ("uint8", (batch, height, width, 3)),
            "source_keypoints": ("float32", (batch, 18, 2)),
            "target_keypoints": ("float32", (batch, 18, 2)),
        }
        generated = TensorSpec("generated", "uint8", (batch, height, width, 3))
        contract = Contract(
            "image", tuple(TensorSpec(name, *spec) for name, spec in shapes.items()), (generated,), SETTINGS
        )
        return onnx_file(
            f"image_{batch}.onnx",
            [
                ("Cast", ["source_image"], ["picture"], {"to": 1}),
                ("ReduceMean", ["target_keypoints", "axes"], ["mean"]),
                ("Unsqueeze", ["mean", "last"], ["level"]),
                ("Mul", ["picture", "half"], ["halved"]),
                ("Add", ["halved", "level"], ["sum"]),
                ("Round", ["sum"], ["rounded"]),
                ("Clip", ["rounded", "zero", "full"], ["clipped"]),
                ("Cast", ["clipped"], ["generated"], {"to": 2}),
            ],
            {name: (dtype.replace("32", ""), shape) for name, (dtype, shape) in shapes.items()},
            {"generated": ("uint8", (batch, height, width, 3))},
            constants={
                "axes": np.array([1, 2]),
                "last": np.array([3]),
                "half": np.float32(0.5),
                "zero": np.float32(0),
                "full": np.float32(255),
            },
            metadata={METADATA_KEY: contract.to_json()},
        )

    return write


@pytest.fixture
def tensors_model(onnx_file):
    """generated = -picture, so that a picture is inverted."""
    shapes = {"source_image": 3, "source_heatmaps": 18, "target_heatmaps": 18, "generated": 3}
    specs = [TensorSpec(name, "float32", ("batch", channels, H, W)) for name, channels in shapes.items()]
    return onnx_file(
        "tensors.onnx",
        [("Neg", ["source_image"], ["generated"]), ("Add", ["source_heatmaps", "target_heatmaps"], ["maps"])],
        {spec.name: ("float", spec.shape) for spec in specs[:3]},
        {"generated": ("float", specs[3].shape)},
        metadata={METADATA_KEY: Contract("tensors", tuple(specs[:3]), (specs[3],), SETTINGS).to_json()},
    )


def person(rng, height=H, width=W) -> np.ndarray:
    return (rng.uniform(0.1, 0.9, (18, 2)) * (width, height)).astype(np.float32)


def picture(rng, height=H, width=W) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


INPUTS = ["source_image", "source_keypoints", "target_keypoints"]


def test_picture_of_the_networks_size_reaches_the_network_bit_by_bit(image_model, rng):
    transfer = PoseTransfer(Session.open(image_model(), extra_outputs=INPUTS))
    image, source, target = picture(rng), person(rng), person(rng)
    source[0], target[0] = (W - 0.01, 0), (-1, 7)
    outputs = transfer.run([transfer.fit(image, source, target)])
    np.testing.assert_array_equal(outputs["source_image"][0], image)
    np.testing.assert_array_equal(outputs["source_keypoints"][0], source)
    np.testing.assert_array_equal(outputs["target_keypoints"][0], [[-1, -1], *target[1:]])
    expected = np.round(image * 0.5 + outputs["target_keypoints"][0].mean()).clip(0, 255)
    generated = transfer(image, source, target)
    assert generated.dtype == np.uint8
    assert abs(generated.astype(int) - expected).max() <= 1


def test_keypoints_are_carried_along_with_the_picture(image_model, rng):
    transfer = PoseTransfer(Session.open(image_model(), extra_outputs=INPUTS))
    source, target = person(rng, 320, 240), person(rng, 640, 480)
    fitted = transfer.fit(picture(rng, 320, 240), source, target, target_frame=(640, 480))
    outputs = transfer.run([fitted])
    np.testing.assert_array_equal(outputs["source_image"][0], fitted.image)
    np.testing.assert_allclose(outputs["source_keypoints"][0], (source + 0.5) / 10 - 0.5, atol=1e-5)
    np.testing.assert_allclose(outputs["target_keypoints"][0], (target + 0.5) / 20 - 0.5, atol=1e-5)


def test_target_frame_is_the_picture_unless_declared(image_model, rng):
    transfer = PoseTransfer(Session.open(image_model()))
    image, source = picture(rng, 320, 240), person(rng, 320, 240)
    with pytest.raises(
        DataError, match=r"target_keypoints: .* outside the picture of width 240 and height 320"
    ):
        transfer(image, source, source * 20)
    np.testing.assert_array_equal(
        transfer(image, source, source * 2 + 0.5, target_frame=(640, 480)), transfer(image, source, source)
    )


def test_keypoint_on_the_border_pixel_of_a_photo_is_kept(image_model, rng):
    transfer = PoseTransfer(Session.open(image_model()))
    for scale in (10, 0.25):  # shrinking moves 0 to -0.45, enlarging the last pixel's end beyond the frame
        height, width = int(H * scale), int(W * scale)
        source = person(rng, height, width)
        source[:2] = (0, 0), (width - 0.01, height - 0.01)
        fitted = transfer.fit(picture(rng, height, width), source, source)
        assert (fitted.source_keypoints >= 0).all()
        assert (fitted.source_keypoints < (W, H)).all()


@pytest.mark.parametrize(("height", "width"), [(48, 20), (64, 48), (H, W), (10, 60)])
def test_size_source_undoes_the_fit(tensors_model, rng, height, width):
    transfer = PoseTransfer(Session.open(tensors_model))
    image = np.full((height, width, 3), 55, np.uint8)
    keypoints = person(rng, height, width)
    assert transfer(image, keypoints, keypoints).shape == (H, W, 3)
    result = transfer(image, keypoints, keypoints, size="source")
    np.testing.assert_array_equal(result, np.full((height, width, 3), 200, np.uint8))


def test_tensors_contract_gets_normalised_pictures_and_heatmaps(tensors_model, rng):
    names = ["source_heatmaps", "target_heatmaps", "source_image"]
    transfer = PoseTransfer(Session.open(tensors_model, extra_outputs=names))
    image, source, target = picture(rng), person(rng), person(rng)
    outputs = transfer.run([transfer.fit(image, source, target)])
    np.testing.assert_array_equal(outputs["generated"][0], 255 - image)
    np.testing.assert_allclose(outputs["source_image"][0], image.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    for name, keypoints in (("source_heatmaps", source), ("target_heatmaps", target)):
        np.testing.assert_array_equal(outputs[name], to_heatmaps(keypoints[None], H, W, 2.0))


@pytest.mark.parametrize("batch", ["batch", 1])
def test_batch_of_different_pictures_equals_single_runs(image_model, rng, batch):
    transfer = PoseTransfer(Session.open(image_model(batch)))
    shapes = [(H, W), (64, 20), (100, 100)]
    images = [picture(rng, *shape) for shape in shapes]
    sources, targets = ([person(rng, *shape) for shape in shapes] for _ in range(2))
    for size in ("network", "source"):
        together = transfer.batch(images, sources, targets, size=size)
        for one, *arguments in zip(together, images, sources, targets, strict=True):
            np.testing.assert_array_equal(one, transfer(*arguments, size=size))


def test_four_threads_give_what_one_gives(image_model, rng):
    transfer = PoseTransfer(Session.open(image_model(), threads=1))
    calls = [(picture(rng), person(rng), person(rng)) for _ in range(20)]
    serial = [transfer(*call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda call: transfer(*call), calls))
    np.testing.assert_array_equal(threaded, serial)


def test_dynamic_model_runs_at_another_size(image_model, rng):
    session = Session.open(image_model("batch", "height", "width"))
    image, keypoints = picture(rng, 40, 60), person(rng, 40, 60)
    assert PoseTransfer(session)(image, keypoints, keypoints).shape == (H, W, 3)
    assert PoseTransfer(session, height=40, width=60)(image, keypoints, keypoints).shape == (40, 60, 3)
    fixed = PoseTransfer(Session.open(image_model()), height=40, width=60)
    with pytest.raises(ContractError, match="expected 32 on axis 1"):
        fixed(image, keypoints, keypoints)


def test_turned_jpeg_with_openpose_json_equals_upright_png_with_plain_keypoints(image_model, tmp_path, rng):
    stored = Image.fromarray(picture(rng, 60, 90)).resize((450, 300), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "camera.jpg", exif=exif, quality=90)
    with Image.open(tmp_path / "camera.jpg") as decoded:
        write_image(tmp_path / "upright.png", np.ascontiguousarray(np.rot90(np.asarray(decoded), -1)))
    source = person(rng, 450, 300)
    flat = [value for x, y in source.tolist() for value in (x, y, 0.9)]
    flat[9:12] = [0, 0, 0]
    (tmp_path / "openpose.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": flat}]}))
    source[3] = -1
    (tmp_path / "plain.json").write_text(json.dumps(source.tolist()))

    transfer = PoseTransfer(Session.open(image_model(), extra_outputs=INPUTS))
    target = person(rng, 450, 300)
    fitted = [
        transfer.fit(read_image(tmp_path / image), read_keypoints(tmp_path / keypoints), target)
        for image, keypoints in (("camera.jpg", "openpose.json"), ("upright.png", "plain.json"))
    ]
    outputs = transfer.run(fitted)
    for name, (first, second) in outputs.items():
        np.testing.assert_array_equal(first, second, err_msg=name)


# Refusals


def test_model_without_our_contract_is_refused(double_model):
    with pytest.raises(ContractError, match=r"double\.onnx has a contract of kind 'custom'"):
        PoseTransfer(Session.open(double_model))


def test_contract_without_a_size_is_refused(tensors_model):
    session = Session.open(tensors_model)
    stripped = Contract("tensors", session.contract.inputs, session.contract.outputs, {"height": H})
    with pytest.raises(ContractError, match="lacks width, heatmap_sigma_px, heatmap_kind"):
        PoseTransfer(Session.open(tensors_model, contract=stripped))


def test_model_of_another_keypoint_order_is_refused(tensors_model):
    right = Session.open(tensors_model).contract
    other = Contract("tensors", right.inputs, right.outputs, {**SETTINGS, "keypoint_order": "coco-17"})
    with pytest.raises(ContractError, match="in the order coco-17; pose transfer gives openpose-18"):
        PoseTransfer(Session.open(tensors_model, contract=other))


def test_wrong_arguments_are_named(image_model, rng):
    transfer = PoseTransfer(Session.open(image_model()))
    image, keypoints = picture(rng), person(rng)
    with pytest.raises(ContractError, match=r"an image is float64 .*, expected uint8 \(H, W, 3\)"):
        transfer(image / 255, keypoints, keypoints)
    with pytest.raises(ContractError, match=r"source_keypoints: got float32 \(17, 2\)"):
        transfer(image, keypoints[:17], keypoints)
    with pytest.raises(DataError, match=r"target_keypoints: .* outside the picture"):
        transfer(image, keypoints, keypoints * 10)
    with pytest.raises(ContractError, match="size is 'original', expected network or source"):
        transfer(image, keypoints, keypoints, size="original")
    with pytest.raises(ContractError, match="got 2 images, 1 source keypoints, 2 target"):
        transfer.batch([image] * 2, [keypoints], [keypoints] * 2)
    with pytest.raises(ContractError, match="at least one"):
        transfer.batch([], [], [])


def test_keypoint_outside_the_picture_is_missing_with_a_warning(image_model, rng):
    transfer = PoseTransfer(Session.open(image_model()))
    image, keypoints = picture(rng), person(rng)
    outside = keypoints.copy()
    outside[4] = 5, 99
    with pytest.warns(PosewarpWarning, match=r"source_keypoints: right_wrist \(5, 99\) outside"):
        fitted = transfer.fit(image, outside, keypoints)
    np.testing.assert_array_equal(fitted.source_keypoints[4], -1)
