"""``posewarp split``: where it cuts, that the parts are the whole, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from posewarp.export import split as command
from posewarp.export.graphs.coordinates import Walker
from posewarp.export.graphs.graph import inline_functions
from posewarp.export.graphs.inlining import all_nodes
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.ladder.sample_data import load_inputs, read_contract
from posewarp.export.precision.half import convert
from posewarp.export.split import Plan, SplitReport, split
from posewarp.export.splitting import measure
from posewarp.export.splitting.measure import Gain
from posewarp.export.splitting.positions import nodes_behind
from posewarp.runtime.errors import ContractError, ExportError, ParityError
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import SplitSession

OURS = ("source_image", "source_keypoints")
# A picture a, what is done with it, and a pose b.
FEATURE = "feature = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (a, weight)"


@pytest.fixture
def write(tmp_path):
    """Writes a graph in ONNX's own text, with a 3x3 filter ``weight`` (2, 2, 3, 3)."""

    def written(body, *, batch="N", functions="", outputs="out", a=None, b=None, name="model.onnx"):
        a, b = a or f"float[{batch}, 2, 8, 8] a", b or f"float[{batch}, 2, 8, 8] b"
        opsets = '"" : 18' + (', "local" : 1' if functions else "")
        declared = ", ".join(f"float[{batch}, C, H, W] {each}" for each in outputs.split(","))
        model = parser.parse_model(
            f"<ir_version: 10, opset_import: [{opsets}]> graph ({a}, {b}) => ({declared}) {{\n{body}\n}}\n{functions}"
        )
        weight = np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return written


def names_of(specs):
    return [spec.name for spec in specs]


def pair(report):
    return SplitSession.open(report.source, report.pose)


def run_whole(path, feeds):
    with Session.open(path) as session:
        return session.run(feeds)


@pytest.mark.parametrize("spelling", ["portable", "plugin", "gridsample", "gather"])
def test_both_parts_of_our_generator_are_the_whole(exported, tmp_path, spelling):
    path = tmp_path / "model.onnx"
    onnx.save(rewrite_warps(exported("image").model, spelling), path)
    report = split(path, OURS)
    assert [(each.output, each.max_abs) for each in report.parity] == [("generated", 0)]
    assert report.batches == (1, 3)
    assert 0 < report.plan.operations.saved < 1
    # Keypoints are smaller than their heat maps.
    assert report.plan.kept_inputs == ("source_keypoints",)
    for file in (report.source, report.pose):
        onnx.checker.check_model(onnx.load(file), full_check=spelling != "plugin")
    calls = {node.op_type for node in all_nodes(onnx.load(report.source))}
    assert "MixedGridSample" not in calls
    assert not onnx.load(report.source).functions
    assert (report.times_ms is None) == (spelling == "plugin")


def test_a_model_of_dynamic_size_is_cut_for_all_sizes(exported, tmp_path):
    path = exported("tensors").path
    report = split(path, ["source_image"], tmp_path / "model.onnx")
    (feeds,) = load_inputs(None, read_contract(onnx.load(path)), size={"height": 48, "width": 40})
    with pair(report) as parts:
        got, expected = parts.run(feeds)["generated"], run_whole(path, feeds)["generated"]
    assert np.abs(got - expected).max() <= 1e-5


def test_a_strangers_network_is_cut_and_a_source_part_of_another_is_refused(foreign, tmp_path):
    network = foreign("first_order")
    report = split(network.path, ["source"], tmp_path / "a.onnx", data=network.npz)
    assert {each.output for each in report.parity} == {"prediction", "deformation"}
    assert report.plan.operations.saved > 0.4
    other = split(network.path, ["driving"], tmp_path / "b.onnx", data=network.npz)
    with pytest.raises(ContractError, match="was cut from another model, or elsewhere"):
        SplitSession.open(other.source, report.pose)
    with pytest.raises(ContractError, match="no source and pose part"):
        SplitSession.open(report.pose, report.source)


