"""An engine and its side-car as a pair of files: built again or not, failures, crashes, full disks, adoption."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from posewarp.cli.inspect_model import app as inspect_app
from posewarp.export import to_engine as module
from posewarp.export.adopt import adopt
from posewarp.export.engines.profiles import Shapes
from posewarp.export.to_engine import to_engine
from posewarp.runtime import sidecar
from posewarp.runtime.errors import ContractError, EngineError

_spec = importlib.util.spec_from_file_location("engine_models", Path(__file__).parent / "engine_models.py")
engine_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engine_models)
save_warp_model, build, left_over = (
    engine_models.save_warp_model,
    engine_models.build,
    engine_models.left_over,
)
stub, half = engine_models.stub, engine_models.half


# Rebuilding


def test_nothing_is_built_when_nothing_changed(stub, half):
    first = build(half)
    before = Path(first.path).stat().st_mtime_ns
    again = build(half)
    assert again.unchanged
    assert "not built again" in str(again)
    assert again.sidecar == first.sidecar or again.sidecar.to_json() == first.sidecar.to_json()
    assert Path(first.path).stat().st_mtime_ns == before
    assert not build(half, force=True).unchanged


@pytest.mark.parametrize(
    "change",
    [
        {"tf32": True},
        {"optimization_level": 2},
        {"workspace_mib": 64},
        {"precision": "fp16"},
        {"version_compatible": True},
        {"profiles": Shapes(opt=["picture:1x3x8x6,grid:1x8x6x2"])},
    ],
)
def test_a_changed_option_builds_again(stub, half, change):
    build(half)
    assert not build(half, **change).unchanged
    assert build(half, **change).unchanged


def test_a_changed_file_or_library_builds_again(stub, half):
    build(half)
    model = onnx.load(half)
    model.doc_string = "changed"
    onnx.save(model, half)
    assert not build(half).unchanged
    assert build(half).unchanged
    stub("v10_3")
    assert not build(half).unchanged


def test_a_damaged_engine_builds_again(stub, half):
    report = build(half)
    with open(report.path, "r+b") as file:
        file.seek(40)
        file.write(b"x")
    assert not build(half).unchanged


def test_weights_beside_the_file_belong_to_its_hash(stub, half, tmp_path):
    model = onnx.load(half)
    onnx.save(model, half, save_as_external_data=True, location="weights.bin", size_threshold=0)
    build(half)
    assert build(half).unchanged
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert not build(half).unchanged


# The timing cache


def test_a_timing_cache_is_kept_by_version_and_used_again(stub, half, tmp_path):
    folder = tmp_path / "caches"
    first = build(half, timing_cache=str(folder))
    again = build(half, timing_cache=str(folder), force=True)
    assert not [note for note in (*first.notes, *again.notes) if "cache" in note]
    (file,) = folder.iterdir()
    assert "11.4.0.106" in file.name
    stub("v10_3")
    build(half, timing_cache=str(folder))
    assert len(list(folder.iterdir())) == 2


def test_a_foreign_timing_cache_is_ignored_with_a_note(stub, half, tmp_path):
    folder = tmp_path / "caches"
    build(half, timing_cache=str(folder))
    (file,) = folder.iterdir()
    file.write_bytes(b"cache of 9.9")
    report = build(half, timing_cache=str(folder), force=True)
    assert any("another TensorRT or GPU; it is ignored" in note for note in report.notes)
    assert file.read_bytes() == b"cache of 11.4.0.106"


# What goes wrong


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("segfault", r"was ended by SIGSEGV; it last said: .*a warning of the stub"),
        ("killed", r"was ended by SIGKILL, as the system does when memory runs out; it last said: a warning"),
        ("refuse", r"the engine cannot be built; TensorRT said: no implementation for node \{ForeignNode"),
    ],
)
def test_a_failed_build_is_one_line_and_leaves_the_pair_as_it_was(stub, half, tmp_path, fault, message):
    report = build(half)
    before = Path(report.path).read_bytes()
    stub("v11_4", fault)
    with pytest.raises(EngineError, match=message) as caught:
        build(half, force=True)
    assert "\n" not in str(caught.value)
    assert Path(report.path).read_bytes() == before
    assert sidecar.check(report.path, needed=True)
    assert not left_over(tmp_path)


def test_a_full_disk_is_one_line_and_leaves_nothing(stub, half, tmp_path):
    stub("v11_4", str(4 << 20))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(EngineError, match=r"model\.fp16\.engine cannot be written: File too large"):
            build(half)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "model.fp16.engine").exists()
    assert not sidecar.path_of(tmp_path / "model.fp16.engine").exists()
    assert not left_over(tmp_path)


def test_a_missing_folder_is_told_before_the_work(half, monkeypatch):
    monkeypatch.setattr(module, "prepare", lambda *_, **__: pytest.fail("worked first"))
    with pytest.raises(EngineError, match=r"the folder .* does not exist"):
        to_engine(half, half.parent / "missing" / "model.engine")


def test_a_model_is_never_overwritten_by_its_engine(half):
    with pytest.raises(EngineError, match=r"no name for an engine: that is a model's"):
        to_engine(half, half)


@pytest.mark.parametrize("name", ["x.bin", "x", "x.json", "x.mnn"])
def test_an_engine_has_a_name_that_inspect_and_parity_know(half, name):
    with pytest.raises(EngineError, match=r"no name for an engine.*; let it end in \.engine or \.plan"):
        to_engine(half, half.with_name(name))


def test_the_pair_is_renamed_so_that_no_side_car_speaks_of_another_plan(stub, half, monkeypatch, tmp_path):
    """Cut off after each step of the last ones: the pair fits, or there is no side-car."""
    build(half)
    real, cut = os.replace, []

    def replace(source, target):
        if Path(target).parent == tmp_path:
            if len(cut) == wanted:
                raise KeyboardInterrupt
            cut.append(target)
        real(source, target)

    for wanted in range(3):
        cut.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                build(half, force=True, optimization_level=wanted)
            except KeyboardInterrupt:
                assert wanted < 2
        found = sidecar.read(tmp_path / "model.fp16.engine")
        assert found is None or sidecar.check(tmp_path / "model.fp16.engine", needed=True)
        assert not left_over(tmp_path)
    assert found is not None  # the third time nothing was cut


def test_ending_the_command_ends_the_build(stub, half, tmp_path, monkeypatch):
    stub("v11_4", "hang")
    started = tmp_path / "started"
    monkeypatch.setenv("STUB_STARTED", str(started))
    command = [sys.executable, "-m", "posewarp.export.to_engine", str(half), "--backend", "tensorrt"]
    for sent, left in ((signal.SIGTERM, False), (signal.SIGKILL, True)):
        started.unlink(missing_ok=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        child = _wait_for(started)
        process.send_signal(sent)
        process.wait(timeout=20)
        for _ in range(200):
            if not Path(f"/proc/{child}").exists():
                break
            time.sleep(0.05)
        else:
            pytest.fail("the builder outlives the command")
        assert not (tmp_path / "model.fp16.engine").exists()
        assert left or not left_over(tmp_path)


def _wait_for(path: Path) -> int:
    for _ in range(400):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    return pytest.fail("the build did not start")


def test_events_are_told(stub, half):
    events = []
    build(half, tell=lambda kind, value: events.append((kind, value)))
    assert ("phase", ["Building engine", None, 1]) in events
    assert ("done", "Building engine") in events
    assert ("log", "a warning of the stub") in events


def test_builds_in_two_threads_do_not_disturb_each_other(stub, tmp_path):
    paths = [save_warp_model(tmp_path / f"m{i}.onnx", half=True) for i in range(2)]
    threads = [threading.Thread(target=build, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(sidecar.check(path.with_suffix(".engine"), needed=True) for path in paths)


# Side-car and adoption


def test_the_side_car_tells_what_the_engine_is(stub, half):
    report = build(half, precision="fp16")
    found = sidecar.check(report.path, needed=True)
    assert found.origin == "built"
    assert found.versions["TensorRT"] == "11.4.0.106"
    assert found.inputs[0] == {"name": "picture", "dtype": "float32", "shape": [-1, 3, 8, 6]}
    assert found.tf32 is False
    assert found.profiles[0]["grid"] == {"min": [1, 8, 6, 2], "opt": [1, 8, 6, 2], "max": [8, 8, 6, 2]}
    assert found.parity == [
        {"reference": "model.fp16.onnx", "model": "model.fp16.engine", "status": "not executed"}
    ]
    assert not found.proven
    assert "not executed" in str(report)


def test_inspect_shows_an_engine_in_lines_and_all_of_it_as_json(stub, half, tmp_path):
    engine = build(half, precision="fp16", version_compatible=True).path
    shown = CliRunner().invoke(inspect_app, [engine, "--json", str(tmp_path / "report.json")])
    assert shown.exit_code == 0, shown.output
    first, *lines = shown.output.splitlines()
    assert first.startswith(f"{engine}: 0.0 MiB, TensorRT 11.4.0.106 on ")
    assert "  input picture: float32 (batch, 3, 8, 6)" in lines
    assert "  output warped: float32 (batch, 3, 8, 6)" in lines
    assert (
        "  profile: --minShapes=grid:1x8x6x2,picture:1x3x8x6 --optShapes=grid:1x8x6x2,picture:1x3x8x6 "
        "--maxShapes=grid:8x8x6x2,picture:8x3x8x6"
    ) in lines
    assert "  options: precision fp16, version_compatible" in lines
    assert "  parity model.fp16.onnx -> model.fp16.engine: not executed" in lines
    assert not [line for line in lines if "None" in line or "{" in line]
    assert json.loads((tmp_path / "report.json").read_text())["tf32"] is False


def test_an_adopted_engine_says_what_is_not_known(stub, half, tmp_path):
    engine = Path(build(half).path)
    sidecar.path_of(engine).unlink()
    adopted = adopt(engine, half)
    assert adopted.origin == "adopted"
    assert adopted.versions["TensorRT"] == "11.4.0.106"  # the plan's own word
    assert adopted.precision == {"asserted": None, "half": 1, "all": 1}
    assert {"device", "tf32", "profiles", "plugins"} <= set(adopted.unknown)
    assert adopted.tf32 is None
    assert not adopted.proven
    assert sidecar.check(engine, needed=True).to_json() == adopted.to_json()
    assert not build(half).unchanged  # adopted is not built


def test_what_is_no_plan_is_not_adopted(half, tmp_path):
    (tmp_path / "model.fp16.engine").write_text("text")
    with pytest.raises(EngineError, match="not a TensorRT engine"):
        adopt(tmp_path / "model.fp16.engine", half)


def test_a_contract_of_another_model_is_refused(stub, half, tmp_path):
    from posewarp.runtime.contract import Contract, TensorSpec

    other = Contract("custom", (TensorSpec("x", "float32", ("batch", 3)),), ())
    with pytest.raises(ContractError, match="does not fit the file"):
        build(half, contract=other)
