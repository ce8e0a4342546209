"""Every spelling of a warp against torch's grid_sample, and what each one looks like."""

import dataclasses
import itertools

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

from posewarp.export.graphs.warps import (
    MODES,
    PADDING_MODES,
    SPELLINGS,
    find_warps,
    graphs_of,
    rewrite_warps,
    standard_mode,
)
from posewarp.runtime.errors import ExportError

# ONNX Runtime's GridSample and torch's differ in the last bits of positions up to 14 px.
ATOL = 2e-6


def one_warp(mode="bilinear", padding="zeros", align_corners=1, *, opset=18, rank=4):
    """A model of one standard GridSample, all sizes dynamic."""
    place = ["d", "h", "w"][5 - rank :]
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", "c", *place])
    out_place = [f"out_{axis}" for axis in place]
    grid = helper.make_tensor_value_info("grid", TensorProto.FLOAT, ["n", *out_place, rank - 2])
    warped = helper.make_tensor_value_info("warped", TensorProto.FLOAT, ["n", "c", *out_place])
    node = helper.make_node(
        "GridSample",
        ["features", "grid"],
        ["warped"],
        "warp",
        mode=standard_mode(mode, opset),
        padding_mode=padding,
        align_corners=align_corners,
    )
    graph = helper.make_graph([node], "one_warp", [features, grid], [warped])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model, features, grid):
    onnx.checker.check_model(model, full_check=True)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"features": features, "grid": grid})[0]


def expect(features, grid, mode, padding, align_corners):
    sampled = F.grid_sample(
        torch.from_numpy(features),
        torch.from_numpy(grid),
        mode=mode,
        padding_mode=padding,
        align_corners=bool(align_corners),
    )
    return sampled.numpy()


def random_case(n, c, h, w, out_h, out_w):
    """Positions to twice the extent, the corners exactly, and some far away."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, c, h, w)).astype(np.float32)
    grid = rng.uniform(-2, 2, (n, out_h, out_w, 2)).astype(np.float32)
    grid[:1, 0, 0], grid[:1, 0, 1], grid[:1, 1, 0], grid[:1, 1, 1] = (1, -1), (-1, 1), (3e5, 0), (-3e5, -3e5)
    return features, grid


@pytest.mark.parametrize("opset", [16, 18, 20, 22])
@pytest.mark.parametrize("spelling", ["portable", "gridsample", "gather"])
def test_each_spelling_is_grid_sample(spelling, opset):
    for mode, padding, align_corners in itertools.product(
        ["bilinear", "nearest"], ["zeros", "border"], [0, 1]
    ):
        model = rewrite_warps(one_warp(mode, padding, align_corners, opset=opset), spelling)
        for sizes in [(2, 3, 7, 5, 7, 5), (1, 4, 5, 14, 6, 3), (3, 1, 1, 6, 2, 2), (0, 2, 3, 3, 2, 2)]:
            features, grid = random_case(*sizes)
            expected = expect(features, grid, mode, padding, align_corners)
            found = run(model, features, grid)
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=ATOL, err_msg=f"{mode} {padding} {align_corners} {sizes}"
            )


@pytest.mark.parametrize(("mode", "padding"), [("bicubic", "zeros"), ("bilinear", "reflection")])
@pytest.mark.parametrize("opset", [18, 20])
def test_portable_serves_every_mode_of_the_operator(mode, padding, opset):
    features, grid = random_case(2, 3, 7, 5, 7, 5)
    grid = grid.clip(-2, 2)
    found = run(rewrite_warps(one_warp(mode, padding, 0, opset=opset), "portable"), features, grid)
    np.testing.assert_allclose(found, expect(features, grid, mode, padding, 0), rtol=0, atol=1e-5)


def test_gather_is_right_where_onnx_runtimes_border_is_not():
    """Past 2^24 px ONNX Runtime's own GridSample returns 0 with border padding, torch the border pixel."""
    features, grid = random_case(1, 2, 3, 3, 2, 2)
    grid[...] = (4e7, -4e7)
    expected = expect(features, grid, "bilinear", "border", 1)
    assert (run(one_warp(padding="border"), features, grid) != expected).all()
    np.testing.assert_array_equal(
        run(rewrite_warps(one_warp(padding="border"), "gather"), features, grid), expected
    )


