"""Small models with one fault each, and good ones: lint finds the fault, the whole fault, and nothing but the fault."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper, parser
from typer.testing import CliRunner

from posewarp.cli.group import app
from posewarp.export.graphs.coordinates import coordinate_slices
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.lint import RULES, lint
from posewarp.export.linting.rules import SEVERITIES, rules_table
from posewarp.export.linting.targets import Target
from posewarp.export.precision.half import convert
from posewarp.runtime.errors import ExportError

ROOT = Path(__file__).parents[2]
MAPS = "float[n, 4, 8, 6] features, float[n, 8, 6, 2] grid"
HALF_MAPS = "float16[n, 4, 8, 6] features, float[n, 8, 6, 2] grid"
FEATURES = "float[n, 4, 8, 6] features"
VOLUMES = "float[n, 2, 4, 8, 6] features, float[n, 4, 8, 6, 3] grid"


def model(
    body, inputs=MAPS, outputs="float[n, 4, 8, 6] out", *, opset=18, domains="", functions="", **constants
):
    graph = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : {opset}{domains}]>
        g ({inputs}) => ({outputs}) {{ {body} }} {functions}""")
    for name, value in constants.items():
        graph.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return graph


def weights(*shape, kind=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(kind)


WARP = "out = GridSample (features, grid)"
MOVED = "moved = Add (grid, small) out = GridSample (features, moved)"
OURS = 'out = posewarp.MixedGridSample <mode = "bilinear", padding_mode = "zeros", align_corners = 1> (features, grid)'
BASE = np.stack(np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-1, 1, 8)), -1).astype(np.float32)[None]
FLOW = "flow = Conv <pads = [1, 1, 1, 1]> (features, w) last = Transpose <perm = [0, 2, 3, 1]> (flow)"


@dataclass
class Bad:
    rule: str
    target: str
    where: str
    model: onnx.ModelProto


