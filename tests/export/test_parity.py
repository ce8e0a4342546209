"""The gate: planted faults fail it, by the figure that they should; sound pairs pass."""

import json
import math
import re
import sys

import numpy as np
import onnx
import pytest
import torch
from networks.one_warp import FAULTS, one_warp
from onnx import helper
from torch import nn

from posewarp.export.engines.profiles import Shapes
from posewarp.export.graphs.execution import open_model
from posewarp.export.ladder import polygraphy_files, rungs
from posewarp.export.ladder.cases import make_cases
from posewarp.export.ladder.divergence import first_divergence
from posewarp.export.ladder.drift import WarpDrift
from posewarp.export.ladder.measures import TOLERANCES
from posewarp.export.ladder.report import ParityReport
from posewarp.export.ladder.sample_data import load_inputs, read_contract
from posewarp.export.parity import app, parity
from posewarp.export.precision.gate import Gate
from posewarp.export.spec import ExportSpec
from posewarp.export.to_onnx import to_onnx
from posewarp.models import checkpoint
from posewarp.runtime import command, sidecar
from posewarp.runtime.backends import onnxruntime as backend
from posewarp.runtime.contract import Contract, TensorSpec
from posewarp.runtime.errors import (
    BackendError,
    ContractError,
    DataError,
    EngineError,
    ExportError,
    ParityError,
)
from posewarp.runtime.files import sha256
from posewarp.runtime.session import Session
from posewarp.runtime.sidecar import Sidecar

HEIGHT, WIDTH = 96, 64


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    models = {
        "reference": one_warp(HEIGHT, WIDTH),
        "half": one_warp(HEIGHT, WIDTH, half=True),
        **{fault: one_warp(HEIGHT, WIDTH, half=True, fault=fault) for fault in FAULTS},
    }
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    return lambda name: folder / f"{name}.onnx"


def test_a_sound_conversion_passes(files):
    report = parity(files("reference"), files("half"), data="random")
    assert report.passed
    assert report.reference == f"ONNX FP32 {files('reference')}"
    assert report.candidate == f"ONNX FP16 emulated {files('half')}"
    assert [case.sizes for case in report.cases] == [{"batch": 1}, {"batch": 3}]
    assert report.warps[0].same_flow_max_px == 0
    assert 0 < report.warps[0].own_flow_p999_px < 0.01
    assert report.cases[0].outputs[0].psnr_db > 70