def test_gather_reads_no_pixel_that_grid_sample_does_not():
    """An infinite pixel must not become NaN in outputs that lie outside the map beside it."""
    features = np.full((1, 1, 4, 4), 1.0, np.float32)
    features[..., 0, 0] = np.inf
    grid = np.full((1, 1, 1, 2), -3.0, np.float32)
    assert run(rewrite_warps(one_warp(), "gather"), features, grid) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_gather_stays_in_bounds_for_any_position(value, padding):
    features, grid = random_case(1, 2, 3, 3, 2, 2)
    grid[0, 0] = value
    assert run(rewrite_warps(one_warp(padding=padding), "gather"), features, grid).shape == (1, 2, 2, 2)


def test_the_portable_node_is_as_specified():
    model = rewrite_warps(one_warp("bilinear", "border", 1), "portable")
    (node,) = model.graph.node
    assert (node.domain, node.op_type) == ("posewarp", "MixedGridSample")
    assert list(node.input) == ["features", "grid"]
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute} == {
        "mode": b"bilinear",
        "padding_mode": b"border",
        "align_corners": 1,
        "plugin_namespace": b"posewarp",
        "plugin_version": b"1",
    }
    (function,) = model.functions
    assert (function.domain, function.name) == ("posewarp", "MixedGridSample")
    assert set(function.attribute) == {a.name for a in node.attribute}
    assert [n.op_type for n in function.node] == ["CastLike", "GridSample", "CastLike"]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18, "posewarp": 1}


def test_the_plugin_spelling_is_the_portable_one_without_its_body():
    plugin, portable = (rewrite_warps(one_warp(), to) for to in ("plugin", "portable"))
    assert not plugin.functions
    assert plugin.graph == portable.graph
    assert plugin.opset_import == portable.opset_import
    onnx.checker.check_model(plugin, full_check=True)


@pytest.mark.parametrize(("opset", "word"), [(18, "bilinear"), (19, "bilinear"), (20, "linear")])
def test_the_operators_word_is_the_opsets_and_ours_is_not(opset, word):
    model = one_warp(opset=opset)
    (standard,) = rewrite_warps(model, "gridsample").graph.node
    assert next(a.s for a in standard.attribute if a.name == "mode") == word.encode()
    portable = rewrite_warps(model, "portable")
    assert next(a.s for a in portable.graph.node[0].attribute if a.name == "mode") == b"bilinear"
    body = next(a for a in portable.functions[0].node[1].attribute if a.name == "mode")
    assert body.ref_attr_name == ("mode" if opset < 20 else "standard_mode")
    spoken = [a.s for a in portable.graph.node[0].attribute if a.name == "standard_mode"]
    assert spoken == ([] if opset < 20 else [word.encode()])


@pytest.mark.parametrize("first", ["portable", "plugin", "gridsample"])
@pytest.mark.parametrize("second", SPELLINGS)
def test_a_spelling_can_be_changed_into_any_other(first, second):
    model = one_warp("nearest", "border", 0)
    assert rewrite_warps(rewrite_warps(model, first), second) == rewrite_warps(model, second)


def test_rewriting_leaves_the_model_itself_alone():
    model = one_warp()
    before = model.SerializeToString(deterministic=True)
    rewrite_warps(model, "gather")
    assert model.SerializeToString(deterministic=True) == before


def test_a_model_without_warps_is_unchanged():
    model = one_warp()
    model.graph.node[0].CopyFrom(helper.make_node("Identity", ["features"], ["warped"], "warp"))
    assert all(rewrite_warps(model, to) == model for to in SPELLINGS)


@pytest.mark.parametrize("spelling", ["portable", "gather"])
def test_a_warp_inside_a_branch_is_found(spelling):
    model = one_warp()
    shape = helper.make_tensor_value_info("warped", TensorProto.FLOAT, None)
    branches = [helper.make_graph(list(model.graph.node), name, [], [shape]) for name in ("yes", "no")]
    branches[1].node[0].CopyFrom(helper.make_node("Identity", ["features"], ["warped"]))
    model.graph.input.append(helper.make_tensor_value_info("take", TensorProto.BOOL, []))
    model.graph.node[0].CopyFrom(
        helper.make_node("If", ["take"], ["warped"], "if", then_branch=branches[0], else_branch=branches[1])
    )
    assert len(find_warps(model)) == 1
    features, grid = random_case(1, 2, 5, 4, 5, 4)
    session = InferenceSession(rewrite_warps(model, spelling).SerializeToString())
    found = session.run(None, {"features": features, "grid": grid, "take": np.array(True)})[0]
    np.testing.assert_allclose(found, expect(features, grid, "bilinear", "zeros", 1), rtol=0, atol=ATOL)


