"""posewarp build --backend cpu: the file is proven, timed, and runs by the operator."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from networks.one_conv import PADS, conv_model
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from posewarp.export import to_cpu as module
from posewarp.export.graphs.convolutions import CONV
from posewarp.export.parity import parity
from posewarp.export.to_cpu import to_cpu
from posewarp.export.to_engine import app
from posewarp.runtime import plugin_library
from posewarp.runtime.errors import DataError, EngineError, ExportError, ParityError
from posewarp.runtime.session import Session


@pytest.fixture
def model(tmp_path):
    onnx.save(conv_model(**PADS), tmp_path / "model.onnx")
    np.savez(
        tmp_path / "inputs.npz", x=np.random.default_rng(0).normal(size=(3, 16, 12, 20)).astype(np.float32)
    )
    return tmp_path / "model.onnx"


def test_the_file_is_proven_and_reports_how_long_both_take(model):
    report = to_cpu(model, data=model.parent / "inputs.npz")
    assert (report.winograd, report.narrow, report.of) == (1, 0, 1)
    assert report.parity["status"] == "passed"
    assert report.parity["outputs"][0]["max_abs"] < 1e-3  # of values up to 40
    assert "of 1 convolutions 1 by Winograd's filtering, 0 of few outputs as ones of many" in str(report)
    assert f"{report.cpu_ms:.4g} ms" in str(report)
    written = onnx.load(model.parent / "model.cpu.onnx")
    assert [node.op_type for node in written.graph.node] == [CONV]
    x = np.load(model.parent / "inputs.npz")["x"]
    with Session.open(model) as whole, Session.open(report.path) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], whole.run({"x": x})["y"], atol=1e-3)


def test_parity_holds_the_file_to_what_winograd_rounds(model):
    to_cpu(model, data=model.parent / "inputs.npz")
    report = parity(model, model.parent / "model.cpu.onnx", data=model.parent / "inputs.npz")
    assert report.passed
    assert "Winograd" in str(report)


def test_a_file_that_is_slower_says_so(model, monkeypatch):
    monkeypatch.setattr(module, "_time", lambda sessions, feeds: [1.0, 2.0])
    assert "it is not faster here" in str(to_cpu(model, data=model.parent / "inputs.npz"))


def test_the_command_writes_it(model):
    arguments = [str(model), "--backend", "cpu", "--data", str(model.parent / "inputs.npz")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "by Winograd's filtering" in done.output
    assert (model.parent / "model.cpu.onnx").exists()


def test_the_report_of_equal_outputs_is_strict_json(model):
    inputs, report = model.parent / "zeros.npz", model.parent / "report.json"
    np.savez(inputs, x=np.zeros((3, 16, 12, 20), np.float32))
    done = CliRunner().invoke(
        app, [str(model), "--backend", "cpu", "--data", str(inputs), "--json", str(report)]
    )
    assert done.exit_code == 0, done.output
    assert ": equal\n" in done.output
    assert "inf" not in done.output.split("parity", 1)[1]
    told = json.loads(report.read_text(), parse_constant=pytest.fail)
    assert {output["psnr_db"] for output in told["parity"]["outputs"]} == {"inf"}


def test_a_file_that_computes_something_else_does_not_get_its_name(model, monkeypatch):
    real = module.use_winograd

    def wrong(flat):
        spelled, found = real(flat)
        bias = next(tensor for tensor in spelled.graph.initializer if tensor.name == "b")
        bias.raw_data = np.zeros(bias.dims[0], np.float32).tobytes()
        return spelled, found

    monkeypatch.setattr(module, "use_winograd", wrong)
    with pytest.raises(ParityError, match=r"model\.cpu\.onnx: y at .*it was not written"):
        to_cpu(model, data=model.parent / "inputs.npz")
    assert not (model.parent / "model.cpu.onnx").exists()


def test_without_the_library_nothing_is_written(model, monkeypatch):
    monkeypatch.setattr(plugin_library, "find", lambda name, path=None: None)
    with pytest.raises(EngineError, match="make plugins"):
        to_cpu(model, data=model.parent / "inputs.npz")


def test_its_own_product_is_refused(model):
    made = to_cpu(model, data=model.parent / "inputs.npz").path
    with pytest.raises(ExportError, match=r"model\.cpu\.onnx already has its convolutions by Winograd"):
        to_cpu(made, data=model.parent / "inputs.npz")
    assert not (model.parent / "model.cpu.cpu.onnx").exists()


def test_a_missing_model_and_missing_data_are_told_before_the_library(model, monkeypatch):
    monkeypatch.setattr(plugin_library, "find", lambda name, path=None: None)
    with pytest.raises(ExportError, match=r"gone\.onnx does not exist"):
        to_cpu(model.with_name("gone.onnx"))
    with pytest.raises(DataError, match=r"gone\.npz"):
        to_cpu(model, data=model.with_name("gone.npz"))


def test_a_file_without_such_convolutions_is_refused(tmp_path):
    onnx.save(conv_model(kernel=1), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"no convolution to build: neither 3x3 .* nor of up to 8 outputs"):
        to_cpu(tmp_path / "model.onnx", data="random")


@pytest.fixture
def narrow_model(tmp_path):
    model = conv_model((8, 3), kernel=7, pads=[3, 3, 3, 3], size=(16, 20))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 16, 20]))
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_sizes_that_the_file_leaves_open_are_as_onnx_runtime_infers_them(narrow_model):
    model = onnx.load(narrow_model)
    for axis in model.graph.output[0].type.tensor_type.shape.dim[2:]:
        axis.Clear()
    onnx.save(model, narrow_model)
    assert to_cpu(narrow_model, data="random").narrow == 1


def test_the_input_is_not_overwritten(narrow_model):
    before = narrow_model.read_bytes()
    with pytest.raises(EngineError, match=r"output .*model\.onnx would overwrite the input"):
        to_cpu(narrow_model, narrow_model, data="random")
    assert narrow_model.read_bytes() == before


def test_narrow_convolutions_alone_are_worth_a_file_and_need_no_library(narrow_model, monkeypatch):
    monkeypatch.setattr(plugin_library, "find", lambda name, path=None: None)
    report = to_cpu(narrow_model, data="random")
    assert (report.winograd, report.narrow, report.of) == (0, 1, 1)
    assert "of 1 convolutions 0 by Winograd's filtering, 1 of few outputs as ones of many" in str(report)
    assert {output["max_abs"] for output in report.parity["outputs"]} == {0.0}
    assert [node.op_type for node in onnx.load(report.path).graph.node] == ["Conv", "DepthToSpace"]


def test_its_own_product_is_refused_also_if_only_narrow_ones_were_rewritten(narrow_model):
    made = to_cpu(narrow_model, data="random").path
    with pytest.raises(ExportError, match=r"model\.cpu\.onnx has no convolution .* or it was built already"):
        to_cpu(made, data="random")
    assert not narrow_model.with_name("model.cpu.cpu.onnx").exists()


def test_both_kinds_of_convolutions_are_rewritten_and_counted_also_inside_a_branch(tmp_path):
    graph = conv_model(size=(8, 12), **PADS)
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(2, 16, 5, 5)).astype(np.float32), "narrow")
    value = helper.make_tensor_value_info
    branches = []
    for name in ("yes", "no"):
        layer = helper.make_node("Conv", ["y", f"{name}_w"], [name], pads=[2, 2, 2, 2])
        held = TensorProto()
        held.CopyFrom(weight)
        held.name = f"{name}_w"
        branches.append(
            helper.make_graph([layer], name, [], [value(name, TensorProto.FLOAT, ["N", 2, 8, 12])], [held])
        )
    total = helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0)
    positive = helper.make_node("Greater", ["total", "zero"], ["which"])
    choose = helper.make_node("If", ["which"], ["z"], then_branch=branches[0], else_branch=branches[1])
    graph.graph.node.extend([total, positive, choose])
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    del graph.graph.output[:]
    graph.graph.output.append(value("z", TensorProto.FLOAT, ["N", 2, 8, 12]))
    onnx.save(graph, tmp_path / "model.onnx")
    report = to_cpu(tmp_path / "model.onnx", data="random")
    assert (report.winograd, report.narrow, report.of) == (1, 2, 3)


def test_a_half_precision_file_is_refused(tmp_path):
    model = conv_model(**PADS)
    cast = helper.make_node("Cast", ["y"], ["half"], to=TensorProto.FLOAT16)
    model.graph.node.append(cast)
    model.graph.output[0].name = "half"
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="give the FP32 file"):
        to_cpu(tmp_path / "model.onnx", data="random")


def test_options_of_tensorrt_and_other_names_are_refused(model):
    with pytest.raises(
        EngineError, match="workspace mib can be set for TensorRT only, not with --backend cpu"
    ):
        to_cpu(model, workspace_mib=5)
    with pytest.raises(EngineError, match="leave --precision out"):
        to_cpu(model, precision="fp16")
    with pytest.raises(EngineError, match=r"let it end in \.cpu\.onnx"):
        to_cpu(model, model.with_suffix(".engine"))