FIGURES = {
    "rounded grid": [r"warp sampled samples 0\.02\d* px off with equal flows, max \(limit 0.001 px\)"],
    "swapped axes": [
        r"warped at batch 1: cosine",
        r"warp sampled samples \d\d\.?\d* px off with its own flow",
    ],
    "nearest": [r"warped at batch 1: p99.9 .* times what", r"warped at batch 3: PSNR"],
    "batch": [r"warped at batch 3: PSNR", r"samples \d.\d+ px off"],
    "nan": [r"warped at batch 1: 18432 of 18432 values are NaN or infinite"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_by_its_own_figure(files, fault):
    report = parity(files("reference"), files(fault), data="random")
    assert report.status == "failed"
    for figure in FIGURES[fault]:
        assert any(re.search(figure, failure) for failure in report.failures), report.failures


def test_a_fault_behind_the_first_element_needs_a_batch(files):
    alone = parity(files("reference"), files("batch"), data="random", batches=[1])
    assert alone.passed
    failing = parity(files("reference"), files("batch"), data="random", batches=[2]).failures
    assert not any("at batch 1" in failure for failure in failing)
    assert failing


@pytest.mark.parametrize(
    ("fault", "tensor", "unit"),
    [("rounded grid", "grid", "px"), ("swapped axes", "ordered", "of its"), ("nearest", "sampled", "of its"),
     ("nan", "warped", "of its")],
)  # fmt: skip
def test_drift_names_the_first_tensor_and_the_nearest_warp(files, fault, tensor, unit):
    tolerance = {"own_flow_px": 0.01}
    report = parity(files("reference"), files(fault), data="random", drift=True, tolerance=tolerance)
    assert report.divergence.tensor == tensor
    assert report.divergence.unit.startswith(unit)
    assert report.divergence.warp.startswith("sampled, ")
    assert report.divergence.limit == (0.01 if unit == "px" else 5e-3)
    assert f"first tensor above tolerance: {tensor}" in str(report)


def test_drift_says_so_if_nothing_parts(files):
    report = parity(files("reference"), files("half"), data="random", drift=True)
    assert report.divergence is None
    assert "no intermediate tensor that both graphs have is above tolerance" in report.notes


def test_tensors_are_walked_in_bounded_parts(files, monkeypatch):
    opened = []
    real = __import__("posewarp.export.ladder.divergence", fromlist=["open_model"]).open_model
    monkeypatch.setattr("posewarp.export.ladder.divergence._PART_MIB", 0.2)
    monkeypatch.setattr(
        "posewarp.export.ladder.divergence.open_model",
        lambda model, extra_outputs: opened.append(extra_outputs) or real(model, extra_outputs=extra_outputs),
    )
    reference, faulty = (onnx.load(files(name)) for name in ("reference", "rounded grid"))
    feeds = load_inputs("random", read_contract(reference), batch=2)[0]
    tight = TOLERANCES["fp16"]
    assert first_divergence(reference, faulty, feeds, tight) is None
    assert len(opened) > 6
    assert max(map(len, opened)) < 5
    assert len({name for part in opened for name in part}) == 12


def test_emulation_is_said_to_be_a_model_and_nothing_proven(files):
    said = str(parity(files("reference"), files("half"), data="random", batches=[1]))
    assert "a model of an engine, not a bound" in said
    assert "prove" not in said
    assert "emulated on the CPU" not in str(
        parity(files("reference"), files("reference"), data="random", batches=[1])
    )


# Sizes


def resizable():
    """y = 2x with dynamic batch, height and width; wrong at the largest size."""
    shape = ["n", 3, "height", "width"]
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_profile_is_compared_at_its_smallest_used_largest_and_a_middle_size(tmp_path):
    onnx.save(resizable(), tmp_path / "a.onnx")
    shapes = Shapes(["x:2x3x16x16"], ["x:2x3x32x24"], ["x:4x3x64x32"])
    report = parity(tmp_path / "a.onnx", tmp_path / "a.onnx", data="random", shapes=shapes)
    assert [tuple(case.sizes.values()) for case in report.cases] == [
        (2, 32, 24),  # batch 1 is below the profile
        (3, 32, 24),
        (2, 16, 16),
        (4, 64, 32),
        (3, 40, 24),
    ]
    assert "y, n 3, height 40, width 24: equal" in str(report)
    with pytest.raises(ContractError, match=r"axis height is known; give --minShapes"):
        parity(tmp_path / "a.onnx", tmp_path / "a.onnx", data="random")


def test_our_dynamic_sizes_go_from_half_to_the_contracts_own():
    pictures = TensorSpec("source_image", "uint8", ("batch", "height", "width", 3))
    points = (TensorSpec(f"{who}_keypoints", "float32", ("batch", 18, 2)) for who in ("source", "target"))
    settings = {"height": 64, "width": 36, "size_multiple": 4}
    cases, notes = make_cases(Contract("image", (pictures, *points), (), settings), None, None, None)
    assert [tuple(case.sizes.values()) for case in cases] == [
        (1, 64, 36), (3, 64, 36), (1, 32, 20), (1, 48, 28)]  # fmt: skip
    assert not notes
    assert cases[2].feeds["source_image"].shape == (1, 32, 20, 3)


def test_a_fixed_batch_is_said(tmp_path):
    model = one_warp(16, 12)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "a.onnx")
    report = parity(tmp_path / "a.onnx", tmp_path / "a.onnx", data="random")
    assert [case.sizes for case in report.cases] == [{"batch": 2}]
    assert "the batch is fixed at 2: no other was compared" in report.notes
    with pytest.raises(DataError, match="batch is fixed at 2, got 3"):
        parity(tmp_path / "a.onnx", tmp_path / "a.onnx", data="random", batches=[3])


def test_recorded_inputs_are_as_many_as_they_are(files, tmp_path):
    contract = read_contract(onnx.load(files("reference")))
    np.savez(tmp_path / "two.npz", **load_inputs("random", contract, batch=2)[0])
    report = parity(files("reference"), files("half"), data=tmp_path / "two.npz")
    assert [case.sizes for case in report.cases] == [{"batch": 1}, {"batch": 2}]
    assert any("holds 2 samples, too few for one batch of 3" in note for note in report.notes)
    with pytest.raises(DataError, match="too few for one batch of 4"):
        parity(files("reference"), files("half"), data=tmp_path / "two.npz", batches=[4])


# Rungs


def test_torch_against_its_onnx_passes_with_the_flow_in_pixels(exported, tmp_path):
    made = exported("image")
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, made.generator.state_dict(), made.generator.config)
    report = parity(path, made.path, batches=[2], data="synthetic")
    assert report.passed, str(report)
    assert report.reference == f"torch FP32 {path}"
    (flow,) = report.warps
    assert flow.warp == "flow"
    assert flow.own_flow_p999_px < 1e-4
    assert flow.same_flow_max_px is None
    backwards = parity(made.path, path, batches=[2])
    assert backwards.passed
    assert backwards.candidate == f"torch FP32 {path}"


