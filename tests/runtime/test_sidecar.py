"""The side-car: what it holds comes back, and each way in which it and its plan may not fit is one line."""

from __future__ import annotations

import json
import struct

import pytest

from posewarp.runtime import sidecar
from posewarp.runtime.errors import EngineError
from posewarp.runtime.files import sha256
from posewarp.runtime.sidecar import Sidecar


def make_plan(path, tag=b"ftrt", version=(11, 1, 0, 106), size=400):
    length = size if tag == b"vtrt" else 0
    head = struct.pack("<4sIQQ", tag, 0, 0, length) + bytes(version)
    path.write_bytes(head + bytes(range(256))[: size - len(head)].ljust(size - len(head), b"\1"))
    return path


def make_sidecar(engine, **values):
    known = {
        "origin": "built",
        "plan": {"sha256": sha256(engine), "bytes": engine.stat().st_size},
        "onnx": {"name": "model.fp16.onnx", "sha256": "0" * 64},
        "backend": "tensorrt",
        "versions": {"TensorRT": "11.1.0.106"},
        "device": {"name": "NVIDIA A10", "compute_capability": "8.6"},
    }
    return Sidecar(**{**known, **values})


@pytest.fixture
def engine(tmp_path):
    path = make_plan(tmp_path / "model.engine")
    sidecar.write(path, make_sidecar(path))
    return path


def test_what_is_written_is_read(engine):
    written = make_sidecar(engine, profiles=[{"x": {"min": [1], "opt": [1], "max": [2]}}], tf32=False)
    sidecar.write(engine, written)
    assert sidecar.read(engine).to_json() == written.to_json()
    assert sidecar.check(engine).tf32 is False
    assert sidecar.path_of(engine).name == "model.engine.json"


def test_an_engine_without_side_car_is_an_error_only_where_one_is_needed(engine):
    sidecar.path_of(engine).unlink()
    assert sidecar.check(engine) is None
    with pytest.raises(EngineError, match=r"no side-car model\.engine\.json; write one: posewarp adopt"):
        sidecar.check(engine, needed=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: its build was cut off"),
        (b"<html>not found</html>" * 9, "is not a TensorRT engine; build one: posewarp build"),
        (b"ftrt\0\0", r"is cut short: 6 bytes, expected 28"),
        (b'\x30\0\0\0{"task": "detect"}' * 9, "begins as the files of Ultralytics do"),
        (
            b"vtrt" + bytes(12) + (4000).to_bytes(8, "little") + bytes(100),
            "is cut short: 124 bytes, expected 4000",
        ),
    ],
)
def test_a_file_that_is_no_whole_plan_is_one_line(engine, content, message):
    engine.write_bytes(content)
    with pytest.raises(EngineError, match=message):
        sidecar.check(engine)


def test_a_missing_engine_is_one_line(tmp_path):
    with pytest.raises(EngineError, match="cannot be read: No such file"):
        sidecar.check(tmp_path / "missing.engine")


def test_a_truncated_engine_is_told_by_its_side_car(engine):
    engine.write_bytes(engine.read_bytes()[:-10])
    with pytest.raises(EngineError, match="has 390 bytes, its side-car speaks of 400: it is cut short"):
        sidecar.check(engine)


def test_the_side_car_of_another_engine_is_told(engine):
    data = bytearray(engine.read_bytes())
    data[100] ^= 1
    engine.write_bytes(data)
    with pytest.raises(EngineError, match="is the side-car of another engine"):
        sidecar.check(engine)


@pytest.mark.parametrize(
    "text", ["", "text", "[]", "{}", '{"format": 1}', '{"format": 1, "origin": "built", "plan": {}}', "null"]
)
def test_what_is_no_side_car_is_told(engine, text):
    sidecar.path_of(engine).write_text(text)
    with pytest.raises(EngineError, match=r"is not a side-car of an engine"):
        sidecar.check(engine)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"plan": []}, "its entry plan is a list, expected an object"),
        ({"plan": {"sha256": "0" * 64}}, "its entry plan has no bytes"),
        ({"onnx": {"name": 3, "sha256": ""}}, "its entry onnx has no name"),
        ({"options": None}, "its entry options is null, expected an object"),
        ({"device": {}}, "its entry device has no compute_capability"),
        ({"targets": "8.6"}, "its entry targets is a text, expected a list"),
        (
            {"parity": [{"status": "passed"}]},
            "its entry parity holds an object, expected objects with reference",
        ),
        ({"inputs": ["x"]}, "its entry inputs holds a text, expected objects with name, dtype, shape"),
        ({"tf32": 1}, "its entry tf32 is a number, expected true or false"),
        ({"more": 1}, "it has the unknown entry more"),
    ],
)
def test_a_wrong_entry_is_named_in_one_line(engine, values, fault):
    data = json.loads(sidecar.path_of(engine).read_text())
    sidecar.path_of(engine).write_text(json.dumps({**data, **values}))
    with pytest.raises(
        EngineError, match=f"is not a side-car of an engine: {fault}.*; write it again"
    ) as caught:
        sidecar.check(engine)
    assert "Error" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[]", "it holds a list, expected an object"),
        ("null", "it holds null, expected an object"),
        ("text", "it holds no JSON"),
        ("{}", "its entry format is missing"),
        ('{"format": 1}', "its entry origin is missing"),
    ],
)
def test_what_another_json_holds_is_said_in_words(engine, text, fault):
    sidecar.path_of(engine).write_text(text)
    with pytest.raises(EngineError, match=f": {fault};"):
        sidecar.check(engine)