def test_fp16_before_the_cut_gives_fp16_features(exported, tmp_path):
    flat = inline_functions(exported("image").model)
    path = tmp_path / "half.onnx"
    slices = Walker(flat)
    keep = {name: "" for name in slices.index.nodes if "grid" in name or "stack" in name or "select" in name}
    onnx.save(convert(flat, keep, "fp16"), path)
    report = split(path, OURS)
    assert {spec.dtype for spec in report.plan.features} == {"float16"}
    assert report.times_ms is None
    assert "emulation" in report.notes[0]


def test_bf16_features_are_refused_with_the_way_out(exported, tmp_path):
    path = tmp_path / "bf16.onnx"
    onnx.save(convert(inline_functions(exported("image").model), {}, "bf16"), path)
    with pytest.raises(ExportError, match="split the fp32 file, then convert"):
        split(path, OURS)


# Where it cuts


def test_a_small_source_is_handed_over_instead_of_what_is_made_of_it(write):
    path = write(f"""{FEATURE}
        scales = Constant <value_floats: floats = [1.0, 1.0, 2.0, 2.0]> ()
        large = Resize <mode: string = "nearest"> (feature, , scales)
        flat_shape = Constant <value_ints: ints = [0, 2, 256]> ()
        flat = Reshape (large, flat_shape)
        mapped = Sigmoid (large)
        big = Resize <mode: string = "nearest"> (b, , scales)
        first = Mul (big, mapped)
        shape = Constant <value_ints: ints = [0, 2, 16, 16]> ()
        again = Reshape (flat, shape)
        out = Add (first, again)""")
    report = split(path, ["a"], data="random")
    assert names_of(report.plan.features) == ["feature"]
    assert report.plan.made_again == 4  # Resize, Reshape, Sigmoid, Reshape


def test_a_layer_is_never_run_again_even_if_its_input_is_smaller(write):
    path = write(f"""{FEATURE}
        scales = Constant <value_floats: floats = [1.0, 1.0, 2.0, 2.0]> ()
        large = Resize <mode: string = "nearest"> (feature, , scales)
        second = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (large, weight)
        big = Resize <mode: string = "nearest"> (b, , scales)
        out = Add (big, second)""")
    report = split(path, ["a"], data="random")
    assert names_of(report.plan.features) == ["second"]
    assert "Conv" not in {node.op_type for node in onnx.load(report.pose).graph.node}
    # Constants go where they are needed.
    assert [tensor.name for tensor in onnx.load(report.pose).graph.initializer] == []


def test_operations_are_counted_on_the_side_that_runs_them(write):
    path = write(f"""{FEATURE}
        other = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (b, weight)
        out = Add (feature, other)""")
    operations = split(path, ["a"], data="random", plan_only=True).operations
    conv, add = 2 * 2 * 9 * 2 * 64, 2 * 64
    assert operations == Gain(2 * conv + add, conv, conv + add)
    assert operations.saved == pytest.approx(conv / (2 * conv + add))
    assert Gain(100, 40, 60).times(1) == 1
    assert Gain(100, 40, 60).times(16) == pytest.approx(1600 / 1000)


def test_times_are_of_settled_runs_and_the_sources_is_what_its_first_pose_takes_longer(write, monkeypatch):
    path = write(f"{FEATURE}\n        out = Mul (feature, b)")
    report = split(path, ["a"], data="random")
    (feeds,) = load_inputs("random", read_contract(onnx.load(path)), batch=1)
    clock, last = [0.0], [None]

    def takes(session, ms, of):
        run = session.run

        def timed(feeds):
            # Behind another session's a run takes longer.
            clock[0] += 1e-3 * (ms if last[0] is of else ms + 5)
            last[0] = of
            return run(feeds)

        monkeypatch.setattr(session, "run", timed)

    with Session.open(path) as whole, SplitSession.open(report.source, report.pose) as both:
        takes(whole, 8, whole)
        takes(both.source, 4, both)
        takes(both.pose, 2, both)
        monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
        gain = measure.time_parts(whole, both.source, both.pose, feeds)
    assert (gain.whole, gain.source, gain.pose) == pytest.approx((8, 4, 2))
    assert clock[0] > 4  # seconds


