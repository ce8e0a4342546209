"""MNN files: what is refused, what is proven before a file gets its name, and what is built again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from posewarp.export import to_mnn as module
from posewarp.export.engines import mnn_process
from posewarp.export.to_mnn import to_mnn
from posewarp.runtime.errors import EngineError, ExportError, ParityError
from posewarp.runtime.session import Session

pytest.importorskip("MNN")


@pytest.fixture
def warp_file(tmp_path):
    """Writes a model of one warp, 4-D, dynamic batch."""

    def write(
        mode="bilinear", padding="zeros", corners=1, kind=TensorProto.FLOAT, op="GridSample", domain=""
    ):
        values = (
            {"mode": mode, "padding_mode": padding, "align_corners": corners} if op == "GridSample" else {}
        )
        graph = helper.make_graph(
            [helper.make_node(op, ["features", "grid"], ["sampled"], domain=domain, **values)],
            "warp",
            [
                helper.make_tensor_value_info("features", kind, ("batch", 3, 16, 18)),
                helper.make_tensor_value_info("grid", kind, ("batch", 20, 22, 2)),
            ],
            [helper.make_tensor_value_info("sampled", kind, ("batch", 3, 20, 22))],
        )
        opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path

    return write


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("corners", [0, 1])
def test_a_warp_is_sampled_as_onnx_runtime_does(warp_file, padding, corners):
    path = warp_file("bilinear", padding, corners)
    report = to_mnn(path, data="random")
    assert report.sidecar.parity[0]["status"] == "passed"
    rng = np.random.default_rng(1)
    feeds = {
        "features": rng.standard_normal((2, 3, 16, 18), np.float32),
        # On pixels, between them, on the edge, and in the padding.
        "grid": rng.integers(-20, 21, (2, 20, 22, 2)).astype(np.float32) / 16,
    }
    with Session.open(path) as reference, Session.open(report.path) as session:
        assert session.contract == reference.contract
        expected, got = reference.run(feeds)["sampled"], session.run(feeds)["sampled"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "padding"), [("bicubic", "zeros"), ("nearest", "border"), ("bilinear", "reflection")]
)
def test_a_warp_that_mnn_gets_wrong_is_refused(warp_file, mode, padding):
    with pytest.raises(ExportError, match=f"MNN gets the {mode} warp 'sampled' with {padding} padding wrong"):
        to_mnn(warp_file(mode, padding), data="random")


def test_an_unknown_operator_is_named(warp_file, tmp_path):
    with pytest.raises(EngineError, match="MNN has no operator Twist;"):
        to_mnn(warp_file(op="Twist", domain="their.own"), data="random")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_half_files_and_options_of_tensorrt_are_refused(warp_file):
    with pytest.raises(ExportError, match="cannot be handed to MNN, which takes float32, uint8, int32"):
        to_mnn(warp_file(kind=TensorProto.FLOAT16), data="random")
    path = warp_file()
    with pytest.raises(EngineError, match="targets can be set for TensorRT only"):
        to_mnn(path, targets=["8.6"])
    with pytest.raises(EngineError, match="runs in FP32 only"):
        to_mnn(path, precision="fp16")
    with pytest.raises(EngineError, match=r"let it end in \.mnn"):
        to_mnn(path, "model.engine")


def test_what_differs_is_not_written_and_the_previous_file_stays(warp_file, tmp_path, monkeypatch):
    path = warp_file()
    to_mnn(path, data="random")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    run = mnn_process.run

    def wrong(*arguments):
        return [{"sampled": each["sampled"] + 0.02} for each in run(*arguments)]

    monkeypatch.setattr(module.mnn_process, "run", wrong)
    with pytest.raises(ParityError, match=r"model.mnn: sampled at batch 1: .* it was not written"):
        to_mnn(path, data="random", force=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_child_that_crashes_is_one_line(warp_file, tmp_path, monkeypatch):
    crash = "import os, sys; print('about to'); sys.stdout.flush(); os.abort()"
    real = mnn_process.subprocess.run
    monkeypatch.setattr(
        mnn_process.subprocess, "run", lambda words, **more: real([words[0], "-c", crash], **more)
    )
    with pytest.raises(EngineError, match="MNN should convert was ended by SIGABRT; it last said: about to"):
        to_mnn(warp_file(), data="random")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_what_the_converter_drops_where_it_runs_is_not_in_the_users_folder(tmp_path, monkeypatch):
    fake = "def mnnconvert(words): open('.dropped', 'w'); open(words[words.index('--MNNModel') + 1], 'w')\n"
    for name in ("modules", "user", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "modules" / "_tools.py").write_text(fake)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=os.pathsep)
    monkeypatch.setattr(mnn_process, "find_spec", lambda name: name)
    monkeypatch.chdir(tmp_path / "user")
    mnn_process.convert(Path("m.onnx"), Path("../temporary/m.mnn"))
    assert not list((tmp_path / "user").iterdir())
    assert {path.name for path in (tmp_path / "temporary").iterdir()} == {".dropped", "m.mnn"}


def test_only_what_has_changed_is_built_again(warp_file):
    path = warp_file()
    assert not to_mnn(path, data="random").unchanged
    assert to_mnn(path, data="random").unchanged
    warp_file(padding="border")
    report = to_mnn(path, data="random")
    assert not report.unchanged
    assert json.loads(report.sidecar.to_json())["backend"] == "mnn"


@pytest.mark.slow
def test_what_winograd_costs_first_order_motion_depends_on_what_it_is_given(foreign, tmp_path):
    """It divides by a determinant: of noise the small differences are all there is, of pictures they are not."""
    network = foreign("first_order")
    output = tmp_path / "model.mnn"
    with pytest.raises(ParityError, match=r"model\.mnn: prediction at batch 1: .*it was not written"):
        to_mnn(network.path, output, data="random")
    assert not list(tmp_path.iterdir())
    report = to_mnn(network.path, output, data=network.npz)
    assert 5e-5 < max(entry["max_abs"] for entry in report.sidecar.parity[0]["outputs"]) < 1e-3


@pytest.mark.slow
def test_the_generator_in_contract_image_gives_the_same_picture(exported):
    path = exported("image").path
    report = to_mnn(path)
    assert {entry["sizes"] for entry in report.sidecar.parity[0]["outputs"]} == {"batch 1", "batch 3"}
    assert max(entry["max_abs"] for entry in report.sidecar.parity[0]["outputs"]) <= 1