def test_a_5d_warp_runs_from_opset_20_on():
    features = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
    grid = np.random.default_rng(1).uniform(-1.5, 1.5, (2, 2, 3, 4, 3)).astype(np.float32)
    for spelling in ("portable", "gridsample"):
        model = rewrite_warps(one_warp(opset=20, rank=5), spelling)
        expected = expect(features, grid, "bilinear", "zeros", 1)
        np.testing.assert_allclose(run(model, features, grid), expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_5d_warp_below_opset_20_is_refused(spelling):
    """The checker and a TensorRT parser accept it, although only opset 20 defines it."""
    model = one_warp(opset=20, rank=5)
    model.opset_import[0].version = 18
    message = "needs opset 20, got 18" if spelling != "gather" else "cannot be spelled as gathers"
    with pytest.raises(ExportError, match=f"5-D bilinear warp 'warped'.*{message}"):
        rewrite_warps(model, spelling)


def test_a_5d_bicubic_warp_is_refused():
    with pytest.raises(ExportError, match=r"5-D bicubic warp 'warped'.*no ONNX form"):
        rewrite_warps(one_warp("bicubic", opset=20, rank=5), "portable")


@pytest.mark.parametrize(
    ("mode", "padding", "named"),
    [("bicubic", "zeros", r"4-D bicubic warp"), ("bilinear", "reflection", r"\(padding reflection\)")],
)
def test_what_gather_does_not_cover_is_refused_by_name(mode, padding, named):
    with pytest.raises(ExportError, match=rf"{named}.*cannot be spelled as gathers"):
        rewrite_warps(one_warp(mode, padding), "gather")


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_warps_of_several_modes_share_one_body(opset):
    model = three_warps(opset)
    portable = rewrite_warps(model, "portable")
    assert len(portable.functions) == 1
    assert [warp.mode for warp in find_warps(portable)] == ["bilinear", "nearest", "bicubic"]
    assert_same(model, portable)


@pytest.mark.parametrize("opset", [18, 20])
def test_tensorrt_reads_each_mode_from_the_shared_body(opset):
    """With a body for each word, by function overloads, it takes the first body for all."""
    modes = rtx_modes(rewrite_warps(three_warps(opset), "portable"))
    assert modes == ["LINEAR", "NEAREST", "CUBIC"]


def three_warps(opset):
    words = ("bilinear", "nearest", "bicubic") if opset < 20 else ("linear", "nearest", "cubic")
    reads = "\n".join(f'y{i} = GridSample<mode="{word}">(features, grid)' for i, word in enumerate(words))
    return parsed(f"{reads} near = Add(y0, y1) warped = Add(near, y2)", opset=opset)


def parsed(body, functions="", *, opset=18, ir=8, imports="", kind="float", grid_kind=None):
    """A model of ONNX's own text form: features and grid to warped, of sizes 1x2x5x6 and 1x3x4x2."""
    return onnx.parser.parse_model(f"""
        <ir_version: {ir}, opset_import: ["" : {opset}{imports}]>
        g ({kind}[n, c, h, w] features, {grid_kind or kind}[n, a, b, 2] grid) => ({kind}[n, c, a, b] warped) {{
        {body} }}
        {functions}""")


def assert_same(model, rewritten, *, exact=True, kinds=(np.float32, np.float32)):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, 2, 5, 6)).astype(kinds[0])
    grid = rng.uniform(-1.5, 1.5, (2, 3, 4, 2)).astype(kinds[1])
    found = run(rewritten, features, grid)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"features": features, "grid": grid})[0]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if exact else ATOL)


