"""The TensorRT plugin: its contract, its symbols, and what TensorRT's own registries and parser make of it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper

from posewarp.export.graphs.warps import rewrite_warps

# Each in a fresh process: a plugin library stays loaded, and RTX's parser aborts where a plugin is registered.
CREATE = """
import sys, numpy, {package}_libs, {package}_bindings as trt
registry = trt.get_plugin_registry()
registry.load_library(sys.argv[1])
creator = registry.get_creator("MixedGridSample", "1", "posewarp")
kinds = trt.PluginFieldType
word = lambda name, text: trt.PluginField(name, numpy.frombuffer(text, numpy.int8), kinds.CHAR)
number = lambda value, kind: trt.PluginField("align_corners", value, kind)
fields = dict(mode=word("mode", b"bilinear"), padding=word("padding_mode", b"border\\0"),
              align=number(numpy.array([1], numpy.int32), kinds.INT32))
changes = dict(
    plain={{}},
    int64=dict(align=number(numpy.array([0], numpy.int64), kinds.INT64)),
    missing=dict(padding=None),
    unknown=dict(extra=word("extra", b"1")),
    mode=dict(mode=word("mode", b"linear")),
    float=dict(align=number(numpy.array([1], numpy.float32), kinds.FLOAT32)),
)
declared = sorted(field.name for field in creator.field_names)
print("declared", *declared)
for name, change in changes.items():
    given = trt.PluginFieldCollection([field for field in {{**fields, **change}}.values() if field])
    for phase in (trt.TensorRTPhase.BUILD, trt.TensorRTPhase.RUNTIME):
        plugin = creator.create_plugin("warp", given, phase)
        core = plugin and plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
        print(name, core and (core.plugin_name, core.plugin_version, core.plugin_namespace))
"""

PARSE = """
import sys, tensorrt_rtx_libs, tensorrt_rtx_bindings as trt
if len(sys.argv) > 2:
    trt.get_plugin_registry().load_library(sys.argv[2])
logger = trt.Logger(trt.Logger.INFO)
network = trt.Builder(logger).create_network(0)
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file(sys.argv[1]), parser.get_error(0).desc()
layers = [network.get_layer(i) for i in range(network.num_layers)]
print([(layer.type.name, layer.get_output(0).dtype.name) for layer in layers])
"""


def run_python(code: str, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


def need(package: str) -> None:
    if importlib.util.find_spec(f"{package}_bindings") is None:
        pytest.skip(f"{package} is not installed: pip install -e .[dev]")


@pytest.fixture(scope="module")
def library(cuda_build):
    return cuda_build / "lib" / "libposewarp_plugins.so"


@pytest.fixture
def portable(tmp_path):
    """A portable node with FP16 features and an FP32 grid."""
    features, sampled = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["N", 3, *sizes])
        for name, sizes in (("features", ["H", "W"]), ("sampled", ["Ho", "Wo"]))
    )
    grid = helper.make_tensor_value_info("grid", TensorProto.FLOAT, ["N", "Ho", "Wo", 2])
    node = helper.make_node(
        "GridSample", ["features", "grid"], ["sampled"], "warp", padding_mode="border", align_corners=1
    )
    graph = helper.make_graph([node], "warp", [features, grid], [sampled])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(rewrite_warps(model, "portable"), tmp_path / "warp.onnx")
    return tmp_path / "warp.onnx"


def test_contract_is_kept(run_program):
    enqueued, contract = run_program("posewarp_plugin_contract").splitlines()
    assert contract == "contract: kept"
    assert re.fullmatch(r"enqueue: (not executed, no CUDA driver|[1-9]\d\d+ cases, 0 failed)", enqueued)


def test_enqueue_with_emulated_kernels_equals_the_core(run_program):
    enqueued, contract = run_program("posewarp_plugin_contract_emulated").splitlines()
    assert contract == "contract: kept"
    assert re.fullmatch(r"enqueue, emulated: [1-9]\d\d+ cases, 0 failed", enqueued)


@pytest.mark.gpu
def test_enqueue_equals_the_core_on_the_gpu_also_as_a_graph(run_program):
    enqueued, _ = run_program("posewarp_plugin_contract").splitlines()
    if "no CUDA driver" in enqueued:
        pytest.skip("no CUDA driver")
    assert re.fullmatch(r"enqueue: [1-9]\d\d+ cases, 0 failed", enqueued)


def test_library_exports_the_two_entry_points_and_nothing_else(library):
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    assert {line.split()[-1] for line in listed.stdout.splitlines()} == {"getCreators", "setLoggerFinder"}


def test_library_needs_neither_tensorrt_nor_the_cuda_runtime(library):
    listed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+?)\]", listed)
    assert needed
    assert not [name for name in needed if re.match("lib(nv|cu)", name)]


@pytest.mark.parametrize("package", ["tensorrt_lean", "tensorrt_rtx"])
def test_registry_loads_the_library_and_creates_the_plugin(library, package):
    need(package)
    done = run_python(CREATE.format(package=package), library)
    assert done.returncode == 0, done.stderr
    made = "('MixedGridSample', '1', 'posewarp')"
    assert done.stdout.splitlines() == [
        "declared align_corners mode padding_mode",
        *(f"{name} {made}" for name in ("plain", "int64") for _ in range(2)),
        *(f"{name} None" for name in ("missing", "unknown", "mode", "float") for _ in range(2)),
    ]
    reasons = (
        "missing field padding_mode",
        "unknown field extra",
        "not know linear",
        "align_corners must be",
    )
    assert [reason for reason in reasons if reason not in done.stderr] == []


def test_rtx_expands_the_portable_node_where_no_plugin_is_loaded(portable):
    need("tensorrt_rtx")
    done = run_python(PARSE, portable)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[('CAST', 'FLOAT'), ('GRID_SAMPLE', 'FLOAT'), ('CAST', 'HALF')]"


def test_nvidias_parser_creates_the_plugin_from_the_portable_node(portable, library):
    """Proves the fields as that parser hands them over. RTX has no plugin layers, so it aborts right after."""
    need("tensorrt_rtx")
    done = run_python(PARSE, portable, library)
    assert "Successfully created plugin: MixedGridSample" in done.stdout + done.stderr
