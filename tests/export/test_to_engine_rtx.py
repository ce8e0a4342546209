"""TensorRT-RTX itself, which builds without a GPU: engines, their targets, and what its parser made of a file."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from typer.testing import CliRunner

from posewarp.cli.demo import CHECKPOINT
from posewarp.cli.inspect_model import app as inspect_app
from posewarp.export import to_engine as module
from posewarp.export.adopt import adopt
from posewarp.export.adopt import app as adopt_app
from posewarp.export.engines.graph import contract_of
from posewarp.export.engines.profiles import Shapes
from posewarp.export.graphs.coordinates import coordinate_slices
from posewarp.export.graphs.graph import load_model, save_model
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.precision.half import convert
from posewarp.export.to_engine import prepare, to_engine
from posewarp.runtime import sidecar
from posewarp.runtime.contract import METADATA_KEY
from posewarp.runtime.errors import ContractError, EngineError

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

_spec = importlib.util.spec_from_file_location("engine_models", Path(__file__).parent / "engine_models.py")
engine_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engine_models)
save_warp_model = engine_models.save_warp_model

TARGETS = ["8.6", "8.9", "12.0"]


@pytest.fixture
def half(tmp_path):
    return save_warp_model(tmp_path / "model.fp16.onnx", half=True)


def test_one_engine_for_three_architectures(half):
    report = to_engine(half, precision="fp16", targets=TARGETS)
    found = sidecar.check(report.path, needed=True)
    assert sidecar.read_header(report.path).kind == "portable"
    assert found.targets == TARGETS
    assert found.device is None
    assert found.precision == {"asserted": "fp16", "half": 1, "all": 1}
    (sample,) = found.grid_samples
    del sample["name"]
    assert sample == {"mode": "bilinear", "padding_mode": "zeros", "align_corners": 1, "dtype": "float32"}
    assert found.versions["TensorRT-RTX"] == importlib.metadata.version("tensorrt_rtx_cu13_bindings")
    assert "TensorRT-RTX" in str(report)
    assert "for 8.6, 8.9, 12.0" in str(report)


def test_the_same_again_is_not_built(half):
    to_engine(half, targets=TARGETS)
    assert to_engine(half, targets=TARGETS).unchanged
    assert not to_engine(half, targets=["8.6"]).unchanged


def test_a_target_that_is_not_offered_is_named_with_those_that_are(half):
    with pytest.raises(
        EngineError, match=r"--target has 9\.0; .* offers 7\.5, 8\.0, 8\.6, 8\.9, 12\.0.*, current"
    ):
        to_engine(half, targets=["8.6", "9.0"])


def test_an_fp32_graph_gives_an_fp32_engine_and_says_so(tmp_path):
    report = to_engine(save_warp_model(tmp_path / "model.onnx"), precision="fp32")
    assert "0 of 1 Conv" in str(report)
    assert report.fp32_layers == ("conv",)


@pytest.mark.parametrize(
    ("opset", "mode"), [(18, "bilinear"), (18, "nearest"), (20, "linear"), (20, "cubic")]
)
def test_modes_are_read_as_the_file_says(tmp_path, opset, mode):
    report = to_engine(save_warp_model(tmp_path / "model.onnx", opset=opset, mode=mode))
    assert report.sidecar.grid_samples[0]["mode"] == {"linear": "bilinear", "cubic": "bicubic"}.get(
        mode, mode
    )


def test_a_plugin_node_is_expanded_since_rtx_takes_no_plugins(tmp_path):
    report = to_engine(save_warp_model(tmp_path / "model.onnx", half=True, warp="plugin"))
    assert len(report.sidecar.grid_samples) == 1


def test_several_profiles_are_built(half):
    texts = [f"picture:{n}x3x8x6,grid:{n}x8x6x2" for n in (1, 4)]
    assert len(to_engine(half, profiles=Shapes(opt=texts)).sidecar.profiles) == 2


def test_a_fixed_batch_needs_no_profile(tmp_path):
    assert to_engine(save_warp_model(tmp_path / "model.onnx", batch=2)).sidecar.profiles == []


def test_a_truncated_engine_is_told_by_its_header_alone(half):
    path = Path(to_engine(half).path)
    sidecar.path_of(path).unlink()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EngineError, match="is cut short"):
        sidecar.check(path)


@pytest.mark.slow
def test_our_own_export_builds_end_to_end(exported, tmp_path):
    path = exported("image").path
    report = to_engine(path, tmp_path / "model.engine", targets=TARGETS)
    assert [entry["dtype"] for entry in report.sidecar.inputs] == ["uint8", "float32", "float32"]
    assert report.sidecar.outputs[0]["dtype"] == "uint8"
    assert len(report.sidecar.grid_samples) == 3
    assert report.sidecar.contract == json.loads(exported("image").report.contract.to_json())


@pytest.mark.slow
def test_dynamic_sizes_get_a_profile_from_the_contract(exported, tmp_path):
    profile = to_engine(exported("tensors").path, tmp_path / "model.engine").sidecar.profiles[0]
    assert profile["source_image"]["opt"] == [1, 3, 32, 24]
    assert profile["source_image"]["min"][2:] == [16, 12]


def test_the_builder_is_not_imported_by_the_caller():
    code = (
        "import sys, posewarp.export.to_engine\n"
        "assert not [m for m in sys.modules if m.startswith(('tensorrt', 'torch', 'cuda'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_commands_build_adopt_and_inspect(half, tmp_path):
    run = CliRunner()
    built = run.invoke(
        module.app, [str(half), "--target", "8.6, 8.9", "--json", str(tmp_path / "report.json")]
    )
    assert built.exit_code == 0, built.output
    assert "1 of 1 Conv" in built.output
    assert json.loads((tmp_path / "report.json").read_text())["sidecar"]["targets"] == ["8.6", "8.9"]
    engine = tmp_path / "model.fp16.engine"
    shown = run.invoke(inspect_app, [str(engine)])
    assert "for 8.6, 8.9" in shown.output
    assert "  parity model.fp16.onnx -> model.fp16.engine: not executed\n" in shown.output
    with pytest.raises(EngineError, match="has the side-car of its build"):
        adopt(engine, half)
    sidecar.path_of(engine).unlink()
    assert "side-car: none; posewarp adopt" in run.invoke(inspect_app, [str(engine)]).output
    adopted = run.invoke(adopt_app, [str(engine), "--onnx", str(half)])
    assert "on your word" in adopted.output
    assert "not known: device" in adopted.output
    assert sidecar.read(engine).backend == "rtx"


def test_print_trtexec_builds_nothing_and_asserts_all_the_same(half, tmp_path):
    run = CliRunner()
    printed = run.invoke(
        module.app, [str(half), "--print-trtexec", "--version-compatible", "--precision", "fp16"]
    )
    assert printed.exit_code == 0, printed.output
    assert "--stronglyTyped" in printed.output
    assert "--useRuntime=lean" in printed.output
    assert not (tmp_path / "model.fp16.engine").exists()
    single = save_warp_model(tmp_path / "single.onnx")
    refused = run.invoke(module.app, [str(single), "--print-trtexec", "--precision", "fp16"])
    assert isinstance(refused.exception, EngineError)


@pytest.mark.parametrize(
    "option", [["--json", "report.json"], ["--target", "8.6"], ["--force"], ["--backend", "mnn"]]
)
def test_print_trtexec_refuses_what_it_would_ignore(half, tmp_path, option, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(module.app, [str(half), "--print-trtexec", *option])
    assert isinstance(refused.exception, EngineError)
    assert str(refused.exception).startswith(
        f"{' '.join(option[: 1 + (option[-1] == 'mnn')])} has no meaning"
    )


@pytest.mark.parametrize("target", ["", "8.6,", ",8.6", "8.6,,8.9"])
def test_an_empty_target_is_refused(half, target):
    refused = CliRunner().invoke(module.app, [str(half), "--target", target])
    assert isinstance(refused.exception, EngineError)
    assert f"--target has {target!r}, in which" in str(refused.exception)


def test_a_target_given_twice_is_one(half):
    assert prepare(half, targets=["8.6", "8.9", "8.6"])[1].targets == ("8.6", "8.9")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_of_warps_alone_a_precision_is_asserted_by_tensors(tmp_path, precision):
    model = onnx.load(save_warp_model(tmp_path / "whole.onnx"))
    (conv,) = [node for node in model.graph.node if node.op_type == "Conv"]
    model.graph.node.remove(conv)
    del model.graph.initializer[:]
    next(node for node in model.graph.node if node.name == "sample").input[0] = "cast"
    path = tmp_path / "warps.onnx"
    onnx.save(model, path)
    if precision == "fp16":
        with pytest.raises(EngineError, match=r"there is no Conv.* and 0 tensors are FP16 or BF16"):
            to_engine(path, precision="fp16")
        next(node for node in model.graph.node if node.name == "cast_in").attribute[0].i = TensorProto.FLOAT16
        onnx.save(rewrite_warps(model, "portable"), path)
    report = to_engine(path, precision=precision)
    assert "no layers to assert a precision on" in str(report)
    assert ("; no FP16 or BF16 tensors" in str(report)) == (precision == "fp32")


def test_a_contract_may_come_from_another_file(half, tmp_path):
    model = onnx.load(half)
    contract = replace(contract_of(model), settings={"note": "from another file"})
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.save(model, tmp_path / "other.onnx")
    run = CliRunner()
    built = run.invoke(module.app, [str(half), "--contract", str(tmp_path / "other.onnx")])
    assert built.exit_code == 0, built.output
    assert sidecar.read(tmp_path / "model.fp16.engine").contract["settings"] == {"note": "from another file"}
    refused = run.invoke(module.app, [str(half), "--contract", str(half)])
    assert isinstance(refused.exception, ContractError)
    assert "carries no contract" in str(refused.exception)


@pytest.mark.slow
def test_the_demo_in_fp16_builds_for_each_architecture_within_a_minute(tmp_path):
    from posewarp.export.to_onnx import to_onnx

    to_onnx(CHECKPOINT, tmp_path / "demo.onnx")
    model = load_model(tmp_path / "demo.onnx")
    kept = {name: "coordinates" for found in coordinate_slices(model) for name in found.nodes}
    save_model(convert(model, kept), tmp_path / "demo.fp16.onnx")
    for target in TARGETS:
        report = to_engine(
            tmp_path / "demo.fp16.onnx", tmp_path / f"{target}.engine", precision="fp16", targets=[target]
        )
        assert report.seconds < 60
        assert report.sidecar.precision["half"] >= 0.9 * report.sidecar.precision["all"]