def rtx_modes(model):
    """The interpolation mode of every GridSample layer that TensorRT-RTX's parser makes of a model."""
    pytest.importorskip("tensorrt_rtx_libs", reason="needs TensorRT-RTX: pip install -e .[rtx]")
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    onnx_parser = trt.OnnxParser(network, logger)
    parses = onnx_parser.parse(model.SerializeToString())
    assert parses, [str(onnx_parser.get_error(i)) for i in range(onnx_parser.num_errors)]
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    samplers = [layer for layer in layers if layer.type == trt.LayerType.GRID_SAMPLE]
    for layer in samplers:
        layer.__class__ = trt.IGridSampleLayer
    return [layer.interpolation_mode.name for layer in samplers]


OUTER = """
    <domain: "f", opset_import: ["" : 18, "f" : 1]> Outer <m: string = "nearest", p: string = "border"> (x, g) => (y)
    { y = f.Inner <m: string = @m, p: string = @p> (x, g) }
"""
INNER = """
    <domain: "f", opset_import: ["" : 18]> Inner <m, p> (x, g) => (y)
    { y = GridSample <mode: string = @m, padding_mode: string = @p> (x, g) }
"""
OTHER = '<domain: "f", opset_import: ["" : 18]> Other (x) => (y) { y = Relu (x) }'
CALLS = {
    "defaults": "warped = f.Outer (features, grid)",
    "given": 'warped = f.Outer <m = "bilinear"> (features, grid)',
    "twice": 'once = f.Outer (features, grid) warped = f.Outer <p = "reflection"> (once, grid)',
    "other": "flat = f.Other (features) warped = f.Outer (flat, grid)",
}


@pytest.mark.parametrize("to", ["portable", "gridsample", "gather"])
@pytest.mark.parametrize("call", CALLS)
def test_warps_inside_functions_are_found_and_rewritten(call, to):
    """onnx.inliner alone would forget the defaults of a function's attributes: nearest became bilinear."""
    model = parsed(CALLS[call], OUTER + INNER + OTHER, imports=', "f" : 1')
    if (call, to) == ("twice", "gather"):
        with pytest.raises(ExportError, match="padding reflection"):
            rewrite_warps(model, to)
        return
    assert len(find_warps(model)) == (2 if call == "twice" else 1)
    rewritten = rewrite_warps(model, to)
    assert {function.name for function in rewritten.functions} - {"MixedGridSample"} == {"Other"}
    assert_same(model, rewritten, exact=to != "gather")


def test_a_function_of_an_opset_that_means_the_same_is_taken_in():
    inner = INNER.replace("18]", "17]")
    model = parsed(
        'warped = f.Inner <m = "nearest", p = "zeros"> (features, grid)', inner, imports=', "f" : 1'
    )
    assert_same(model, rewrite_warps(model, "portable"))


def test_a_functions_word_of_another_opset_is_put_right():
    inner = INNER.replace("18]", "19]")
    model = parsed(
        'warped = f.Inner <m = "bilinear", p = "zeros"> (features, grid)',
        inner,
        opset=20,
        imports=', "f" : 1',
    )
    rewritten = rewrite_warps(model, "gridsample")
    assert [a.s for a in rewritten.graph.node[0].attribute if a.name == "mode"] == [b"linear"]
    assert_same(parsed("warped = GridSample (features, grid)", opset=20), rewritten)


def test_a_function_of_an_opset_that_means_something_else_is_refused():
    function = """<domain: "f", opset_import: ["" : 17]> Inner (x, g) => (y)
                  { z = ReduceMean <axes = [2]> (x)  y = GridSample (x, g) }"""
    model = parsed("warped = f.Inner (features, grid)", function, imports=', "f" : 1')
    with pytest.raises(ExportError, match="f::Inner holds ReduceMean of opset 17, the model is of opset 18"):
        rewrite_warps(model, "portable")