def test_sizes_of_the_source_do_not_tie_poses_to_its_batch(write):
    path = write(f"""{FEATURE}
        shape = Shape (feature)
        same = Reshape (b, shape)
        out = Add (feature, same)""")
    path_report = split(path, ["a"], data="random")
    assert path_report.batches == (1, 3)
    with pair(path_report) as parts:
        feeds = load_inputs("random", parts.contract, batch=3)[0]
        feeds["a"][:] = feeds["a"][:1]
        # The Reshape must see the batch of b, though a is run alone.
        assert np.allclose(parts.run(feeds)["out"], run_whole(path, feeds)["out"], atol=1e-5)
        assert parts.cache.state.misses == 1


def test_bodies_functions_and_captured_tensors_come_along(write):
    path = write(
        """sum = ReduceSum <keepdims: int = 0> (b)
        zero = Constant <value_float: float = 0.0> ()
        positive = Greater (sum, zero)
        feature = local.twice (a, weight)
        out = If (positive) <
            then_branch: graph = g1 () => (float[N, 2, 8, 8] x) { x = Add (feature, b) },
            else_branch: graph = g2 () => (float[N, 2, 8, 8] y) { y = local.twice (feature, weight) }
        >""",
        functions="""<domain: "local", opset_import: ["" : 18]> twice (x, w) => (y) {
            h = Conv <pads: ints = [1, 1, 1, 1]> (x, w)  y = Conv <pads: ints = [1, 1, 1, 1]> (h, w) }""",
    )
    report = split(path, ["a"], data="random")
    assert names_of(report.plan.features) == ["feature"]
    with pair(report) as parts:
        for sign in (1, -1):
            feeds = load_inputs("random", parts.contract)[0]
            feeds["b"] = sign * np.abs(feeds["b"])
            assert np.allclose(parts.run(feeds)["out"], run_whole(path, feeds)["out"], atol=1e-5)


def test_what_the_source_gives_by_itself_is_returned_too(write):
    path = write(f"{FEATURE}\nkeypoints = Relu (feature)\nout = Mul (keypoints, b)", outputs="keypoints,out")
    report = split(path, ["a"], data="random")
    assert report.plan.source_outputs == ("keypoints",)
    with pair(report) as parts:
        feeds = load_inputs("random", parts.contract, batch=2)[0]
        got, expected = parts.run(feeds), run_whole(path, feeds)
    assert list(got) == ["keypoints", "out"]
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_a_fixed_batch_is_cut_and_run_in_whole_batches(write):
    path = write(f"{FEATURE}\nout = Mul (feature, b)", batch="2")
    report = split(path, ["a"], data="random")
    assert report.batches == (2,)
    with pair(report) as parts:
        feeds = load_inputs("random", parts.contract, count=2)
        four = {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}
        got = parts.run(four)["out"]
    assert np.array_equal(got, np.concatenate([run_whole(path, each)["out"] for each in feeds]))


def test_noise_is_drawn_for_each_pose(write):
    path = write(f"""{FEATURE}
        noise = RandomNormalLike (feature)
        zero = Constant <value_float: float = 0.0> ()
        none = Mul (noise, zero)
        seen = Add (feature, none)
        out = Mul (seen, b)""")
    report = split(path, ["a"], data="random")
    assert names_of(report.plan.features) == ["feature"]


# What it refuses


def test_refuses_when_no_layer_depends_on_the_inputs_alone(write):
    path = write(
        "mapped = Sigmoid (a)\nboth = Mul (mapped, b)\nout = Conv <pads: ints = [1, 1, 1, 1]> (both, weight)"
    )
    with pytest.raises(ExportError, match="nothing worth keeping depends on a alone"):
        split(path, ["a"], data="random")


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (["picture"], "has no input picture; its inputs are a, b"),
        ([], "has no input"),
        (["a", "b"], "all inputs of .* are named"),
    ],
)
def test_refuses_names_that_cut_nothing(write, by, message):
    with pytest.raises(ExportError, match=message):
        split(write(f"{FEATURE}\nout = Mul (feature, b)"), by, data="random")


