"""benchmarks/parity.py: a wrong rung is named, one that cannot run says so, the files hold every row."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from networks.one_warp import one_warp
from typer.testing import CliRunner

from posewarp.benchmarks import parity as command
from posewarp.benchmarks.harness import networks
from posewarp.benchmarks.ladder import rungs as ladder
from posewarp.benchmarks.ladder.measure import steps_of
from posewarp.benchmarks.ladder.rungs import Opened, Rung, rungs_of
from posewarp.export.ladder.measures import TOLERANCES
from posewarp.export.ladder.rungs import NotExecuted
from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.runtime.contract import Contract, TensorSpec
from posewarp.runtime.errors import BackendError, DataError, EngineError, ParityError

HEIGHT, WIDTH = 48, 32
RUNNABLE = {
    "ONNX Runtime, gridsample", "ONNX Runtime, gather", "ONNX Runtime + operator",
    "ONNX Runtime + operator, Winograd", "MNN", "emulated",
}  # fmt: skip
ENGINES = {"TensorRT-RTX", "TensorRT"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of one warp that is not ours, and the same in FP16, sound and with the wrong axes."""
    folder = tmp_path_factory.mktemp("ladder")
    onnx.save(one_warp(HEIGHT, WIDTH), folder / "one.onnx")
    onnx.save(one_warp(HEIGHT, WIDTH, half=True, fault="swapped axes"), folder / "one.fp16.onnx")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "cuda_missing", lambda: "no CUDA driver")  # on a machine with a GPU too
        return command.parity([str(folder / "one.onnx")], data="random", batches=(1, 2))


def invoke(*arguments):
    return CliRunner().invoke(command.app, [*map(str, arguments)])


def only(*names):
    """Rungs of these names alone."""
    return lambda *given: [rung for rung in rungs_of(*given) if rung.name in names]


def test_every_rung_is_a_row_at_every_batch(run):
    assert {row.rung for row in run.rows} == RUNNABLE | ENGINES
    passed = {(row.rung, row.precision, row.batch) for row in run.of_status("passed")}
    assert {("ONNX Runtime, gather", "fp32", batch) for batch in (1, 2)} <= passed
    assert {("emulated", dtype, 2) for dtype in ("fp16", "bf16")} <= passed
    assert not run.of_status("failed")
    assert {row.size for row in run.rows if row.batch} == {f"3x{HEIGHT}x{WIDTH}"}


def test_a_rung_that_cannot_run_says_why_and_has_not_passed(run):
    engines = [row for row in run.rows if row.rung in ENGINES]
    assert {(row.rung, row.precision) for row in engines} == {
        (name, dtype) for name in ENGINES for dtype in ("fp32", "fp16")
    }
    for row in engines:
        assert row.status == "not executed"
        assert row.report.not_executed == "no CUDA driver"


@pytest.mark.parametrize(
    ("build", "rung"), [("to_cpu", "ONNX Runtime + operator, Winograd"), ("to_mnn", "MNN")]
)
def test_a_file_that_fails_its_gate_is_a_row_that_failed(folder, monkeypatch, build, rung):
    def beyond(*_, **__):
        raise ParityError("warped at batch 1: max 0.5;\nit was not written")

    monkeypatch.setattr(networks, build, beyond)
    monkeypatch.setattr(networks, "find_spec", lambda name: name)
    monkeypatch.setattr(networks, "plugin_library", SimpleNamespace(find=lambda name: folder))
    found = command.parity([str(folder / "one.onnx")], data="random", batches=(1,), choose=only(rung))
    (row,) = found.rows
    assert row.failures == ["ParityError: warped at batch 1: max 0.5; it was not written"]


@pytest.mark.parametrize(
    ("refusal", "status"), [("TensorRT is not installed", "not executed"), (None, "failed")]
)
def test_an_engine_that_does_not_build_failed_where_tensorrt_takes_the_card(
    folder, monkeypatch, refusal, status
):
    def build(*_, **__):
        raise EngineError("the engine cannot be built")

    monkeypatch.setattr(ladder, "cuda_missing", lambda: None)
    monkeypatch.setattr(ladder.engines, "build", build)
    monkeypatch.setattr(ladder.engines, "refusal", lambda folder, backend: refusal)
    found = command.parity([str(folder / "one.onnx")], data="random", batches=(1,), choose=only("TensorRT"))
    assert [row.status for row in found.rows] == [status] * 2
    for row in found.rows:
        said = row.report.not_executed or row.failures[0]
        assert said == (refusal or "EngineError: the engine cannot be built")