BRANCH = """
    yes = Constant <value = bool {1}> ()
    warped = If (yes) <then_branch = t () => (a) { a = GridSample <mode = "nearest"> (features, grid) },
                       else_branch = e () => (b) { b = GridSample <align_corners = 1> (features, grid) }>
"""
LOOP = """
    yes = Constant <value = bool {1}> ()
    trips = Constant <value = int64 {2}> ()
    mean = ReduceMean <keepdims = 1> (features)
    step = Mul (grid, mean)
    last, all = Loop (trips, yes, grid) <body = b (int64 i, bool c, float[n, a, b, 2] moved)
        => (bool d, float[n, a, b, 2] further, float[n, c, a, b] read)
        { d = Identity (c)  further = Add (moved, step)
          read = GridSample <padding_mode = "border"> (features, moved) }>
    warped = ReduceSum <keepdims = 0> (all, first)
"""
SCAN = """
    grids = Unsqueeze (grid, first)
    both = Concat <axis = 0> (grids, grids)
    all = Scan <num_scan_inputs = 1, body = b (float[n, a, b, 2] moved) => (float[n, c, a, b] read)
        { read = GridSample <align_corners = 1> (features, moved) }> (both)
    warped = ReduceMean <keepdims = 0> (all, first)
"""


@pytest.mark.parametrize("to", ["portable", "gridsample", "gather"])
@pytest.mark.parametrize("body", ["BRANCH", "LOOP", "SCAN"])
def test_warps_inside_subgraphs_are_found_and_rewritten(body, to):
    text = globals()[body]
    model = parsed("first = Constant <value = int64[1] {0}> ()" + text)
    assert len(find_warps(model)) == (2 if body == "BRANCH" else 1)
    rewritten = rewrite_warps(model, to)
    left = {n.op_type for g in graphs_of(rewritten.graph) for n in g.node} & {"GridSample", "MixedGridSample"}
    assert left == {"portable": {"MixedGridSample"}, "gridsample": {"GridSample"}, "gather": set()}[to]
    assert_same(model, rewritten, exact=to != "gather")


@pytest.mark.parametrize("to", ["portable", "gridsample", "gather"])
@pytest.mark.parametrize(("kind", "grid_kind"), [("float16", "float16"), ("float16", "float")])
def test_half_features_and_grids_are_read_in_float32_and_come_back_half(kind, grid_kind, to):
    model = parsed("warped = GridSample (features, grid)", kind=kind, grid_kind=grid_kind)
    rewritten = rewrite_warps(model, to)
    types = np.float16, np.float16 if grid_kind == "float16" else np.float32
    assert_same(model, rewritten, kinds=types, exact=to != "gather")
    casts = [node.op_type for node in rewritten.graph.node].count("Cast")
    if to == "gridsample":  # one type: as it was, or wide
        assert casts == (0 if kind == grid_kind else 2)
    if to == "portable":
        assert casts == (1 if grid_kind == "float16" else 0)
        assert rewritten.graph.node[-1].input[0] == "features"


def test_float64_positions_are_refused():
    model = parsed("warped = GridSample (features, grid)", grid_kind="double")
    for to in ("portable", "plugin", "gather"):
        with pytest.raises(ExportError, match="grid of type DOUBLE; positions must be float32"):
            rewrite_warps(model, to)


def test_the_type_behind_a_node_without_body_is_known():
    body = "moved = GridSample (flow, grid) turned = Transpose <perm = [0, 2, 3, 1]> (moved)"
    model = parsed(
        f"small = Cast <to = 10> (features) two = Constant <value_ints = [0, 1]> () "
        f"flow = Gather <axis = 1> (small, two) {body} warped = GridSample (features, turned)"
    )
    plugin = rewrite_warps(model, "plugin")
    assert rewrite_warps(plugin, "portable").graph == rewrite_warps(model, "portable").graph
    assert [node.op_type for node in plugin.graph.node][-2:] == ["Cast", "MixedGridSample"]


@pytest.mark.parametrize("to", ["portable", "gridsample"])
def test_onnx_runtimes_own_operator_is_read(to):
    model = parsed(
        'warped = com.microsoft.GridSample <mode = "bicubic"> (features, grid)',
        imports=', "com.microsoft" : 1',
    )
    assert_same(model, rewrite_warps(model, to))


def test_attributes_left_out_are_the_operators_defaults():
    (warp,) = find_warps(parsed("warped = GridSample (features, grid)"))
    assert (warp.mode, warp.padding_mode, warp.align_corners) == ("bilinear", "zeros", 0)