def retyped(whole):
    """Inputs and outputs made half, as common converters do."""
    for value in (*whole.graph.input, *whole.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return whole


BAD = {
    "types at an operator": Bad(
        "PW001",
        "onnxruntime",
        "graph",
        model("out = Add (features, half)", half=weights(1, 4, 8, 6, kind=np.float16)),
    ),
    "an attribute that the operator has not": Bad(
        "PW001", "onnxruntime", "graph", model("out = GridSample <interpolation = 1> (features, grid)")
    ),
    "another project's operator": Bad(
        "PW003",
        "tensorrt-11.4",
        "(mmdeploy, grid_sampler)",
        model(
            "out = mmdeploy.grid_sampler <interpolation_mode = 0> (features, grid)",
            domains=', "mmdeploy" : 1',
        ),
    ),
    "a plugin's operator in the standard domain": Bad(
        "PW003", "onnxruntime", "(ai.onnx, GridSample3D)", model("out = GridSample3D (features, grid)")
    ),
    "another project's operator before our warp": Bad(
        "PW003",
        "tensorrt-11.4",
        "(mmcv, make_grid)",
        model(
            "made = mmcv.make_grid (grid) " + OURS.replace("grid)", "made)"),
            domains=', "posewarp" : 1, "mmcv" : 1',
        ),
    ),
    "an operator of ONNX Runtime alone": Bad(
        "PW003",
        "rtx-1.7",
        "(com.microsoft, QuickGelu)",
        model("out = com.microsoft.QuickGelu (features)", domains=', "com.microsoft" : 1'),
    ),
    "our node without its body": Bad(
        "PW004", "rtx-1.7", "MixedGridSample 'out'", model(OURS, domains=', "posewarp" : 1')
    ),
    "a function, where functions are not read": Bad(
        "PW005", "openvino", "posewarp::MixedGridSample", rewrite_warps(model(WARP), "portable")
    ),
    "a body, where bodies come before plugins": Bad(
        "PW006", "tensorrt-10.1", "MixedGridSample 'out'", rewrite_warps(model(WARP), "portable")
    ),
    "AffineGrid": Bad(
        "PW007",
        "rtx-1.7",
        "AffineGrid 'grid'",
        model(
            f"grid = AffineGrid (theta, size) {WARP}",
            "float[1, 4, 8, 6] features, float[1, 2, 3] theta",
            "float[1, 4, 8, 6] out",
            opset=20,
            size=np.array([1, 4, 8, 6]),
        ),
    ),
    "the old word at opset 20": Bad(
        "PW010",
        "onnxruntime",
        "GridSample 'out'",
        model('out = GridSample <mode = "bilinear"> (features, grid)', opset=20),
    ),
    "the new word at opset 18": Bad(
        "PW010", "rtx-1.7", "GridSample 'out'", model('out = GridSample <mode = "cubic"> (features, grid)')
    ),
    "a mode that no opset has": Bad(
        "PW018", "onnxruntime", "GridSample 'out'", model('out = GridSample <mode = "foo"> (features, grid)')
    ),
    "a padding mode that no opset has": Bad(
        "PW019",
        "tensorrt-11.4",
        "GridSample 'out'",
        model('out = GridSample <padding_mode = "wrap"> (features, grid)'),
    ),
    "linear for an old parser": Bad(
        "PW011",
        "tensorrt-10.3",
        "GridSample 'out'",
        model('out = GridSample <mode = "linear"> (features, grid)', opset=20),
    ),
    "linear by default for an old parser": Bad("PW011", "rtx-1.5", "GridSample 'out'", model(WARP, opset=20)),
    "linear in our body for an old parser": Bad(
        "PW011", "tensorrt-11.1", "MixedGridSample 'out'", rewrite_warps(model(WARP, opset=20), "portable")
    ),
    "a volume for an old TensorRT": Bad(
        "PW012",
        "tensorrt-11.2.0",
        "GridSample 'out'",
        model(WARP, VOLUMES, "float[n, 2, 4, 8, 6] out", opset=20),
    ),
    "a volume for OpenVINO": Bad(
        "PW012",
        "openvino-2026.4",
        "GridSample 'out'",
        model(WARP, VOLUMES, "float[n, 2, 4, 8, 6] out", opset=20),
    ),
    "a volume before opset 20": Bad(
        "PW013", "tensorrt-11.4", "GridSample 'out'", model(WARP, VOLUMES, "float[n, 2, 4, 8, 6] out")
    ),
    "a cubic volume": Bad(
        "PW014",
        "onnxruntime",
        "GridSample 'out'",
        model(
            'out = GridSample <mode = "cubic"> (features, grid)',
            VOLUMES,
            "float[n, 2, 4, 8, 6] out",
            opset=20,
        ),
    ),
    "half features at an fp32 grid": Bad(
        "PW015",
        "rtx-1.7",
        "GridSample 'out'",
        model(WARP, HALF_MAPS, "float16[n, 4, 8, 6] out"),
    ),
    "float features at a float64 grid": Bad(
        "PW015", "onnxruntime", "GridSample 'out'", model(WARP, MAPS.replace("float[n, 8", "double[n, 8"))
    ),
    "our node at a half grid": Bad(
        "PW016", "tensorrt-11.4", "MixedGridSample 'out'", retyped(rewrite_warps(model(WARP), "portable"))
    ),
    "an fp32 warp among half layers": Bad(
        "PW017",
        "tensorrt-10.14",
        "GridSample 'read'",
        model(
            "wide = Cast <to = 1> (features) read = GridSample (wide, grid) small = Cast <to = 10> (read) "
            "out = Conv <pads = [1, 1, 1, 1]> (small, w)",
            HALF_MAPS,
            "float16[n, 4, 8, 6] out",
            w=weights(4, 4, 3, 3, kind=np.float16),
        ),
    ),
    "a half grid": Bad(
        "PW020",
        "tensorrt-11.4",
        "grid 'grid'",
        model(
            "read = GridSample (features, grid) out = Conv <pads = [1, 1, 1, 1]> (read, w)",
            "float16[n, 4, 8, 6] features, float16[n, 8, 6, 2] grid",
            "float16[n, 4, 8, 6] out",
            w=weights(4, 4, 3, 3, kind=np.float16),
        ),
    ),
    "a position that is added in half": Bad(
        "PW020",
        "rtx-1.7",
        "grid 'grid'",
        model(
            f"{FLOW} moved = Add (last, base) grid = Cast <to = 1> (moved) wide = Cast <to = 1> (features) "
            "out = GridSample (wide, grid)",
            "float16[n, 4, 8, 6] features",
            w=weights(2, 4, 3, 3, kind=np.float16),
            base=BASE.astype(np.float16),
        ),
    ),
    "a grid that is a matrix product": Bad(
        "PW021",
        "tensorrt-11.4",
        "grid 'grid'",
        model(
            f"flat = MatMul (points, theta) grid = Reshape (flat, shape) {WARP}",
            "float[n, 4, 8, 6] features, float[n, 3, 2] theta",
            points=weights(48, 3),
            shape=np.array([0, 8, 6, 2]),
        ),
    ),
    "a layer that gives positions": Bad(
        "PW021",
        "rtx-1.7",
        "grid 'grid'",
        model(f"{FLOW} grid = Tanh (last) {WARP}", FEATURES, w=weights(2, 4, 3, 3)),
    ),
    "a float64 weight": Bad(
        "PW022",
        "tensorrt-11.4",
        "base",
        model(
            "small = Cast <to = 1> (base) moved = Add (grid, small) out = GridSample (features, moved)",
            base=np.float64(BASE),
        ),
    ),
    "a float64 constant in a node": Bad(
        "PW022",
        "tensorrt-11.4",
        "step",
        model(
            "step = Constant <value = double {0.5}> () small = Cast <to = 1> (step) moved = Add (grid, small) "
            "out = GridSample (features, moved)"
        ),
    ),
    "a batch of one input baked": Bad(
        "PW030",
        "onnxruntime",
        "input extra",
        model("sum = Add (features, extra) out = GridSample (sum, grid)", f"{MAPS}, float[1, 4, 8, 6] extra"),
    ),
    "a batch of the output baked": Bad(
        "PW030",
        "tensorrt-11.4",
        "output out",
        model("out = Identity (features)", outputs="float[2, 4, 8, 6] out"),
    ),
    "a batch frozen by Reshape": Bad(
        "PW031",
        "tensorrt-11.4",
        "Reshape 'flat'",
        model(
            "flat = Reshape (features, shape) out = Identity (flat)",
            outputs="float[b, c, p] out",
            shape=np.array([1, 4, -1]),
        ),
    ),
    "a base grid of one size": Bad(
        "PW031",
        "onnxruntime",
        "Add 'grid'",
        model(
            f"grid = Add (flow, base) {WARP}",
            "float[n, 4, h, w] features, float[n, h, w, 2] flow",
            "float[n, 4, h, w] out",
            base=BASE,
        ),
    ),
    "a grid of one batch": Bad(
        "PW031",
        "rtx-1.7",
        "GridSample 'out'",
        model(f"grid = Identity (base) {WARP}", "float[n, 4, 8, 6] features", base=np.repeat(BASE, 2, 0)),
    ),
    "a uint8 picture that is transposed first": Bad(
        "PW040",
        "rtx-1.7",
        "input picture",
        model(
            "turned = Transpose <perm = [0, 3, 1, 2]> (picture) out = Cast <to = 1> (turned)",
            "uint8[n, 8, 6, 4] picture",
        ),
    ),
    "a uint8 picture that is transposed last": Bad(
        "PW041",
        "rtx-1.7",
        "output picture",
        model(
            "whole = Round (features) safe = Clip (whole, low, high) cast = Cast <to = 2> (safe) "
            "picture = Transpose <perm = [0, 2, 3, 1]> (cast)",
            outputs="uint8[n, 8, 6, 4] picture",
            low=np.float32(0),
            high=np.float32(255),
        ),
    ),
    "a uint8 picture that is not rounded": Bad(
        "PW042",
        "onnxruntime",
        "output picture",
        model(
            "safe = Clip (features, low, high) scaled = Mul (safe, most) picture = Cast <to = 2> (scaled)",
            outputs="uint8[n, 4, 8, 6] picture",
            low=np.float32(0),
            high=np.float32(1),
            most=np.float32(255),
        ),
    ),
    "a uint8 picture that is not clipped": Bad(
        "PW042",
        "rtx-1.7",
        "output picture",
        model(
            "whole = Round (features) picture = Cast <to = 2> (whole)", outputs="uint8[n, 4, 8, 6] picture"
        ),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_planted_fault_is_found_and_nothing_else(name):
    bad = BAD[name]
    findings = lint(bad.model, bad.target)
    assert {(finding.rule, finding.where) for finding in findings} == {(bad.rule, bad.where)}


def test_an_unknown_mode_is_no_word_of_another_opset():
    (finding,) = lint(BAD["a mode that no opset has"].model, "onnxruntime")
    assert finding.severity == "error"
    assert "has mode 'foo'; there are bilinear, nearest, bicubic, linear, cubic" in finding.message
    assert "--warp" not in finding.remedy


def test_tf32_is_found_once_with_all_its_warps():
    twice = "a = GridSample (features, grid) b = GridSample (features, other) out = Add (a, b)"
    whole = model(f"{FLOW} grid = Tanh (last) other = Sin (last) {twice}", FEATURES, w=weights(2, 4, 3, 3))
    (finding,) = lint(whole, "rtx-1.7")
    assert (finding.rule, finding.where) == ("PW021", "grids 'grid', 'other'")


def test_every_rule_has_its_model():
    assert {bad.rule for bad in BAD.values()} == {rule.id for rule in RULES} - {"PW002"}


# What these refuse; the other rules are on what they take, and compute otherwise than was meant.
RTX_REFUSES = {"PW003", "PW004", "PW007", "PW015", "PW018", "PW040", "PW041"}
ONNX_RUNTIME_REFUSES = {"PW001", "PW003", "PW004", "PW010", "PW015", "PW018", "PW019"}


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.rule != "PW001"])
def test_tensorrt_rtx_refuses_what_lint_says_it_does(name):
    refused = RTX_REFUSES & {finding.rule for finding in lint(BAD[name].model, "rtx-1.7")}
    assert rtx_takes(BAD[name].model) == (not refused)


def rtx_takes(whole):
    pytest.importorskip("tensorrt_rtx_libs", reason="needs TensorRT-RTX: pip install -e .[rtx]")
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(0)
    return trt.OnnxParser(network, logger).parse(whole.SerializeToString())


@pytest.mark.parametrize("name", BAD)
def test_onnx_runtime_refuses_what_lint_says_it_does(name):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(BAD[name].model.SerializeToString(), options)
        taken = True
    except Exception:  # it has a class for each of its codes
        taken = False
    refused = ONNX_RUNTIME_REFUSES & {finding.rule for finding in lint(BAD[name].model, "onnxruntime")}
    assert taken == (not refused)


NEWEST = ("tensorrt-11.5", "rtx-1.7", "onnxruntime-1.32")
OLDEST = "tensorrt-10.3"


def test_our_exports_are_good_in_every_contract_and_spelling(exported):
    for io in ("image", "tensors"):
        whole = exported(io).model
        for spelling, targets in {
            "portable": (*NEWEST, OLDEST),
            "plugin": ("tensorrt-11.5", OLDEST, "tensorrt-10.1"),
            "gridsample": (*NEWEST, OLDEST, "tensorrt-10.1", "openvino"),
            "gather": (*NEWEST, OLDEST, "tensorrt-10.1", "openvino"),
        }.items():
            for target in targets:
                assert lint(rewrite_warps(whole, spelling), target) == [], (io, spelling, target)


@pytest.mark.parametrize("io", ["image", "tensors"])
def test_our_mixed_precision_is_good(exported, io):
    """Its coordinates are fp32, down to what the flow's layer gives."""
    whole = exported(io).model
    kept = {name: "coordinates" for part in coordinate_slices(whole) for name in part.nodes}
    mixed = convert(whole, kept)
    for target in (*NEWEST, OLDEST):
        assert lint(mixed, target) == []
    naive = convert(whole, {})
    assert "PW020" in {finding.rule for finding in lint(naive, "tensorrt-11.5")}


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("raft", True),
        ("first_order", True),
        ("thin_plate", True),
        ("volume", True),
        ("interpolator", False),
        ("try_on", False),
    ],
)
def test_foreign_networks_are_good_but_for_tf32(foreign, name, positions):
    whole = foreign(name).model
    assert lint(whole, "onnxruntime") == []
    for target in ("tensorrt-11.5", "rtx-1.7"):
        assert {finding.rule for finding in lint(whole, target)} == ({"PW021"} if positions else set())