def test_the_operator_is_not_executed_where_it_is_not_built(folder, monkeypatch):
    monkeypatch.setattr(ladder.plugin_library, "find", lambda name: None)
    found = command.parity(
        [str(folder / "one.onnx")],
        data="random",
        batches=(1,),
        choose=only("ONNX Runtime + operator"),
    )
    (row,) = found.rows
    assert row.status == "not executed"
    assert "make plugins" in row.report.not_executed


def test_drift_of_every_warp_is_told_at_one_batch(run):
    rows = [row for row in run.rows if row.rung in ("emulated", "ONNX Runtime, gather") and row.report.warps]
    assert {(row.rung, row.precision, row.batch) for row in rows} == {
        ("emulated", "fp16", 2), ("emulated", "bf16", 2), ("ONNX Runtime, gather", "fp32", 2)
    }  # fmt: skip
    for row in rows:
        assert row.report.warps[0].same_flow_max_px == pytest.approx(0, abs=1e-4)
        assert (row.report.warps[0].own_flow_p999_px > 0) == (row.precision != "fp32")


def test_a_wrong_rung_exits_with_1_and_is_named_after_all_is_written(folder, tmp_path):
    result = invoke(
        folder / "one.onnx",
        folder / "one.fp16.onnx",
        "--data",
        "random",
        "--batch-size",
        2,
        "-o",
        tmp_path / "out",
    )
    assert isinstance(result.exception, ParityError)
    assert "one (custom), emulated, one.fp16.onnx, fp16, 3x48x32, batch 2: " in str(result.exception)
    assert "gather" not in str(result.exception)
    data = json.loads((tmp_path / "out/parity.json").read_text())
    failed = [row for row in data["rows"] if row["status"] == "failed"]
    assert [row["rung"] for row in failed] == ["emulated, one.fp16.onnx"]
    assert any("samples" in failure and "px off" in failure for failure in failed[0]["failures"])
    page = (tmp_path / "out/parity.html").read_text()
    assert page.count('<tr class="failed">') == 2  # among the rows, and among the warps
    assert "FAILED" in result.stdout
    assert "not executed: " in result.stdout


def test_the_files_hold_every_row_and_the_page_needs_nothing_else(run, folder, tmp_path):
    result = invoke(
        folder / "one.onnx", "--data", "random", "--batch-size", 1, "--batch-size", 2, "-o", tmp_path
    )
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "parity.json").read_text())
    key = ("rung", "precision", "size", "batch", "status")
    assert [tuple(row[name] for name in key) for row in data["rows"]] == [
        (row.rung, row.precision, row.size, row.batch, row.status) for row in run.rows
    ]
    assert all(row["outputs"] for row in data["rows"] if row["status"] == "passed")
    page = (tmp_path / "parity.html").read_text()
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    assert set(re.findall(r'(?:src|href)="([^"]{0,22})', page)) == {"data:image/png;base64,"}
    for row in run.rows:
        assert f"<td>{row.rung}</td><td>{row.precision}</td>" in page
    assert len(re.findall("<figure>", page)) == len(run.pictures) > 0


def rung_of(run):
    @contextmanager
    def opening():
        yield Opened(run)

    return [Rung("own", "fp32", opening, TOLERANCES["fp32"], 2.0)]


def test_a_rung_that_breaks_down_is_a_row_that_failed(folder):
    def breaks(feeds):
        raise BackendError("out of\nwhatever it needs")

    found = command.parity(
        [str(folder / "one.onnx")], data="random", batches=(2,), choose=lambda *_: rung_of(breaks)
    )
    (row,) = found.rows
    assert row.status == "failed"
    assert row.failures == ["BackendError: out of whatever it needs"]
    assert "batch 2" in row.label


def test_a_rung_without_the_output_failed(folder):
    found = command.parity(
        [str(folder / "one.onnx")],
        data="random",
        batches=(1,),
        choose=lambda *_: rung_of(lambda feeds: {"other": feeds}),
    )
    assert found.rows[0].failures == ["ParityError: it gives no output 'warped'; it gives other"]


def test_when_nothing_was_executed_nothing_passed(folder, tmp_path, monkeypatch):
    def cannot():
        raise NotExecuted("own", "no such machine")

    parity, none = command.parity, [Rung("own", "fp32", cannot, TOLERANCES["fp32"])]
    monkeypatch.setattr(
        command, "parity", lambda *given, **told: parity(*given, **told, choose=lambda *_: none)
    )
    result = invoke(folder / "one.onnx", "--data", "random", "-o", tmp_path)
    assert isinstance(result.exception, ParityError)
    assert "nothing was executed" in str(result.exception)
    assert (tmp_path / "parity.json").exists()