@pytest.mark.parametrize(("ir", "portable", "gridsample"), [(7, 8, 7), (10, 10, 10)])
def test_the_ir_version_rises_only_where_functions_need_it(ir, portable, gridsample):
    model = parsed("warped = GridSample (features, grid)", ir=ir)
    assert rewrite_warps(model, "portable").ir_version == portable
    assert rewrite_warps(model, "gridsample").ir_version == gridsample


def test_other_functions_of_our_domain_and_its_version_stay():
    other = '<domain: "posewarp", opset_import: ["" : 18]> Other (x) => (y) { y = Relu (x) }'
    model = parsed(
        "flat = posewarp.Other (features) warped = GridSample (flat, grid)", other, imports=', "posewarp" : 2'
    )
    for to in ("portable", "gridsample", "gather"):
        rewritten = rewrite_warps(model, to)
        assert {entry.domain: entry.version for entry in rewritten.opset_import} == {"": 18, "posewarp": 2}
        assert_same(model, rewritten, exact=to != "gather")


@pytest.mark.parametrize("field", ["domain", "attribute"])
def test_a_node_of_another_version_of_ours_is_refused(field):
    model = rewrite_warps(parsed("warped = GridSample (features, grid)"), "portable")
    if field == "domain":
        next(entry for entry in model.opset_import if entry.domain == "posewarp").version = 2
    else:
        next(a for a in model.graph.node[0].attribute if a.name == "plugin_version").s = b"2"
    with pytest.raises(ExportError, match="'warped' is a posewarp::MixedGridSample of version 2"):
        rewrite_warps(model, "gridsample")


@pytest.mark.parametrize("attribute", ['mode = "area"', 'padding_mode = "wrap"'])
def test_words_that_onnx_does_not_know_are_refused(attribute):
    model = parsed(f"warped = GridSample <{attribute}> (features, grid)")
    with pytest.raises(ExportError, match=r"'warped' .* is unknown to ONNX; modes are bilinear"):
        rewrite_warps(model, "portable")


@pytest.mark.parametrize(("opset", "word"), [(18, "linear"), (20, "bilinear")])
def test_words_of_the_other_opset_are_put_right(opset, word):
    """The checker takes either word, ONNX Runtime does not."""
    model = parsed(f'warped = GridSample <mode = "{word}"> (features, grid)', opset=opset)
    right = parsed("warped = GridSample (features, grid)", opset=opset)
    for to in ("portable", "gridsample", "gather"):
        assert_same(right, rewrite_warps(model, to), exact=to != "gather")


def test_an_opset_before_the_operator_is_refused():
    model = parsed(
        "warped = com.microsoft.GridSample (features, grid)", opset=13, imports=', "com.microsoft" : 1'
    )
    with pytest.raises(ExportError, match="needs opset 16, got 13"):
        rewrite_warps(model, "portable")


def test_a_model_without_standard_operators_is_refused():
    model = parsed("warped = GridSample (features, grid)")
    del model.opset_import[:]
    with pytest.raises(ExportError, match="imports no opset"):
        rewrite_warps(model, "portable")


@settings(max_examples=40, deadline=None)
@given(
    opset=st.sampled_from([16, 17, 19, 20, 22]),
    warps=st.lists(
        st.tuples(st.sampled_from(MODES), st.sampled_from(PADDING_MODES), st.booleans()),
        min_size=1,
        max_size=3,
    ),
)
def test_any_mix_of_warps_is_the_same_after_rewriting(opset, warps):
    lines = [
        f'y{i + 1} = GridSample <mode = "{standard_mode(mode, opset)}", padding_mode = "{padding}", '
        f"align_corners = {int(aligned)}> (y{i}, grid)"
        for i, (mode, padding, aligned) in enumerate(warps)
    ]
    model = parsed(
        f"y0 = Identity (features) {' '.join(lines)} warped = Identity (y{len(warps)})", opset=opset
    )
    portable = rewrite_warps(model, "portable")
    assert_same(model, portable)
    assert_same(model, rewrite_warps(portable, "gridsample"))
    assert [dataclasses.replace(w, spelling="") for w in find_warps(portable)] == [
        dataclasses.replace(w, spelling="") for w in find_warps(model)
    ]


def test_an_unknown_spelling_is_refused():
    with pytest.raises(ExportError, match="no warp spelling 'native'; there are portable, plugin"):
        rewrite_warps(one_warp(), "native")