class Scale(nn.Module):
    def forward(self, x):
        SEEN.append(torch.get_float32_matmul_precision())
        return x @ torch.eye(3) * 2


SEEN: list[str] = []


@pytest.fixture
def own_module(tmp_path):
    """A user's spec and its ONNX file."""
    (tmp_path / "scale.py").write_text(
        "import torch\nfrom posewarp.export.spec import ExportSpec\n"
        "class Scale(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        global SEEN\n        SEEN = torch.get_float32_matmul_precision()\n"
        "        return x @ torch.eye(3) * 2\n"
        "def spec():\n"
        "    return ExportSpec(Scale(), (torch.rand(2, 3),), ('x',), ('y',), {'x': {0: 'n'}, 'y': {0: 'n'}})\n"
    )
    axes = {0: "n"}
    spec = ExportSpec(Scale(), (torch.rand(2, 3),), ("x",), ("y",), {"x": axes, "y": axes})
    to_onnx(spec, tmp_path / "scale.onnx")
    return f"{tmp_path}/scale.py:spec", tmp_path / "scale.onnx"


def test_a_module_of_ones_own_is_a_rung_and_runs_without_tf32(own_module):
    place, path = own_module
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        report = parity(place, path, data="random")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert report.passed
    assert sys.modules["_posewarp_spec_scale"].SEEN == "highest"


def test_an_engine_that_cannot_run_is_not_executed_and_no_pass(files, tmp_path):
    (tmp_path / "model.engine").write_bytes(b"ftrt" + bytes(60))
    report = parity(files("half"), tmp_path / "model.engine", data="random")
    assert report.status == "not executed"
    assert not report.passed
    assert str(report).startswith(f"{files('half')} -> {tmp_path / 'model.engine'}: not executed\n")
    assert "it cannot be run here" in str(report)
    assert "prove" not in str(report)
    assert ParityReport.from_json(report.to_json()) == report


@pytest.fixture
def engine(files, tmp_path, monkeypatch):
    """A plan with its side-car, and a stand-in that runs it as a machine with a GPU would."""
    plan = tmp_path / "model.engine"
    plan.write_bytes(b"ftrt" + bytes(60))
    shapes = {"min": [1, 3, HEIGHT, WIDTH], "opt": [2, 3, HEIGHT, WIDTH], "max": [2, 3, HEIGHT, WIDTH]}
    told = Sidecar(
        origin="built",
        plan={"sha256": sha256(plan), "bytes": 64},
        onnx={"name": "half.onnx", "sha256": "0"},
        backend="tensorrt",
        versions={},
        precision={"half": 3, "all": 3},
        profiles=[{"image": shapes}],
        parity=[{"reference": "half.onnx", "model": plan.name, "status": "not executed"}],
    )
    sidecar.write(plan, told)
    real, runs = Session.open, {}

    def open_session(path, **options):
        return real(runs["as"] if str(path) == str(plan) else path)

    monkeypatch.setattr(rungs.Session, "open", open_session)

    def run_as(name):
        runs["as"] = files(name)
        return plan

    return run_as