@pytest.fixture(scope="module")
def ours(random_generator, tmp_path_factory):
    """Rows of a checkpoint of ours, without those that take longest to make."""
    config = GeneratorConfig(height=32, width=24, base_width=8, blocks=2, heatmap_sigma_px=3.0)
    path = tmp_path_factory.mktemp("ladder") / "mine.safetensors"
    checkpoint.save(path, random_generator(config).state_dict(), config)
    return command.parity(
        [str(path)], batches=(1, 3), choose=only("ONNX Runtime, portable", "ONNX Runtime, gather")
    )


@pytest.mark.slow
def test_a_checkpoint_is_measured_in_both_contracts_and_at_another_size(ours):
    assert {(row.contract, row.size, row.batch) for row in ours.rows} == {
        *(("image", "32x24", batch) for batch in (1, 3)),
        *(("tensors", size, batch) for size in ("32x24", "40x36") for batch in (1, 3)),
    }
    assert {row.report.reference for row in ours.rows} == {"PyTorch FP32"}
    assert not [row for row in ours.rows if row.contract == "image" and row.failures]


@pytest.mark.slow
def test_an_exported_network_is_as_near_to_float64_as_pytorch(ours):
    for row in ours.rows:
        if row.contract == "image":
            assert row.float64_ratio is None  # rounded to 8 bits
        else:
            assert 0.1 < row.float64_ratio < row.float64_limit
            # A random network this narrow amplifies rounding more than the limits of trained ones allow.
            assert row.report.cases[0].outputs[0].max_abs < 1e-3


@pytest.mark.slow
def test_the_portable_file_tells_its_flow_against_pytorch(ours):
    told = [row for row in ours.rows if row.rung == "ONNX Runtime, portable" and row.report.warps]
    assert len(told) == 3  # one batch of each size
    for row in told:
        assert row.report.warps[0].warp == "flow"
        assert 0 < row.report.warps[0].own_flow_p999_px < 0.01


def test_a_row_beyond_pytorchs_own_error_to_float64_failed(run):
    row = next(row for row in run.rows if row.status == "passed")
    assert not replace(row, float64_ratio=1.9, float64_limit=2.0).failures
    for ratio in (2.1, np.nan):
        beyond = replace(row, float64_ratio=ratio, float64_limit=2.0)
        assert beyond.status == "failed"
        assert "times PyTorch's (limit 2)" in beyond.failures[0]


def test_sizes_change_the_ratio_of_height_and_width():
    axes = ("batch", 3, "height", "width")
    contract = Contract(
        "tensors",
        (
            TensorSpec("source_image", "float32", axes),
            *(
                TensorSpec(f"{name}_heatmaps", "float32", ("batch", 18, "height", "width"))
                for name in ("source", "target")
            ),
        ),
        (TensorSpec("generated", "float32", axes),),
        {
            "height": 64,
            "width": 32,
            "heatmap_sigma_px": 3.0,
            "heatmap_kind": "gaussian",
            "keypoint_order": "openpose-18",
            "size_multiple": 4,
        },
    )
    steps, notes = steps_of(contract, batches=(1, 2))
    assert [(step.size, step.batch) for step in steps] == [
        ("64x32", 1),
        ("64x32", 2),
        ("80x48", 1),
        ("80x48", 2),
    ]
    assert not notes
    assert [
        step.size for step in steps_of(contract, batches=(1,), sizes=[{"height": 96, "width": 64}])[0]
    ] == ["96x64"]


def test_folder_of_a_run_that_failed_is_not_left_empty(tmp_path):
    result = invoke(tmp_path / "gone.onnx", "-o", tmp_path / "new" / "out")
    assert isinstance(result.exception, DataError)
    assert not (tmp_path / "new").exists()


def test_recorded_inputs_that_are_too_few_leave_a_note(folder, tmp_path):
    np.savez(tmp_path / "three.npz", image=np.zeros((3, 3, HEIGHT, WIDTH), np.float32))
    contract = Contract(
        "custom",
        (TensorSpec("image", "float32", ("batch", 3, HEIGHT, WIDTH)),),
        (TensorSpec("warped", "float32", ("batch", 3, HEIGHT, WIDTH)),),
    )
    steps, notes = steps_of(contract, str(tmp_path / "three.npz"))
    assert [step.batch for step in steps] == [1, 3]
    assert re.match("batch 8 was not run: .*holds 3 samples", notes[0])
    with pytest.raises(DataError, match="holds 3 samples"):
        steps_of(contract, str(tmp_path / "three.npz"), batches=(8,))


@pytest.mark.parametrize("text", ["256x176", "height=0", "height=a", "=3"])
def test_a_size_that_cannot_be_read_is_misuse(text, tmp_path):
    result = invoke("--size", text, "-o", tmp_path)
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())
