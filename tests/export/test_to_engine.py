"""What is asked of a builder and checked before it builds, with stubs in the shape of TensorRT 10.3 and 11.4."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from posewarp.export import to_engine as module
from posewarp.export.engines.profiles import Shapes
from posewarp.export.to_engine import to_engine
from posewarp.runtime.errors import EngineError, ExportError, PluginError

_spec = importlib.util.spec_from_file_location("engine_models", Path(__file__).parent / "engine_models.py")
engine_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engine_models)
save_warp_model, build, record = engine_models.save_warp_model, engine_models.build, engine_models.record
stub, half, single = engine_models.stub, engine_models.half, engine_models.single
VERSIONS = ("v10_3", "v11_4")


# What is asked of the builder


@pytest.mark.parametrize("version", VERSIONS)
def test_an_fp16_graph_builds_with_either_major(stub, half, version):
    stub(version)
    report = build(half, precision="fp16")
    assert report.path == str(half.with_name("model.fp16.engine"))
    assert report.sidecar.precision == {"asserted": "fp16", "half": 1, "all": 1}
    told = record(report.path)
    assert told["network_flags"] & 2  # STRONGLY_TYPED, without which 10.3 chooses types itself
    assert "TF32" not in told["flags"]
    assert not {"FP16", "BF16"} & set(told["flags"])
    assert "GridSample layers: 1 bilinear, zeros, align_corners 1, float32" in str(report)


def test_fp16_and_fp32_of_one_model_live_side_by_side(stub, half, single):
    paths = {build(path).path for path in (half, single)}
    assert paths == {str(half.with_name(name)) for name in ("model.fp16.engine", "model.engine")}
    assert all(build(path).unchanged for path in (half, single))


@pytest.mark.parametrize("version", VERSIONS)
def test_options_reach_the_builder(stub, half, version, tmp_path):
    stub(version)
    report = build(
        half,
        version_compatible=True,
        exclude_lean_runtime=True,
        hardware_compatibility="ampere+",
        workspace_mib=512,
        optimization_level=5,
        tf32=True,
        profiles=Shapes(
            ["picture:1x3x8x6,grid:1x8x6x2"],
            ["picture:2x3x8x6,grid:2x8x6x2"],
            ["picture:4x3x8x6,grid:4x8x6x2"],
        ),
    )
    told = record(report.path)
    assert set(told["flags"]) == {"TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"}
    assert told["workspace"] == 512 << 20
    assert told["optimization_level"] == 5
    assert told["level"] == "AMPERE_PLUS"
    assert told["profiles"] == [
        {
            "picture": [[1, 3, 8, 6], [2, 3, 8, 6], [4, 3, 8, 6]],
            "grid": [[1, 8, 6, 2], [2, 8, 6, 2], [4, 8, 6, 2]],
        }
    ]
    assert report.sidecar.options["hardware_compatibility"] == "ampere+"


def test_a_level_that_a_version_lacks_is_refused(stub, half):
    stub("v10_3")
    with pytest.raises(EngineError, match=r"10\.3\.0\.26\) has no hardware compatibility same-compute-cap"):
        build(half, hardware_compatibility="same-compute-capability")


def test_a_level_that_was_accepted_but_is_not_in_the_engine_is_an_error(stub, half, tmp_path):
    stub("v11_4", "lost_level")
    with pytest.raises(EngineError, match=r"ampere\+ was asked, the engine has NONE"):
        build(half, hardware_compatibility="ampere+")
    assert not (tmp_path / "model.fp16.engine").exists()


@pytest.mark.parametrize(
    "option",
    [
        {"plugins": ["x.so"]},
        {"version_compatible": True},
        {"hardware_compatibility": "ampere+"},
        {"timing_cache": "caches"},
    ],
)
def test_what_only_tensorrt_has_is_refused_with_rtx(half, option):
    with pytest.raises(EngineError, match="is for --backend tensorrt"):
        to_engine(half, backend="rtx", **option)


def test_targets_are_refused_with_tensorrt(stub, half):
    with pytest.raises(EngineError, match="takes no --target"):
        build(half, targets=["8.6"])


def test_unknown_words_are_refused(half):
    with pytest.raises(EngineError, match="no backend 'cuda'; there are rtx, tensorrt"):
        to_engine(half, backend="cuda")
    with pytest.raises(EngineError, match="no precision 'int8'"):
        to_engine(half, precision="int8")


def test_a_missing_library_says_how_to_get_it(half, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(EngineError, match=r"TensorRT is not installed: pip install 'posewarp\[tensorrt\]'"):
        build(half)


# What is checked before the build


@pytest.mark.parametrize("backend", ["rtx", "tensorrt"])
def test_an_fp32_graph_is_not_fp16_whatever_is_asserted(stub, single, tmp_path, backend):
    with pytest.raises(EngineError, match=r"fp16 was asserted, but 0 of 1 Conv.*posewarp fp16"):
        to_engine(single, backend=backend, precision="fp16")
    assert not (tmp_path / "model.fp16.engine").exists()


def test_an_fp16_graph_is_not_fp32(stub, half):
    with pytest.raises(EngineError, match="fp32 was asserted, but 1 of 1"):
        build(half, precision="fp32")


def test_linear_read_as_nearest_is_an_error(stub, tmp_path):
    path = save_warp_model(tmp_path / "model.onnx", opset=20, mode="linear")
    assert build(path).sidecar.grid_samples[0]["mode"] == "bilinear"
    stub("v10_3")
    with pytest.raises(
        EngineError, match=r"mode of GridSample 'sampled' as nearest, the ONNX file says bilinear"
    ):
        build(path, force=True)


def test_nearest_that_is_meant_is_not_an_error(stub, tmp_path):
    stub("v10_3")
    path = save_warp_model(tmp_path / "model.onnx", opset=20, mode="nearest")
    assert build(path).sidecar.grid_samples[0]["mode"] == "nearest"


@pytest.mark.parametrize("backend", ["rtx", "tensorrt"])
def test_unknown_operators_are_named_before_the_build(stub, tmp_path, backend):
    node = helper.make_node(
        "grid_sampler", ["warped"], ["more"], "foreign", domain="mmdeploy", plugin_version="2"
    )
    path = save_warp_model(tmp_path / "model.onnx", extra=(node,))
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("mmdeploy", 1))
    onnx.save(model, path)
    with pytest.raises(
        EngineError, match=r"no plugin for mmdeploy::grid_sampler \(plugin mmdeploy::grid_sampler v"
    ):
        to_engine(path, backend=backend)


def test_mixed_types_at_a_node_are_named(stub, tmp_path):
    slope = helper.make_node("PRelu", ["features", "slope"], ["activated"], "slope_of_33")
    path = save_warp_model(tmp_path / "model.onnx", half=True)
    model = onnx.load(path)
    model.graph.node.append(slope)
    model.graph.initializer.append(helper.make_tensor("slope", TensorProto.FLOAT, [3, 1, 1], [0.1] * 3))
    onnx.save(model, path)
    with pytest.raises(ExportError, match=r"'slope_of_33' \(PRelu\) .*features FLOAT16 and slope FLOAT"):
        build(path)


def test_a_parser_error_carries_node_and_operator(stub, tmp_path):
    node = helper.make_node("Hardmax", ["warped"], ["more"], "hard")
    path = save_warp_model(tmp_path / "model.onnx", extra=(node,))
    with pytest.raises(
        EngineError,
        match=r"cannot be parsed: No importer registered for op: Hardmax at node 'hard' \(Hardmax\)",
    ):
        build(path)


# Warps and plugins


def test_without_plugins_the_warp_is_a_native_layer(stub, half):
    assert "GRID_SAMPLE" in record(build(half).path)["layers"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("spelling", ["portable", "plugin"])
def test_with_plugins_the_warp_is_the_plugin_whatever_body_the_file_has(
    stub, tmp_path, version, spelling, monkeypatch
):
    stub(version)
    path = save_warp_model(tmp_path / "model.onnx", half=True, warp=spelling)
    library = tmp_path / "libposewarp_plugins.so"
    library.write_bytes(b"code")
    monkeypatch.setattr(module.plugin_library, "find", lambda name, given: Path(given))
    report = build(path, plugins=[library])
    layers = record(report.path)["layers"]
    assert "PLUGIN_V3" in layers
    assert "GRID_SAMPLE" not in layers
    (entry,) = report.sidecar.plugins
    assert entry["name"] == library.name
    assert entry["version"] == "posewarp::MixedGridSample 1"
    assert str(tmp_path) not in report.sidecar.to_json()  # no path of this machine is written


def test_a_plugin_spelled_file_builds_without_the_plugin(stub, tmp_path):
    path = save_warp_model(tmp_path / "model.onnx", half=True, warp="plugin")
    assert "GRID_SAMPLE" in record(build(path).path)["layers"]


def test_a_plugin_library_that_is_none_is_refused(stub, half, tmp_path):
    (tmp_path / "x.so").write_text("text")
    with pytest.raises(PluginError, match="not a shared library"):
        build(half, plugins=[tmp_path / "x.so"])


def test_an_fp32_island_in_an_fp16_network_is_noted(stub, half):
    assert "reported to get wrong" in str(build(half))