def test_an_engine_is_compared_at_its_profile_and_its_side_car_told(files, engine, monkeypatch, capsys):
    def run(name):
        plan = engine(name)
        monkeypatch.setattr(sys, "argv", ["parity", str(files("half")), str(plan), "--data", "random"])
        with pytest.raises(SystemExit) as ended:
            command.main(app)
        (rung,) = sidecar.read(plan).parity
        return ended.value.code, rung

    code, rung = run("reference")
    assert (code, rung["status"], rung["reference"]) == (0, "passed", "half.onnx")
    report = ParityReport.from_json(json.dumps(rung["report"]))
    assert report.candidate.startswith("engine ")
    assert report.dtype == "fp16"
    assert [case.sizes["batch"] for case in report.cases] == [1, 2]
    code, rung = run("swapped axes")
    assert (code, rung["status"]) == (1, "failed")
    assert capsys.readouterr().err.startswith("ParityError: ")


def test_recorded_outputs_are_a_rung(files, tmp_path):
    inputs, outputs = tmp_path / "in.json", tmp_path / "out.json"
    saved = parity(files("reference"), files("half"), data="random", save_inputs=inputs, save_outputs=outputs)
    assert saved.passed
    again = parity(files("reference"), outputs, data=inputs)
    assert again.passed
    assert any("types of one rung are not known: tolerances of fp16" in note for note in again.notes)
    for new, old in zip(again.cases, saved.cases, strict=True):
        assert new.sizes == old.sizes
        assert new.outputs == old.outputs
    polygraphy_files.save_outputs(outputs, "x", polygraphy_files.read_outputs(outputs)[:1])
    with pytest.raises(DataError, match="outputs of fewer runs than there are inputs"):
        parity(files("reference"), outputs, data=inputs)


def test_a_warp_without_its_body_is_run_with_it(files, tmp_path):
    from posewarp.export.graphs.warps import rewrite_warps

    onnx.save(rewrite_warps(onnx.load(files("reference")), "plugin"), tmp_path / "plugin.onnx")
    report = parity(files("reference"), tmp_path / "plugin.onnx", data="random", batches=[1])
    assert report.passed
    assert report.dtype == "fp32"


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        ("reference", "missing", ExportError, "missing.onnx does not exist"),
        ("reference", "text.txt", ParityError, "nothing that can be compared; expected .onnx"),
        ("missing.pt", "missing.pth", ParityError, "both are torch modules"),
        ("missing.pt", "reference", ParityError, "has no contract of posewarp's generator"),
    ],
)
def test_what_cannot_be_compared_is_one_line(files, a, b, error, message):
    with pytest.raises(error, match=message):
        parity(*(name if "." in name else files(name) for name in (a, b)), data="random")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no plan", "^x.engine is not a TensorRT engine"),
        (b"", "^x.engine is empty"),
        (None, "^x.engine is a folder"),
    ],
)
def test_a_fault_of_an_engines_file_comes_before_what_the_machine_lacks(
    files, tmp_path, monkeypatch, content, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.engine").mkdir() if content is None else (tmp_path / "x.engine").write_bytes(content)
    with pytest.raises(EngineError, match=message):
        parity(files("reference"), "x.engine", data="random")


def unknown_operator():
    model = resizable()
    model.graph.node[0].op_type = "Magic"
    return model


def test_errors_of_a_model_in_memory_do_not_name_a_temporary_file():
    with pytest.raises(BackendError, match=r"^the model cannot be opened by .*Magic"):
        Gate(unknown_operator(), [], "fp16")
    with (
        pytest.raises(BackendError, match=r"^mine.onnx cannot be opened by .*Magic"),
        open_model(unknown_operator(), called="mine.onnx"),
    ):
        pass


def test_a_warp_that_moved_by_nan_has_moved(files):
    gate = Gate(onnx.load(files("reference")), [], "fp16")
    assert gate.moved([WarpDrift("still", 0.0, 0.0, 0.0, 0.0)]) == ()
    assert gate.moved([WarpDrift("own", 0.0, 0.0, math.nan), WarpDrift("same", math.nan)]) == ("own", "same")


def test_a_mode_word_of_another_opset_names_the_remedy_in_one_line(tmp_path, capfd):
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode="linear")
    shapes = {"x": ["n", 3, 8, 8], "grid": ["n", 8, 8, 2], "y": ["n", 3, 8, 8]}
    x, grid, y = (helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items())
    graph = helper.make_graph([node], "g", [x, grid], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "a.onnx")
    said = r"a.onnx: .* 'linear', .* bilinear, .*posewarp lint .* any --warp writes it anew$"
    with pytest.raises(BackendError, match=said):
        parity(tmp_path / "a.onnx", tmp_path / "a.onnx", data="random")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_while_onnxruntime_is_imported_stays_what_it_is(monkeypatch, how):
    class Interrupted:
        def find_spec(self, name, *_):
            if name == "onnxruntime":
                try:
                    raise how
                except how as exc:
                    raise ImportError("initialization failed") from exc

    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(how):
        backend._import_onnxruntime()