def test_samples_that_mix_in_the_source_are_refused_and_nothing_is_written(write, tmp_path):
    path = write(f"""{FEATURE}
        axis = Constant <value_ints: ints = [0]> ()
        mean = ReduceMean <keepdims: int = 1> (feature, axis)
        mixed = Conv <pads: ints = [1, 1, 1, 1]> (mean, weight)
        out = Add (mixed, b)""")
    with pytest.raises(ParityError, match=r"out of the parts differs .* at batch 3"):
        split(path, ["a"], data="random")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_second_file_that_cannot_be_written_leaves_both_older_ones(write, tmp_path, monkeypatch):
    path = write(f"{FEATURE}\nout = Mul (feature, b)")
    report = split(path, ["a"], data="random")
    older = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert {report.source, report.pose} <= {str(file) for file in older}
    calls, real = [], onnx.save

    def failing(model, file, **options):
        calls.append(file)
        if Path(file).parent == tmp_path and sum(Path(f).parent == tmp_path for f in calls) == 2:
            raise OSError(28, "No space left on device")
        real(model, file, **options)

    monkeypatch.setattr(onnx, "save", failing)
    # Another graph, so that new parts differ from the older ones.
    other = onnx.load(path)
    other.graph.node[-1].op_type = "Add"
    real(other, path)
    older[path] = path.read_bytes()
    with pytest.raises(ExportError, match="No space left"):
        split(path, ["a"], data="random")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == older


# What follows


def test_recorded_features_are_data_for_both_parts(write):
    path = write(f"{FEATURE}\nout = Mul (feature, b)")
    report = split(path, ["a"], data="random", save_features=True)
    for part, npz in zip((report.source, report.pose), report.saved, strict=True):
        model = onnx.load(part)
        runs = load_inputs(npz, read_contract(model), count=9)
        assert len(runs) == 4
        with Session.open(part) as session:
            session.run(runs[0])


def test_a_source_part_keeps_in_fp32_what_the_pose_part_samples_by(write):
    path = write(f"""{FEATURE}
        point = GlobalAveragePool (feature)
        encoded = Conv <pads: ints = [1, 1, 1, 1]> (a, weight)
        moved = Add (b, point)
        grid = Transpose <perm: ints = [0, 2, 3, 1]> (moved)
        out = GridSample (encoded, grid)""")
    source = inline_functions(onnx.load(split(path, ["a"], data="random").source))
    assert read_contract(source).settings["split"]["positions"] == ["point"]
    assert set(nodes_behind(Walker(source), read_contract(source))) == {"point", "feature"}
    whole = inline_functions(onnx.load(path))
    assert nodes_behind(Walker(whole), read_contract(whole)) == {}


def test_plan_writes_nothing_and_json_holds_predictions(write, tmp_path, posewarp_command):
    path = write(f"{FEATURE}\nout = Mul (feature, b)")
    code, out = posewarp_command(path, "--by", "a", "--data", "random", "--plan")
    assert code == 0
    assert "saved per further pose: 9" in out
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    code, _ = posewarp_command(path, "--by", "a", "--data", "random", "--json", tmp_path / "report.json")
    assert code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["predicted_gain"]["by_operations"]["16"] == pytest.approx(
        Gain(**report["plan"]["operations"]).times(16)
    )
    assert set(report["predicted_gain"]) == {"by_operations", "by_time"}


@pytest.fixture
def posewarp_command(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["split.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command.command.main(command.app)
        return ended.value.code or 0, capsys.readouterr().out

    return run


@pytest.mark.parametrize(("source", "said"), [(0.0, True), (1.5, False)])
def test_a_source_part_whose_time_is_lost_in_noise_is_said(source, said):
    plan = Plan(("source",), (), 0.5, (), (), 0, Gain(10.0, 4.0, 6.0))
    times = Gain(9.0, source, 9.5)
    report = SplitReport("a", "b", plan, (), (1,), times, "random", (), (), 1.0)
    assert ("lost in noise" in str(report)) is said