def test_a_side_car_of_another_format_is_told(engine):
    data = json.loads(sidecar.path_of(engine).read_text())
    sidecar.path_of(engine).write_text(json.dumps({**data, "format": 2}))
    with pytest.raises(EngineError, match="is of another format"):
        sidecar.check(engine)


def test_the_header_tells_kind_and_version(engine, tmp_path):
    assert sidecar.read_header(engine) == sidecar.PlanHeader("tensorrt", "11.1.0.106")
    portable = make_plan(tmp_path / "rtx.engine", b"vtrt", (1, 7, 1, 116))
    assert sidecar.read_header(portable) == sidecar.PlanHeader("portable", "1.7.1.116")


def test_a_plan_of_an_unknown_kind_is_not_refused_for_it(engine):
    make_plan(engine, b"xtrt")
    sidecar.write(engine, make_sidecar(engine))
    assert sidecar.read_header(engine) == sidecar.PlanHeader("other", None)
    assert sidecar.check(engine, version="11.4.0.106")


@pytest.mark.parametrize("with_side_car", [True, False])
def test_another_version_is_told_by_both_numbers(engine, with_side_car):
    if not with_side_car:
        sidecar.path_of(engine).unlink()
    with pytest.raises(
        EngineError, match=r"built with TensorRT 11\.1\.0\.106, this machine has 11\.0\.0\.5.*Rebuild"
    ):
        sidecar.check(engine, version="11.0.0.5")
    sidecar.check(engine, version="11.1.0.99")  # a build of the same patch


def test_a_version_compatible_engine_runs_on_later_versions_only(engine):
    sidecar.write(engine, make_sidecar(engine, options={"version_compatible": True}))
    sidecar.check(engine, version="11.4.0.106")
    with pytest.raises(EngineError, match=r"Rebuild it here: posewarp build model\.fp16\.onnx"):
        sidecar.check(engine, version="10.3.0.26")


@pytest.mark.parametrize(
    ("values", "fits", "fails"),
    [
        ({}, ["8.6"], ["7.5", "8.9", "9.0"]),
        ({"options": {"hardware_compatibility": "ampere+"}}, ["8.6", "8.0", "12.0"], ["7.5"]),
        ({"options": {"hardware_compatibility": "same-compute-capability"}}, ["8.6"], ["8.9"]),
        ({"device": None}, ["8.6", "9.0"], []),
        ({"backend": "rtx", "device": None, "targets": ["8.6", "8.9"]}, ["8.6", "8.9"], ["12.0"]),
        ({"backend": "rtx", "device": None}, ["8.0", "8.9", "12.0", "12.1"], ["7.5", "9.0"]),
        ({"backend": "rtx", "targets": ["current"]}, ["8.6"], ["8.0", "9.0"]),
    ],
)
def test_another_gpu_is_told(engine, values, fits, fails):
    sidecar.write(engine, make_sidecar(engine, **values))
    for capability in fits:
        sidecar.check(engine, compute_capability=capability)
    for capability in fails:
        with pytest.raises(
            EngineError, match=rf"built for compute capability .*; this machine has {capability}"
        ):
            sidecar.check(engine, compute_capability=capability)


def test_a_rung_of_parity_takes_the_place_of_the_same_one(engine):
    rung = {"reference": "a.onnx", "model": "model.engine", "status": "not executed"}
    sidecar.write(engine, make_sidecar(engine, parity=[rung]))
    assert not sidecar.read(engine).proven
    sidecar.record_parity(engine, {**rung, "status": "passed", "psnr_db": 60.0})
    found = sidecar.check(engine)
    assert [r["status"] for r in found.parity] == ["passed"]
    assert found.proven
    sidecar.record_parity(engine, {**rung, "reference": "b.onnx", "status": "failed"})
    assert not sidecar.read(engine).proven


def test_no_parity_is_not_proven(engine):
    assert not sidecar.read(engine).proven


def test_a_side_car_that_cannot_be_written_leaves_nothing(tmp_path, engine):
    with pytest.raises(EngineError, match="does not exist"):
        sidecar.write(tmp_path / "missing" / "x.engine", make_sidecar(engine))
