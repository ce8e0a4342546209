"""Parity with a file that ONNX Runtime's CUDA provider runs; here its CPU provider stands in for that."""

import sys

import onnx
import pytest
from networks.one_warp import one_warp

from posewarp.export.parity import app, parity
from posewarp.runtime import command
from posewarp.runtime.errors import BackendError, ParityError
from posewarp.runtime.session import Session


@pytest.fixture
def reference(tmp_path):
    onnx.save(one_warp(96, 64), tmp_path / "reference.onnx")
    return tmp_path / "reference.onnx"


@pytest.fixture
def half(tmp_path):
    onnx.save(one_warp(96, 64, half=True), tmp_path / "half.onnx")
    return tmp_path / "half.onnx"


def test_a_file_on_cuda_runs_as_it_is_and_is_held_to_itself_on_the_cpu(reference, half, monkeypatch):
    real = Session.open.__func__
    opened = []

    def open_session(cls, path, *, device=None, **options):
        opened.append(device or "cpu")
        return real(cls, path, **options)  # ONNX Runtime's CPU provider in the place of the other

    monkeypatch.setattr(Session, "open", classmethod(open_session))
    report = parity(reference, half, data="random", device="cuda")
    assert report.candidate == f"ONNX FP16 on CUDA {half}"
    assert opened.count("cuda") == 2  # the file, and the one that tells its grids
    assert any("run by ONNX Runtime's CUDA provider" in note for note in report.notes)
    assert not any("emulated on the CPU" in note for note in report.notes)
    assert report.warps[0].own_flow_p999_px is not None
    same = parity(reference, reference, data="random", device="cuda", batches=[1])
    names = same.reference, same.candidate
    assert names == tuple(f"ONNX FP32{on} {reference}" for on in ("", " on CUDA"))
    assert same.passed


def test_without_cuda_its_rung_is_not_executed(reference, half, monkeypatch, capsys):
    real = Session.open.__func__

    def open_session(cls, path, *, device=None, **options):
        if device == "cuda":
            raise BackendError("ONNX Runtime cannot run on cuda: no driver")
        return real(cls, path, **options)

    monkeypatch.setattr(Session, "open", classmethod(open_session))
    monkeypatch.setattr(sys, "argv", ["parity", *map(str, (reference, half)), "--device", "cuda"])
    with pytest.raises(SystemExit) as ended:
        command.main(app)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "not executed" in said
    assert "no driver" in said


def test_only_an_onnx_file_is_run_on_a_chosen_device(reference, tmp_path):
    with pytest.raises(ParityError, match=r"outputs.json is no ONNX file, .*leave out --device cuda"):
        parity(reference, tmp_path / "outputs.json", device="cuda")
