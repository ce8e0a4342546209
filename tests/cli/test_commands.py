"""The other commands, and how quickly ``posewarp --help`` comes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
import torch
from networks.one_conv import PADS, conv_model

from posewarp.cli.main import COMMANDS
from posewarp.export.graphs.convolutions import use_winograd
from posewarp.models import checkpoint
from posewarp.runtime import plugin_library


def test_help_lists_the_commands_without_loading_torch_or_onnx():
    code = (
        "import sys; from posewarp.cli.group import app; app(['--help'], standalone_mode=False); "
        "sys.exit([name for name in ('torch', 'onnx', 'onnxruntime', 'cv2') if name in sys.modules] or 0)"
    )
    fastest = 9.0
    for _ in range(3):
        started = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        fastest = min(fastest, time.perf_counter() - started)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in COMMANDS)
    assert fastest < 0.5


def test_export_then_inspect_shows_the_contract(posewarp, generator, tmp_path):
    path = tmp_path / "generator.safetensors"
    checkpoint.save(path, generator.state_dict(), generator.config, {"weights": "raw"})
    code, out, err = posewarp("export", path, "--io", "tensors")
    assert (code, err) == (0, "")
    assert "parity" in out
    code, out, _ = posewarp("inspect", tmp_path / "generator.onnx", "--json", tmp_path / "report.json")
    assert code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["io"] == "tensors"
    assert report["opset"] == 18
    assert [entry["name"] for entry in report["inputs"]] == [
        "source_image",
        "source_heatmaps",
        "target_heatmaps",
    ]
    assert report["outputs"][0]["shape"] == ["batch", 3, 64, 32]
    assert [(warp["mode"], warp["padding_mode"], warp["align_corners"]) for warp in report["warps"]] == [
        ("bilinear", "zeros", 1)
    ] * 3
    assert "posewarp.checkpoint_sha256" in report["metadata"]
    for word in ("opset 18", "source_heatmaps", "(batch, 18, 64, 32)", "bilinear", "posewarp.versions"):
        assert word in out


def test_inspect_shortens_long_metadata_on_the_screen_only(posewarp, tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[1] x) => (float[1] y) { y = Identity (x) }'
    )
    onnx.helper.set_model_props(model, {"long": "x" * 5000})
    onnx.save(model, tmp_path / "long.onnx")
    _, out, _ = posewarp("inspect", tmp_path / "long.onnx", "--json", tmp_path / "report.json")
    assert "4500 characters more, see --json" in out
    assert len(out) < 1500
    assert json.loads((tmp_path / "report.json").read_text())["metadata"]["long"] == "x" * 5000


def test_inspect_names_a_file_of_weights_that_is_missing(posewarp, tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[512] x) => (float[512] y) { y = Add (x, w) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(512, np.float32), "w"))
    path = tmp_path / "big.onnx"
    onnx.save(model, path, save_as_external_data=True, location="big.data")
    assert "missing" not in posewarp("inspect", path)[1]
    (tmp_path / "big.data").unlink()
    code, out, _ = posewarp("inspect", path)
    assert code == 0
    assert "weights missing: they are in 'big.data', which is not there; put it beside the model" in out


def test_inspect_shows_what_is_known_of_an_mnn_file(posewarp, mnn_model, tmp_path):
    code, out, err = posewarp("inspect", mnn_model, "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert re.search(r"model\.mnn: \d\.\d MiB, MNN 3\.\S+ on the CPU", out)
    for line in ("contract: io image", "precision: fp32", "parity model.onnx -> model.mnn: passed"):
        assert line in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["contract"]["io"] == "image"
    assert report["plan"]["bytes"] == mnn_model.stat().st_size
    assert report["mib"] == mnn_model.stat().st_size / 2**20


@pytest.mark.parametrize("content", [b"", b"abc", b"<html>no model</html>", bytes(64), bytes(range(256)) * 9])
def test_inspect_refuses_what_is_no_mnn_file(posewarp, tmp_path, content):
    path = tmp_path / "model.mnn"
    path.write_bytes(content)
    assert posewarp("inspect", path)[::2] == (
        1,
        f"EngineError: {path} is not an MNN file, or is truncated\n",
    )


def test_inspect_counts_the_convolutions_for_winograd_and_misses_the_library(posewarp, tmp_path, monkeypatch):
    path = tmp_path / "model.cpu.onnx"
    onnx.save(use_winograd(conv_model(**PADS))[0], path)
    for library, said in ((path, "is here to take them"), (None, "no plugin library here")):
        monkeypatch.setattr(plugin_library, "find", lambda name, library=library: library)
        code, out, _ = posewarp("inspect", path)
        assert code == 0
        assert "convolutions spelled for Winograd's filtering: 1" in out
        assert said in out


def test_inspect_of_an_mnn_file_without_its_own_side_car(posewarp, mnn_model, tmp_path):
    path = tmp_path / "model.mnn"
    code, _, err = posewarp("inspect", path)
    assert (code, err) == (1, f"EngineError: {path} cannot be read: it is not a file, or not there\n")
    path.write_bytes(mnn_model.read_bytes())
    code, out, _ = posewarp("inspect", path)
    assert code == 0
    assert "side-car: none, so no session opens it; posewarp build model.onnx --backend mnn" in out
    path.write_bytes(mnn_model.read_bytes()[:-8])
    path.with_name("model.mnn.json").write_text(mnn_model.with_name("model.mnn.json").read_text())
    code, _, err = posewarp("inspect", path)
    assert code == 1
    assert "it is cut short, or another engine's side-car lies beside it" in err


def test_parity_runs_an_mnn_file_by_the_contract_of_its_side_car(posewarp, model, mnn_model, tmp_path):
    code, out, err = posewarp("parity", model, mnn_model, "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert f"MNN {mnn_model}" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["status"], report["dtype"]) == ("passed", "winograd")
    assert [case["sizes"] for case in report["cases"]] == [{"batch": 1}, {"batch": 3}]
    code, _, err = posewarp("parity", model, mnn_model, "--atol", 0, "--dtype", "fp32", "--psnr-db", 300)
    assert code == 1
    assert "beyond their limit" in err


def test_parity_with_an_mnn_file_is_not_executed_where_mnn_is_missing(
    posewarp, model, mnn_model, monkeypatch
):
    monkeypatch.setattr("posewarp.export.ladder.rungs.find_spec", lambda name: None)
    code, _, err = posewarp("parity", model, mnn_model)
    assert code == 1
    assert "not executed: MNN" in err
    assert "pip install posewarp[mnn]" in err


@pytest.mark.parametrize("suffix", ["json", "textproto", "onnxtxt"])
def test_inspect_and_lint_take_no_text_for_a_model(posewarp, tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    path.write_text('{"graph": []}')
    for command in (("inspect",), ("lint", "--target", "rtx"), ("build", "--backend", "cpu")):
        code, _, err = posewarp(*command, path)
        assert code == 1
        assert err.count("\n") == 1
        assert f"{path} is not an ONNX " in err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"<html>", "not an ONNX model"), (b"", "not an ONNX model")],
)
def test_inspect_refuses_what_is_no_model(posewarp, tmp_path, content, message):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    code, _, err = posewarp("inspect", path)
    assert code == 1
    assert err.startswith(f"BackendError: {path}")
    assert message in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("inspect m.onnx --json m.onnx", "--json m.onnx would overwrite the input m.onnx"),
        ("lint m.onnx --target rtx --json m.onnx", "--json m.onnx would overwrite the input m.onnx"),
        ("fp16 m.onnx --json m.fp16.onnx", "--json m.fp16.onnx would overwrite --output m.fp16.onnx"),
        ("build m.onnx --json m.onnx", "--json m.onnx would overwrite the input m.onnx"),
        ("build m.onnx --json m.engine", "--json m.engine would overwrite --output m.engine"),
        ("build m.onnx --json m.engine.json", "would overwrite the side-car m.engine.json"),
        (
            "parity m.onnx m.onnx --save-inputs m.onnx",
            "--save-inputs m.onnx would overwrite the input m.onnx",
        ),
        (
            "parity m.onnx m.onnx --data in.npz --json in.npz",
            "--json in.npz would overwrite the input in.npz",
        ),
        ("parity m.onnx m.engine --json m.engine.json", "would overwrite the input m.engine.json"),
        ("parity m.onnx m.mnn --json m.mnn.json", "would overwrite the input m.mnn.json"),
        ("inspect m.mnn --json m.mnn.json", "would overwrite the input m.mnn.json"),
        ("parity net.py:f m.onnx --json net.py", "--json net.py would overwrite the input net.py"),
        (
            "parity m.onnx m.onnx --save-inputs x.json --save-outputs x.json",
            "--save-outputs x.json would overwrite --save-inputs x.json",
        ),
        ("export m.pt --json m.pt", "--json m.pt would overwrite the input m.pt"),
        ("export m.pt --json m.onnx", "--json m.onnx would overwrite --output m.onnx"),
        ("adopt m.engine --onnx m.engine.json", "would overwrite the input m.engine.json"),
    ],
)
def test_no_command_overwrites_what_it_reads_or_writes_besides(
    posewarp, tmp_path, monkeypatch, command, message
):
    monkeypatch.chdir(tmp_path)
    kept = {
        name: name.encode() for name in ("m.onnx", "m.pt", "m.engine", "m.engine.json", "in.npz", "net.py")
    }
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    code, _, err = posewarp(*command.split())
    assert code == 1
    assert f"{message}; give another path" in err
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_text_file_as_checkpoint_gives_one_line_and_no_file(posewarp, tmp_path):
    path = tmp_path / "generator.pt"
    path.write_text("not a checkpoint\n")
    code, _, err = posewarp("export", path)
    assert code == 1
    assert err.startswith("CheckpointError: ")
    assert str(path) in err
    assert err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["generator.pt"]


def test_train_command_makes_a_checkpoint_that_names_its_command(posewarp, tmp_path):
    arguments = ("train", "-o", tmp_path, "--steps", 2, "--batch-size", 2, "--pairs", 4, "--workers", 0)
    code, out, _ = posewarp(*arguments, "--stop-after", 1)
    assert code == 0
    assert "stopped at step 1 of 2" in out
    code, out, _ = posewarp(*arguments)
    assert code == 0
    loaded = checkpoint.load(tmp_path / "generator.safetensors")
    assert loaded.metadata["command"].startswith("posewarp train -o")
    assert "held_out_psnr_db" in json.loads(loaded.metadata["figures"])


def test_training_on_a_gpu_that_is_not_there_is_refused(posewarp, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = posewarp("train", "-o", tmp_path / "run", "--device", "cuda")
    assert code == 1
    assert err.startswith("BackendError: --device cuda")
    assert not (tmp_path / "run").exists()
