"""From FP32 file to FP16 file: what is kept, what is proven, and that nothing is left of a failure."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser
from typer.testing import CliRunner

from posewarp.export.graphs.graph import inline_functions, tensor_types
from posewarp.export.graphs.warps import SPELLINGS, find_warps
from posewarp.export.precision.half import PRECISION_KEY
from posewarp.export.to_fp16 import app, convert, to_fp16
from posewarp.runtime.errors import DataError, ExportError, ParityError
from posewarp.runtime.files import sha256
from posewarp.runtime.session import Session

RNG = np.random.default_rng(0)


@pytest.fixture
def write(tmp_path):
    """``write(text, data, **constants) -> Path`` of a model whose inputs lie beside it as model.npz."""

    def written(text, data, opset=18, **constants):
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n g {text}')
        for name, value in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        onnx.save(model, tmp_path / "model.onnx")
        np.savez(tmp_path / "model.npz", **data)
        return tmp_path / "model.onnx"

    return written


def kinds(path):
    return {n: t.elem_type for n, t in tensor_types(inline_functions(onnx.load(path))).items()}


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_our_network_in_each_spelling(exported, tmp_path, spelling):
    source = exported("image")
    report = to_fp16(source.path, tmp_path / "a.fp16.onnx", warp=spelling)
    assert report.share_by_count >= 0.9
    assert report.share_by_flops >= 0.95
    assert len(report.drifts) == 3
    for drift in report.drifts:
        assert drift.same_flow_max_px < 1e-3
        assert drift.own_flow_max_px < 0.05
    (picture,) = report.parity
    assert picture.psnr_db >= 50
    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["posewarp.warp"] == spelling
    assert properties["posewarp.contract"] == source.report.contract.to_json()
    precision = json.loads(properties[PRECISION_KEY])
    assert precision["source_sha256"] == sha256(source.path)
    assert set(precision["kept"]) == {kept.node for kept in report.kept}
    types = kinds(report.path)
    low, wide = TensorProto.FLOAT16, TensorProto.FLOAT
    for warp in find_warps(model):
        assert types[warp.grid] == wide
        assert types[warp.features] == (wide if spelling == "gridsample" else low)
    if spelling != "plugin":
        with Session.open(report.path, extra_outputs=["flow"]) as session:
            assert session.contract == source.report.contract
            inputs = {
                spec.name: np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in session.contract.inputs
            }
            assert session.run(inputs)["flow"].dtype == np.float32


def test_the_default_output_is_named_after_the_type(exported, tmp_path):
    shutil.copy(exported("image").path, tmp_path / "net.onnx")
    assert to_fp16(tmp_path / "net.onnx").path == str(tmp_path / "net.fp16.onnx")
    assert files(tmp_path) == ["net.fp16.onnx", "net.onnx"]
    report = to_fp16(tmp_path / "net.onnx", dtype="bf16")
    assert report.path == str(tmp_path / "net.bf16.onnx")
    assert report.parity[0].psnr_db > 35
    assert any("bf16" in note for note in report.notes)


GRID_INPUT = """(float[n,3,256,176] image, float[n,256,176,2] grid) => (float[n,3,256,176] y)
    { moved = Add(grid, shift) y = GridSample <align_corners = 1> (image, moved) }"""


def grid_input(n=1):
    x, y = np.meshgrid(np.linspace(-1, 1, 176), np.linspace(-1, 1, 256))
    grid = np.stack((x, y), -1)[None] * 0.97
    image = RNG.random((n, 3, 256, 176))
    return {"image": image.astype(np.float32), "grid": grid.repeat(n, 0).astype(np.float32)}


@pytest.mark.parametrize("spelling", [None, "gridsample", "gather"])
def test_a_grid_that_is_an_input_is_not_rounded(write, spelling):
    """On a random image, where a converter that rounds it is 0.05 off."""
    path = write(GRID_INPUT, grid_input(), shift=np.float32(0.013))
    report = to_fp16(path, warp=spelling, data=path.with_suffix(".npz"))
    assert report.parity[0].max_abs < 1e-3
    assert report.drifts[0].own_flow_max_px == 0
    with Session.open(path) as before, Session.open(report.path) as after:
        feeds = grid_input()
        np.testing.assert_allclose(after.run(feeds)["y"], before.run(feeds)["y"], rtol=0, atol=1e-3)


FLOW = """(float[n,4,8,256] x) => (float[n,4,8,256] y) { f = Relu(x) flow = Conv <pads = [1,1,1,1]> (f, w)
    turned = Transpose <perm = [0,2,3,1]> (flow) scaled = Mul(turned, per_px) grid = %s
    y = GridSample <align_corners = 1> (f, grid) }"""


def flow_of(pixels):
    """A network whose flow reaches about ``pixels``."""
    x, y = np.meshgrid(np.linspace(-1, 1, 256), np.linspace(-1, 1, 8))
    base = np.stack((x, y), -1)[None].astype(np.float32)
    weight = RNG.standard_normal((2, 4, 3, 3)) * pixels / 12 * np.reshape([1, 0.01], (2, 1, 1, 1))
    return {"w": weight.astype(np.float32), "base": base, "per_px": np.float32([2 / 255, 2 / 7])}


def smooth(n=3):
    """Maps that vary slowly, as features and flows do."""
    x, y = np.meshgrid(np.linspace(0, 3, 256), np.linspace(0, 1, 8))
    phases = RNG.uniform(0, 6, (n, 4, 1, 1))
    return {"x": (1 + np.sin(x + 2 * y + phases)).astype(np.float32)}


def test_a_short_flow_is_fp16_and_a_long_one_makes_its_layer_fp32(write):
    for pixels, kept in ((4, False), (100, True)):
        path = write(FLOW % "Add(scaled, base)", smooth(), **flow_of(pixels))
        report = to_fp16(path, data=path.with_suffix(".npz"))
        named = {each.node: each.reason for each in report.kept}
        assert ("flow" in named) == kept
        assert report.share_by_count == (0 if kept else 1)
    assert "rounded to fp16 it would move y by 0.0" in named["flow"]


def test_where_a_flow_moves_the_layers_that_make_it_are_fp32_and_no_others(write):
    """Its layer takes the difference of large features: their rounding, not its own, moves the flow by 0.1 px."""
    text = """(float[n,4,8,256] x) => (float[n,4,8,256] y)
        { first = Conv <pads = [1,1,1,1]> (x, mix) a = Conv <pads = [1,1,1,1]> (first, large) flow = Conv (a, apart)
          turned = Transpose <perm = [0,2,3,1]> (flow) scaled = Mul(turned, per_px) grid = Add(scaled, base)
          other = Conv <pads = [1,1,1,1]> (x, mix) y = GridSample <align_corners = 1> (other, grid) }"""
    mix = np.zeros((4, 4, 3, 3), np.float32)
    mix[range(4), range(4), 1, 1] = 1
    constants = {key: value for key, value in flow_of(4).items() if key != "w"}
    apart = np.float32([[1, -1, 0, 0], [0, 0, 0.01, 0]]).reshape(2, 4, 1, 1)
    path = write(text, {"x": 1 + smooth()["x"] / 100}, mix=mix, large=200 * mix, apart=apart, **constants)
    report = to_fp16(path, data=path.with_suffix(".npz"))
    named = {each.node: each.reason for each in report.kept}
    assert named["a"] == named["flow"] == "makes the flow of y, which would move by more than its limit"
    assert not {"other", "first"} <= named.keys()
    assert report.drifts[0].own_flow_p999_px < 0.05


def test_a_layer_that_gives_positions_is_fp32(write):
    path = write(
        FLOW.replace("Mul(turned, per_px)", "Tanh(turned)") % "Identity(scaled)", smooth(), **flow_of(0.1)
    )
    report = to_fp16(path, data=path.with_suffix(".npz"))
    assert {each.node: each.reason for each in report.kept}["flow"].startswith("flow is a position of y")


def test_a_regressor_written_as_product_and_bias_is_fp32_whole(write):
    text = """(float[n,4,8,256] x) => (float[n,4,8,256] y)
        { pooled = GlobalAveragePool(x) flat = Flatten(pooled) product = MatMul(flat, fc) theta6 = Add(product, bias)
          theta = Reshape(theta6, two_three) turned = Transpose <perm = [0,2,1]> (theta) points = MatMul(base, turned)
          grid = Reshape(points, grid_shape) y = GridSample <align_corners = 1> (x, grid) }"""
    x, y = (each.ravel() for each in np.meshgrid(np.linspace(-1, 1, 256), np.linspace(-1, 1, 8)))
    constants = {
        "fc": (0.01 * RNG.standard_normal((4, 6))).astype(np.float32),
        "bias": np.float32([1, 0, 0, 0, 1, 0]),
        "two_three": np.array([0, 2, 3]),
        "base": np.stack((x, y, np.ones_like(x)), -1).astype(np.float32),
        "grid_shape": np.array([0, 8, 256, 2]),
    }
    path = write(text, smooth(), **constants)
    report = to_fp16(path, data=path.with_suffix(".npz"))
    assert {"product", "theta6", "points"} <= {each.node for each in report.kept}
    assert report.drifts[0].own_flow_max_px < 0.01


def test_warps_of_a_loop_and_of_a_branch_are_converted(write):
    """An iterative flow: the loop looks features up where its carried grid says, and moves it."""
    text = """(float[n,4,8,256] x, bool take, int64 trips) => (float[n,4,8,256] y) {
        f = Conv <pads = [1,1,1,1]> (x, w4) flow = Conv <pads = [1,1,1,1]> (f, w) go = Cast <to = 9> (trips)
        turned = Transpose <perm = [0,2,3,1]> (flow) scaled = Mul(turned, per_px) start = Add(scaled, base)
        grid, seen = Loop (trips, go, start, f) <body = b (int64 i, bool c, float[n,8,256,2] p, float[n,4,8,256] h)
            => (bool d, float[n,8,256,2] q, float[n,4,8,256] k) {
            d = Identity(c) look = GridSample <align_corners = 1> (h, p) k = Relu(look)
            step = Conv <pads = [1,1,1,1]> (look, w) last = Transpose <perm = [0,2,3,1]> (step)
            small = Mul(last, per_px) q = Add(p, small) }>
        y = If (take) <then_branch = t () => (float[n,4,8,256] r) { r = GridSample <align_corners = 1> (seen, grid) },
                       else_branch = e () => (float[n,4,8,256] s) { s = Identity(f) }> }"""
    w4 = (RNG.standard_normal((4, 4, 3, 3)) / 6).astype(np.float32)
    path = write(text, smooth(1) | {"take": np.array(True), "trips": np.array(3)}, w4=w4, **flow_of(2))
    report = to_fp16(path, data=path.with_suffix(".npz"))
    assert {"q", "small", "last", "start", "scaled"} <= {each.node for each in report.kept}
    assert "cannot be measured" in {each.node: each.reason for each in report.kept}["step"]
    types = kinds(report.path)
    assert (types["h"], types["p"], types["look"], types["r"]) == (TensorProto.FLOAT16, TensorProto.FLOAT) + (
        TensorProto.FLOAT16,
    ) * 2


def test_no_file_is_left_of_a_failed_gate(write):
    path = write(FLOW % "Add(scaled, base)", smooth(), **flow_of(4))
    before = files(path.parent)
    with pytest.raises(ParityError, match=r"fp16 differs from fp32 by too much: y: .*--search finds"):
        to_fp16(path, data=path.with_suffix(".npz"), tolerance=1e-6)
    assert files(path.parent) == before


def test_search_holds_what_the_tolerance_needs_and_no_more(write):
    text = """(float[n,4,8,256] x) => (float[n,4,8,256] y)
        { a = Conv <pads = [1,1,1,1]> (x, w) b = Relu(a) c = Conv <pads = [1,1,1,1]> (b, w) y = Mul(c, tiny) }"""
    weight = (RNG.standard_normal((4, 4, 3, 3)) / 6).astype(np.float32)
    path = write(text, smooth(), w=weight, tiny=np.float32(0.1))
    with pytest.raises(ParityError):
        to_fp16(path, data=path.with_suffix(".npz"), tolerance=1.5e-4)
    report = to_fp16(path, data=path.with_suffix(".npz"), tolerance=1.5e-4, search=True)
    found = [each.node for each in report.kept if each.reason.startswith("found by --search")]
    assert 0 < len(found) < 4
    assert report.parity[0].passed


def test_a_model_without_warps_is_converted_too(write):
    text = "(float[n,4,8,256] x) => (float[n,2,8,256] y) { y = Conv <pads = [1,1,1,1]> (x, w) }"
    path = write(text, smooth(), w=flow_of(4)["w"])
    report = to_fp16(path, data=path.with_suffix(".npz"))
    assert (report.warp, report.share_by_count, report.drifts) == ("none", 1, ())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "int8"}, ExportError, "no dtype 'int8'; there are fp16, bf16"),
        ({"warp": "native"}, ExportError, "no warp spelling 'native'"),
        ({"output": "out.engine"}, ExportError, "out.engine is no name for an ONNX file"),
        ({"output": "gone/out.onnx"}, ExportError, "the folder .* does not exist"),
        ({}, DataError, "fit posewarp's generator only.*--data inputs.npz"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(write, options, error, message, monkeypatch):
    path = write(FLOW % "Add(scaled, base)", smooth(), **flow_of(4))
    monkeypatch.chdir(path.parent)
    with pytest.raises(error, match=message) as caught:
        to_fp16(path, **options)
    assert "\n" not in str(caught.value)
    assert files(path.parent) == ["model.npz", "model.onnx"]


def test_a_converted_file_and_the_file_itself_are_refused(write):
    path = write(FLOW % "Add(scaled, base)", smooth(), **flow_of(4))
    report = to_fp16(path, data=path.with_suffix(".npz"))
    with pytest.raises(ExportError, match="already in fp16 or bf16"):
        to_fp16(report.path, data=path.with_suffix(".npz"))
    with pytest.raises(
        ExportError, match=r"output .* would overwrite the input .*model.onnx; give another path"
    ):
        to_fp16(path, path, data=path.with_suffix(".npz"))


def test_a_network_that_gives_nan_is_refused(write):
    text = "(float[n,4,8,256] x) => (float[n,4,8,256] y) { a = Sub(x, x) y = Div(a, a) }"
    path = write(text, smooth())
    with pytest.raises(ExportError, match="the fp32 model gives NaN or infinity in y on these inputs"):
        to_fp16(path, data=path.with_suffix(".npz"))


def test_the_command_prints_the_report_and_writes_it_as_json(write, tmp_path):
    path = write(FLOW % "Add(scaled, base)", smooth(), **flow_of(4))
    result = CliRunner().invoke(
        app,
        [
            str(path),
            "-o",
            str(tmp_path / "out.onnx"),
            "--data",
            str(path.with_suffix(".npz")),
            "--json",
            str(tmp_path / "r.json"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "computes where y samples" in result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["share_by_count"] == 1
    assert {kept["operator"] for kept in report["kept"]} == {"Add", "Mul", "Transpose"}


@pytest.mark.parametrize("options", [["-o", "model.onnx"], ["--json", "model.onnx"], ["--json", "model.npz"]])
def test_no_output_overwrites_an_input(write, monkeypatch, options):
    path = write(FLOW % "Add(scaled, base)", smooth(), **flow_of(4))
    monkeypatch.chdir(path.parent)
    before = path.read_bytes()
    result = CliRunner().invoke(app, ["model.onnx", "--data", "model.npz", *options])
    assert isinstance(result.exception, ExportError)
    assert f"{options[1]} would overwrite the input {options[1]}" in str(result.exception)
    assert path.read_bytes() == before
    assert files(path.parent) == ["model.npz", "model.onnx"]


def test_a_missing_file_is_told_before_anything_is_converted(tmp_path):
    result = CliRunner().invoke(app, [str(tmp_path / "no.onnx")])
    assert "no.onnx does not exist" in str(result.exception)
    assert "converting" not in result.output


def test_inputs_that_test_nothing_are_noted(write):
    path = write(FLOW % "Add(scaled, base)", smooth(), **flow_of(4))
    real = to_fp16(path, data=path.with_suffix(".npz"))
    assert not [note for note in real.notes if "constant" in note]
    path = write(FLOW % "Add(scaled, base)", {k: 0 * v for k, v in smooth().items()}, **flow_of(4))
    notes = to_fp16(path, data=path.with_suffix(".npz")).notes
    assert "the inputs are constant, which tests little: give real ones by --data" in notes
    assert any("constant on these inputs, which tests nothing: y" in note for note in notes)


def test_the_script_fails_in_one_line(tmp_path):
    script = ["export/to_fp16.py", str(tmp_path / "no.onnx")]
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"ExportError: {tmp_path / 'no.onnx'} does not exist\n"


def test_naive_conversion_moves_positions_that_ours_leaves(exported):
    """With nothing kept the same pass shows the fault that all the rest is about."""
    from posewarp.export.ladder.drift import coordinate_drift
    from posewarp.export.ladder.sample_data import load_inputs, read_contract

    model = exported("image").model
    (feeds,) = load_inputs(None, read_contract(model))
    naive = coordinate_drift(model, convert(model, {}), feeds)
    assert max(drift.same_flow_max_px for drift in naive) > 0.01
