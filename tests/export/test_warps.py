"""Every spelling of a warp against torch's grid_sample, and what each one looks like."""

import itertools

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

from posewarp.export.warps import SPELLINGS, find_warps, rewrite_warps, standard_mode
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
    assert (body.s, body.ref_attr_name) == ((b"", "mode") if opset < 20 else (b"linear", ""))


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


def test_warps_of_two_modes_share_a_body_only_below_opset_20():
    for opset in (18, 20):
        model = one_warp(opset=opset)
        second = helper.make_node("GridSample", ["features", "grid"], ["other"], "other", mode="nearest")
        model.graph.node.append(second)
        if opset == 18:
            assert len(rewrite_warps(model, "portable").functions) == 1
        else:
            with pytest.raises(ExportError, match=r"different modes \(bilinear, nearest\).*--opset 18"):
                rewrite_warps(model, "portable")


@pytest.mark.parametrize("spelling", ["portable", "plugin", "gather"])
def test_half_positions_are_refused(spelling):
    model = one_warp()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(ExportError, match="grid of type FLOAT16; positions must be float32"):
        rewrite_warps(model, spelling)


def test_an_unknown_spelling_is_refused():
    with pytest.raises(ExportError, match="no warp spelling 'native'; there are portable, plugin"):
        rewrite_warps(one_warp(), "native")
