"""``python export/to_onnx.py``: exit codes, one line on failure, no file left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from posewarp.export import to_onnx
from posewarp.models import checkpoint
from posewarp.runtime import command

SCRIPT = Path(to_onnx.__file__)


def run(*arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["to_onnx.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        command.main(to_onnx.app)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return stop.value.code, said.out, said.err


@pytest.fixture(scope="module")
def saved(tiny_generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tiny.safetensors"
    checkpoint.save(path, tiny_generator.state_dict(), tiny_generator.config, {"weights": "ema"})
    return path


def test_the_script_runs_from_any_folder_and_writes_beside_the_checkpoint(saved, tmp_path):
    report = tmp_path / "report.json"
    command_line = [sys.executable, SCRIPT, saved, "--json", report]
    done = subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert saved.with_suffix(".onnx").is_file()
    written = json.loads(report.read_text())
    assert (written["path"], written["warp"], written["opset"]) == (
        str(saved.with_suffix(".onnx")),
        "portable",
        18,
    )
    assert all(parity["max"] <= parity["max_limit"] for parity in written["parity"])
    assert "weights: ema" in done.stdout
    assert "generated, batch 3: max" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text.pt",), "CheckpointError: "),
        (("missing.pt",), "CheckpointError: "),
        (("{saved}", "-o", "no/such/folder.onnx"), "ExportError: no/such/folder.onnx cannot be written"),
        (("{saved}", "--json", "no/such/report.json"), "ExportError: no/such/report.json cannot be written"),
        (("{saved}", "--weights", "raw"), "CheckpointError: "),
        (("{saved}", "--preset", "large"), "ContractError: no preset 'large'"),
        (
            ("{saved}", "--config", "text.pt"),
            "ContractError: text.pt is no JSON file of a generator's configuration",
        ),
        (("--spec", "text.py:make", "-o", "a.onnx"), "ExportError: text.py does not exist"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(arguments, message, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("not a checkpoint\n")
    filled = [argument.format(saved=saved) for argument in arguments]
    if "-o" not in filled:
        filled += ["-o", "model.onnx"]
    code, out, err = run(*filled, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (1, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--spec", "module:function"),
        ("a.pt", "--io", "video"),
        ("a.pt", "--warp", "native"),
        ("a.pt", "--opset", "new"),
        ("a.pt", "--spec", "module:function", "--io", "tensors"),
        ("a.pt", "--preset", "small", "--config", "a.json"),
        ("a.pt", "--no-such-flag"),
    ],
)
def test_misuse_is_exit_code_2(arguments, monkeypatch, capsys):
    code, _, err = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert err
