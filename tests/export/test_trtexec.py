"""Printed trtexec lines against a table of the flags of each major."""

from __future__ import annotations

import importlib.util
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from posewarp.export.engines.profiles import Shapes
from posewarp.export.engines.request import BuildRequest
from posewarp.export.engines.trtexec import trtexec_lines
from posewarp.export.to_engine import prepare

_spec = importlib.util.spec_from_file_location("engine_models", Path(__file__).parent / "engine_models.py")
engine_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engine_models)

# From `trtexec --help` of 10.5, and from samples/common/sampleOptions.cpp of 11; those that touch a build or a run.
COMMON = {
    f"--{name}"
    for line in (
        "onnx saveEngine loadEngine skipInference minShapes optShapes maxShapes shapes profile useProfile device",
        "memPoolSize avgTiming refit stripWeights versionCompatible vc excludeLeanRuntime leanDLLPath useRuntime",
        "noTF32 stronglyTyped sparsity safe tacticSources noBuilderCache timingCacheFile errorOnTimingCacheMiss",
        "builderOptimizationLevel maxTactics hardwareCompatibilityLevel runtimePlatform maxAuxStreams preview",
        "staticPlugins dynamicPlugins setPluginsToSerialize ignoreParsedPluginLibs profilingVerbosity tempdir",
        "useCudaGraph useSpinWait noDataTransfers warmUp iterations duration",
    )
    for name in line.split()
}
FLAGS = {
    10: COMMON | {"--fp16", "--bf16", "--int8", "--fp8", "--best", "--calib", "--precisionConstraints"},
    11: COMMON | {"--noCudaGraph", "--noSpinWait", "--includeDataTransfers", "--atol", "--setBuildRoute"},
}
LEVELS = {10: {"none", "ampere+"}, 11: {"none", "ampere+", "sameComputeCapability"}}
# Of a strongly typed build: what sets types by flags is refused beside --stronglyTyped, or gone.
FORBIDDEN = {"--fp16", "--bf16", "--int8", "--fp8", "--best", "--precisionConstraints"}

ALL = BuildRequest(
    backend="tensorrt",
    onnx="",
    plan="",
    profiles=[
        {
            "x": {"min": (1, 3, 8, 6), "opt": (2, 3, 8, 6), "max": (4, 3, 8, 6)},
            "s": dict.fromkeys(("min", "opt", "max"), ()),
        }
    ],
    plugins=["/opt/lib posewarp/libposewarp_plugins.so"],
    version_compatible=True,
    exclude_lean_runtime=True,
    hardware_compatibility="ampere+",
    timing_cache="caches",
    workspace_mib=2048,
    optimization_level=4,
)


def lines_of(request: BuildRequest) -> dict[str, list[str]]:
    """The flags of each line, by its comment's beginning."""
    lines = trtexec_lines(request, Path("model.fp16.onnx"), Path("model.engine"))
    found = {}
    for comment, line in pairwise(lines):
        if not line.startswith("#"):
            program, *flags = shlex.split(line)
            assert program == "trtexec"
            found[" ".join(comment.split()[1:3])] = flags
    return found


@pytest.mark.parametrize("major", [10, 11])
@pytest.mark.parametrize(
    "request_", [ALL, BuildRequest("tensorrt", "", "")], ids=["all options", "no options"]
)
def test_each_flag_exists_in_its_major(major, request_):
    flags = lines_of(request_)[f"TensorRT {major}"]
    names = {flag.split("=")[0] for flag in flags}
    assert names <= FLAGS[major]
    assert not names & FORBIDDEN
    assert "--noTF32" in names
    level = dict(flag.split("=") for flag in flags if "Level=" in flag).get(
        "--hardwareCompatibilityLevel", "none"
    )
    assert level in LEVELS[major]


def test_strong_typing_is_asked_of_10_and_needs_no_word_in_11():
    lines = lines_of(ALL)
    assert "--stronglyTyped" in lines["TensorRT 10"]
    assert "--stronglyTyped" not in lines["TensorRT 11"]


def test_values_are_in_trtexecs_grammar():
    flags = lines_of(ALL)["TensorRT 11"]
    assert "--minShapes=x:1x3x8x6,s:scalar" in flags
    assert "--maxShapes=x:4x3x8x6,s:scalar" in flags
    assert "--memPoolSize=workspace:2048M" in flags
    assert "--builderOptimizationLevel=4" in flags
    assert "--timingCacheFile=caches/trtexec-11.cache" in flags


def test_our_library_is_loaded_by_the_registry():
    """--staticPlugins would only open it, and it does not register itself; lean refuses --staticPlugins."""
    for flags in lines_of(ALL).values():
        assert "--dynamicPlugins=/opt/lib posewarp/libposewarp_plugins.so" in flags


def test_10_is_given_the_file_without_function_body_for_the_plugin():
    lines = lines_of(ALL)
    assert "--onnx=model.fp16.plugin.onnx" in lines["TensorRT 10"]
    assert "--onnx=model.fp16.onnx" in lines["TensorRT 11"]
    assert "--onnx=model.fp16.onnx" in lines_of(BuildRequest("tensorrt", "", ""))["TensorRT 10"]


def test_lean_runs_a_version_compatible_engine_only():
    flags = lines_of(ALL)["lean runtime"]
    assert {"--useRuntime=lean", "--loadEngine=model.engine"} <= set(flags)
    assert "lean runtime" not in lines_of(BuildRequest("tensorrt", "", ""))


def test_several_profiles_are_numbered():
    request = BuildRequest("tensorrt", "", "", profiles=[*ALL.profiles, *ALL.profiles])
    flags = lines_of(request)["TensorRT 10"]
    assert [flag for flag in flags if flag.startswith("--profile=")] == ["--profile=0", "--profile=1"]
    assert sum(flag.startswith("--optShapes=") for flag in flags) == 2


def test_a_folder_that_is_missing_is_made_first(tmp_path):
    output = tmp_path / "no dir" / "x.engine"
    lines = trtexec_lines(BuildRequest("tensorrt", "", ""), Path("model.onnx"), output)
    assert shlex.split(lines[1]) == ["mkdir", "-p", str(output.parent)]
    assert lines[2] == "# TensorRT 10"


def test_lines_come_from_the_models_own_profile(tmp_path):
    path = engine_models.save_warp_model(tmp_path / "model.onnx", half=True)
    _, request, _ = prepare(path, backend="tensorrt", profiles=Shapes(opt=["picture:2x3x8x6,grid:2x8x6x2"]))
    flags = lines_of(request)["TensorRT 11"]
    assert "--minShapes=picture:2x3x8x6,grid:2x8x6x2" in flags