GOOD = {
    "a warp": (model(WARP), (*NEWEST, OLDEST, "openvino")),
    "a warp of half features and its plugin": (
        model(
            OURS,
            HALF_MAPS,
            "float16[n, 4, 8, 6] out",
            domains=', "posewarp" : 1',
        ),
        ("tensorrt-11.5", "tensorrt-10.1"),
    ),
    "the plugin's own words at opset 20": (
        rewrite_warps(model(WARP, opset=20), "plugin"),
        ("tensorrt-11.5", OLDEST),
    ),
    "a uint8 picture that is taken up again": (
        model(
            "whole = Round (features) safe = Clip (whole, low, high) picture = Cast <to = 2> (safe) "
            "back = Cast <to = 1> (picture) out = Relu (back)",
            outputs="uint8[n, 4, 8, 6] picture, float[n, 4, 8, 6] out",
            low=np.float32(0),
            high=np.float32(255),
        ),
        ("rtx-1.7",),
    ),
    "a nearest warp at opset 20": (
        model('out = GridSample <mode = "nearest"> (features, grid)', opset=20),
        (*NEWEST, OLDEST),
    ),
    "a volume at opset 20": (
        model(WARP, VOLUMES, "float[n, 2, 4, 8, 6] out", opset=20),
        ("tensorrt-11.2.1", "rtx-1.7", "onnxruntime"),
    ),
    "a base grid of the input's own size": (
        model(
            "extent = Shape <start = 1, end = 3> (flow) one = Constant <value_ints = [1]> () "
            "tail = Concat <axis = 0> (one, extent, two) "
            f"ones = Expand (unit, tail) grid = Add (flow, ones) {WARP}",
            "float[n, 4, h, w] features, float[n, h, w, 2] flow",
            "float[n, 4, h, w] out",
            two=np.array([2]),
            unit=np.float32([[[[0.5, 0.5]]]]),
        ),
        (*NEWEST, OLDEST),
    ),
    "a model of one fixed size": (
        model(WARP, "float[1, 4, 8, 6] features, float[1, 8, 6, 2] grid", "float[1, 4, 8, 6] out"),
        (*NEWEST, OLDEST, "openvino"),
    ),
    "8-bit pictures in and out": (
        model(
            "wide = Cast <to = 1> (picture) turned = Transpose <perm = [0, 3, 1, 2]> (wide) "
            "moved = GridSample (turned, grid) safe = Clip (moved, low, high) whole = Round (safe) "
            "back = Transpose <perm = [0, 2, 3, 1]> (whole) out = Cast <to = 2> (back)",
            "uint8[n, 8, 6, 3] picture, float[n, 8, 6, 2] grid",
            "uint8[n, 8, 6, 3] out",
            low=np.float32(0),
            high=np.float32(255),
        ),
        (*NEWEST, OLDEST),
    ),
    "a half flow moved about before it is made wide": (
        model(
            f"{FLOW} wide = Cast <to = 1> (last) grid = Add (wide, base) large = Cast <to = 1> (features) "
            "read = GridSample (large, grid) out = Cast <to = 10> (read)",
            "float16[n, 4, 8, 6] features",
            "float16[n, 4, 8, 6] out",
            w=weights(2, 4, 3, 3, kind=np.float16),
            base=BASE,
        ),
        ("tensorrt-10.3", "rtx-1.7", "onnxruntime"),
    ),
    "an operator of ONNX Runtime, there": (
        model("out = com.microsoft.QuickGelu (features)", domains=', "com.microsoft" : 1'),
        ("onnxruntime",),
    ),
    "a function of the file": (
        model(
            "near = f.Near (features, grid) out = Relu (near)",
            domains=', "f" : 1',
            functions="""<domain: "f", opset_import: ["" : 18]> Near (x, g) => (y)
                { y = GridSample <mode = "nearest"> (x, g) }""",
        ),
        (*NEWEST, OLDEST),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_model_has_no_finding(name):
    whole, targets = GOOD[name]
    for target in targets:
        assert lint(whole, target) == [], target


def test_a_warp_inside_a_function_or_a_branch_is_seen():
    branch = """yes = Constant <value = bool {1}> ()
        out = If (yes) <then_branch = t () => (a) { a = f.Read (features, grid) },
                        else_branch = e () => (b) { b = Identity (features) }>"""
    function = '<domain: "f", opset_import: ["" : 20]> Read (x, g) => (y) { y = GridSample <mode = "linear"> (x, g) }'
    whole = model(branch, domains=', "f" : 1', functions=function, opset=20)
    assert {finding.rule for finding in lint(whole, "tensorrt-11.1")} == {"PW011"}


def test_a_contract_is_held_against_the_graph(exported):
    whole = exported("tensors").model
    assert lint(whole, "onnxruntime") == []
    whole.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    (finding,) = lint(whole, "onnxruntime")
    assert (finding.rule, finding.where) == ("PW030", f"output {whole.graph.output[0].name}")
    assert "axis 0 is 2, the contract leaves batch open" in finding.message


@pytest.fixture
def with_data_beside(tmp_path):
    """A model in a file, its weights in another."""
    path = tmp_path / "model.onnx"
    whole = model("out = Add (features, large)", large=weights(1, 4, 8, 6))
    onnx.save(whole, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_that_is_there_is_no_finding(with_data_beside):
    assert lint(with_data_beside, "onnxruntime") == []


@pytest.mark.parametrize("state", ["is not there", "has 100 bytes of the 768 that it needs"])
def test_external_data_that_is_missing_is_named(with_data_beside, state):
    data = with_data_beside.parent / "weights.bin"
    if state == "is not there":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:100])
    (finding,) = lint(with_data_beside, "tensorrt-11.4")
    assert (finding.rule, finding.severity, finding.where) == ("PW002", "error", "large")
    assert finding.message == f"its values are in 'weights.bin', which {state}"


@pytest.mark.parametrize("content", [b"", b"<html>no model</html>", "cut"])
def test_what_is_no_onnx_file_is_one_line(tmp_path, content):
    path = tmp_path / "bad.onnx"
    whole = model(WARP).SerializeToString()
    path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    with pytest.raises(ExportError, match=r"bad\.onnx is not an ONNX file, or is truncated"):
        lint(path, "onnxruntime")
    with pytest.raises(ExportError, match=r"none\.onnx does not exist"):
        lint(tmp_path / "none.onnx", "onnxruntime")


@pytest.mark.parametrize(
    ("target", "condition", "met"),
    [
        ("tensorrt-10.3", "tensorrt<11.2", True),
        ("tensorrt-11.2", "tensorrt<11.2", False),
        ("tensorrt-11.2", "tensorrt<11.2.1", True),  # it may be 11.2.0
        ("tensorrt-11.2.1", "tensorrt<11.2.1", False),
        ("tensorrt-9", "tensorrt<10.2", True),
        ("tensorrt-10.14", "tensorrt>=10.14.1", True),  # it may be 10.14.1
        ("tensorrt-10.14.0", "tensorrt>=10.14.1", False),
        ("tensorrt-10.9", "tensorrt>=10.14.1", False),
        ("tensorrt-11.4.0.106", "tensorrt>=10.14.1", True),
        ("tensorrt", "tensorrt<11.2", True),
        ("tensorrt", "tensorrt>=10.14.1", True),
        ("rtx-1.5", "tensorrt<11.2", False),
        ("rtx-1.5.2", "rtx<1.6", True),
        ("openvino", "any", True),
        ("onnxruntime", "onnxruntime", True),
    ],
)
def test_conditions_on_versions(target, condition, met):
    assert Target.parse(target).meets(condition) is met


@pytest.mark.parametrize("text", ["tensorrt10.3", "trt-10", "tensorrt-", "tensorrt-10.x", ""])
def test_an_unknown_target_is_refused(text):
    with pytest.raises(
        ExportError, match=f"no target '{text}'; expected tensorrt, rtx, onnxruntime, openvino"
    ):
        lint(model(WARP), text)


def test_rules_are_whole_and_documented():
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert re.fullmatch(r"PW\d{3}", rule.id)
        assert rule.title
        assert rule.reason
        assert rule.remedy
        assert set(rule.severities.values()) <= set(SEVERITIES)
        for condition in rule.severities:
            Target.parse("tensorrt").meets(condition)
    assert rules_table(RULES) in (ROOT / "docs/lint.md").read_text(), "export/lint.py RULES have changed"


def test_the_report_does_not_overwrite_the_model(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(model(WARP), path)
    before = path.read_bytes()
    result = CliRunner().invoke(app, ["lint", str(path), "--target", "rtx-1.7", "--json", str(path)])
    assert "would overwrite the input" in str(result.exception)
    assert path.read_bytes() == before


def test_the_command_prints_writes_json_and_fails_on_what_it_is_told(tmp_path):
    path, report = tmp_path / "m.onnx", tmp_path / "report.json"
    onnx.save(BAD["a layer that gives positions"].model, path)
    mild = CliRunner().invoke(app, ["lint", str(path), "--target", "rtx-1.7", "--json", str(report)])
    assert mild.exit_code == 0, mild.output
    assert "warning PW021 grid 'grid': depends on Conv 'flow'" in mild.output
    assert "0 errors, 1 warnings" in mild.output
    read = json.loads(report.read_text())
    assert (read["target"], read["findings"][0]["rule"]) == ("rtx-1.7", "PW021")
    assert set(read["findings"][0]) == {"rule", "severity", "where", "message", "remedy"}
    strict = CliRunner().invoke(app, ["lint", str(path), "--target", "rtx-1.7", "--fail-on", "warning"])
    assert strict.exit_code == 1
    onnx.save(BAD["AffineGrid"].model, path)
    assert CliRunner().invoke(app, ["lint", str(path), "--target", "rtx-1.7"]).exit_code == 1
    never = CliRunner().invoke(app, ["lint", str(path), "--target", "rtx-1.7", "--fail-on", "never"])
    assert never.exit_code == 0, never.output
    assert CliRunner().invoke(app, ["lint", str(path)]).exit_code == 2