def test_outputs_are_compared_by_name(files, tmp_path):
    model = onnx.load(files("reference"))
    model.graph.node[-1].output[0] = model.graph.output[0].name = "something"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ParityError, match="the other rung gives no output 'warped'; it gives something"):
        parity(files("reference"), tmp_path / "other.onnx", data="random")


# Report and command


def test_a_report_survives_json_with_infinities(files):
    for fault in ("nan", "batch"):
        report = parity(files("reference"), files(fault), data="random", drift=True)
        text = report.to_json()
        data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert data["status"] == "failed"
        again = ParityReport.from_json(text)
        assert again.to_json() == text
        assert math.isinf(again.cases[0].outputs[0].worst) == (fault == "nan")
    with pytest.raises(ParityError, match="no report of parity"):
        ParityReport.from_json("{}")


def test_tolerances_can_be_set(files):
    def status(**tolerance):
        return parity(
            files("reference"), files("half"), data="random", batches=[1], tolerance=tolerance
        ).status

    assert status() == "passed"
    assert status(atol=1e-6, rtol=0.0) == "failed"
    assert status(cosine=1.1) == "failed"
    assert status(psnr_db=120.0) == "failed"
    assert status(own_flow_px=1e-4) == "failed"
    strict = parity(files("reference"), files("half"), data="random", batches=[1], dtype="fp32")
    assert strict.status == "failed"


@pytest.mark.parametrize("name", ["cosine", "psnr_db", "atol"])
def test_a_limit_of_nan_is_refused_before_anything_is_opened(name):
    with pytest.raises(ParityError, match=f"tolerance {name} is nan, expected a finite number"):
        parity("missing.onnx", "missing.onnx", tolerance={name: math.nan})


def test_the_command_exits_with_1_and_one_line(files, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        given = [*map(str, arguments), "--data", "random", "--batch-size", "1"]
        monkeypatch.setattr(sys, "argv", ["parity", *given])
        with pytest.raises(SystemExit) as ended:
            command.main(app)
        return ended.value.code, capsys.readouterr()

    code, said = run(files("reference"), files("half"), "--json", tmp_path / "report.json")
    assert (code, said.err) == (0, "")
    assert ParityReport.from_json((tmp_path / "report.json").read_text()).passed
    code, said = run(files("reference"), files("rounded grid"), "--own-flow-px", "9")
    assert code == 1
    assert "FAILED warp sampled" in said.out
    assert re.fullmatch(r"ParityError: .*rounded grid.onnx: failed: 1 beyond .*: warp sampled .*\n", said.err)
