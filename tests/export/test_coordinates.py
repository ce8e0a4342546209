"""From a warp's grid back to the layers that it comes from, for the ways in which networks write grids."""

import numpy as np
import pytest
from onnx import helper, numpy_helper, parser

from posewarp.export.graphs.coordinates import Walker, coordinate_slices, input_nodes
from posewarp.export.graphs.graph import Index, inline_functions
from posewarp.export.graphs.warps import rewrite_warps

RNG = np.random.default_rng(0)
BASE = np.stack(np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-1, 1, 8)), -1).astype(np.float32)[None]


def graph(body, inputs="float[n,16,8,6] f", constants=(), opset=18):
    """A graph whose warp samples ``f`` at ``grid``; ``w`` is a convolution's weight for 2 channels."""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g ({inputs}) => (float[n,16,8,6] out)
        {{ {body}
           out = GridSample <align_corners = 1> (f, grid) }}""")
    known = {"w": (2, 16, 3, 3), "base": BASE, "scale": np.float32([0.4, 0.3]), **dict(constants)}
    used = {name for node in Index(model).nodes.values() for name in node.input}
    for name, value in known.items():
        if name in used:
            array = RNG.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else value
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def only(model):
    (found,) = coordinate_slices(model)
    nodes = Index(inline_functions(model)).nodes
    return found, sorted(nodes[name].op_type for name in found.nodes)


FLOW = "flow = Conv <pads = [1,1,1,1]> (f, w) last = Transpose <perm = [0,2,3,1]> (flow)"


def test_a_flow_on_a_base_grid_is_an_offset_and_all_between_is_the_slice():
    found, operators = only(graph(f"{FLOW} scaled = Mul(last, scale) grid = Add(scaled, base)"))
    assert operators == ["Add", "Mul", "Transpose"]
    assert set(found.sources) == {"flow", "scale", "base"}
    assert (found.heads, found.positions) == (("flow",), ())


@pytest.mark.parametrize("squash", ["Tanh", "Identity"])
def test_an_absolute_grid_is_a_position(squash):
    found, operators = only(graph(f"{FLOW} grid = {squash}(last)"))
    assert operators == sorted(["Transpose", squash])
    assert found.positions == found.heads == ("flow",)


def test_one_way_without_a_base_grid_is_enough_for_a_position():
    based = "scaled = Mul(last, scale) based = Add(scaled, base)"
    assert only(graph(f"{FLOW} {based} grid = Identity(based)"))[0].positions == ()
    found, _ = only(graph(f"{FLOW} {based} grid = Concat <axis = 1> (based, last)"))
    assert found.positions == ("flow",)


THETA = """pooled = GlobalAveragePool(f) flat = Flatten(pooled) theta6 = Gemm(flat, fc, fc_bias)
    shape = Constant <value_ints = [0, 2, 3]> () theta = Reshape(theta6, shape)
    grid_shape = Constant <value_ints = [0, 8, 6, 2]> ()"""
FC = {"fc": (16, 6), "fc_bias": (6,), "points": (48, 3), "points_t": (3, 48)}


@pytest.mark.parametrize(
    "product",
    [
        "turned = Transpose <perm = [0,2,1]> (theta) flat_grid = MatMul(points, turned)",
        "flat_last = MatMul(theta, points_t) flat_grid = Transpose <perm = [0,2,1]> (flat_last)",
    ],
)
def test_an_affine_grids_matrix_is_a_position_and_its_product_arithmetic(product):
    found, operators = only(graph(f"{THETA} {product} grid = Reshape(flat_grid, grid_shape)", constants=FC))
    assert operators == ["MatMul", "Reshape", "Reshape", "Transpose"]
    assert found.positions == found.heads == ("theta6",)


def test_affine_grid_of_opset_20_is_arithmetic_too():
    size = {"size": np.array([1, 16, 8, 6], np.int64)}
    model = graph(
        f"{THETA} grid = AffineGrid <align_corners = 1> (theta, size)", constants={**FC, **size}, opset=20
    )
    found, operators = only(model)
    assert operators == ["AffineGrid", "Reshape"]
    assert found.positions == ("theta6",)


def test_a_thin_plates_matrices_are_arithmetic_and_its_regressor_is_not():
    """Control points from a layer, a constant inverse on the left, a constant kernel on either side."""
    body = """pooled = GlobalAveragePool(f) flat = Flatten(pooled) pts = Gemm(flat, fc)
        shape = Constant <value_ints = [0, 9, 2]> () control = Reshape(pts, shape)
        weights = MatMul(inverse, control) turned = Transpose <perm = [0,2,1]> (weights)
        last = MatMul(turned, kernel) flat_grid = Transpose <perm = [0,2,1]> (last)
        grid_shape = Constant <value_ints = [0, 8, 6, 2]> () grid = Reshape(flat_grid, grid_shape)"""
    constants = {"fc": (16, 18), "inverse": (12, 9), "kernel": (12, 48)}
    found, operators = only(graph(body, constants=constants))
    assert operators.count("MatMul") == 2
    assert found.positions == found.heads == ("pts",)


def test_a_layer_of_matmul_and_bias_ends_the_walk_after_the_bias():
    body = """pooled = GlobalAveragePool(f) flat = Flatten(pooled)
        product = MatMul(flat, fc) theta6 = Add(product, fc_bias)
        shape = Constant <value_ints = [0, 2, 3]> () theta = Reshape(theta6, shape)
        turned = Transpose <perm = [0,2,1]> (theta) flat_grid = MatMul(points, turned)
        grid_shape = Constant <value_ints = [0, 8, 6, 2]> () grid = Reshape(flat_grid, grid_shape)"""
    found, _ = only(graph(body, constants=FC))
    assert found.heads == ("theta6",)


def test_soft_argmax_is_a_position_and_its_mask_is_in_the_slice():
    body = """logits = Conv <pads = [1,1,1,1]> (f, w) flat_shape = Constant <value_ints = [0, 2, 48]> ()
        flat = Reshape(logits, flat_shape) mask = Softmax <axis = 2> (flat)
        weighted = Mul(mask, line) axes = Constant <value_ints = [2]> ()
        point = ReduceSum <keepdims = 0> (weighted, axes)
        shape = Constant <value_ints = [0, 1, 1, 2]> () placed = Reshape(point, shape) grid = Sub(base, placed)"""
    found, operators = only(graph(body, constants={"line": (1, 2, 48)}))
    assert {"Softmax", "ReduceSum", "Mul", "Sub"} <= set(operators)
    assert found.positions == found.heads == ("logits",)


def test_a_flow_is_followed_through_resize_and_through_a_warp_of_it():
    body = """flow = Conv <strides = [2,2], pads = [1,1,1,1]> (f, w) one = Conv <pads = [1,1,1,1]> (f, w)
        sizes = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> ()
        large = Resize <mode = "linear"> (flow, , sizes)
        first_last = Transpose <perm = [0,2,3,1]> (one) first = Add(first_last, base)
        warped = GridSample <align_corners = 1> (large, first)
        last = Transpose <perm = [0,2,3,1]> (warped) grid = Add(last, base)"""
    inner, outer = coordinate_slices(graph(body))
    assert inner.heads == ("one",)
    assert set(outer.heads) == {"flow", "one"}
    assert {"large", "warped", "first"} <= set(outer.nodes)
    assert outer.positions == ()


def test_sizes_of_features_and_conditions_do_not_lead_into_features():
    body = f"""{FLOW} shape = Shape(f) width = Gather(shape, three) wide = Cast <to = 1> (width)
        scaled = Div(last, wide) grid = Add(scaled, base)"""
    found, operators = only(graph(body, constants={"three": np.array(3, np.int64)}))
    assert operators == ["Add", "Cast", "Div", "Gather", "Transpose"]
    assert "f" not in found.sources


def test_a_grid_that_is_an_input_is_followed_to_it():
    found, operators = only(
        graph("grid = Add(points, step)", "float[n,16,8,6] f, float[n,8,6,2] points", {"step": ()})
    )
    assert (operators, found.heads, found.positions) == (["Add"], (), ())
    assert "points" in found.sources


@pytest.mark.parametrize("spelling", ["gridsample", "portable", "plugin"])
def test_every_spelling_is_found(spelling):
    model = rewrite_warps(graph(f"{FLOW} grid = Add(last, base)"), spelling)
    found, operators = only(model)
    assert operators == ["Add", "Transpose"]
    assert found.heads == ("flow",)


def test_grids_of_a_branch_and_of_a_loop_are_followed_across_its_border():
    body = f"""{FLOW} start = Add(last, base)
        refined = Loop (trips, go, start) <body = b (int64 i, bool c, float[n,8,6,2] v) => (bool d, float[n,8,6,2] next)
            {{ d = Identity(c)  next = Mul(v, scale) }}>
        grid = If (take) <then_branch = t () => (float[n,8,6,2] r) {{ r = Neg(refined) }},
                          else_branch = e () => (float[n,8,6,2] s) {{ s = Abs(refined) }}>"""
    model = graph(body, "float[n,16,8,6] f, int64 trips, bool go, bool take")
    found, operators = only(model)
    assert operators == ["Abs", "Add", "Mul", "Neg", "Transpose"]
    assert (found.heads, found.positions) == (("flow",), ())


def test_a_warp_in_a_function_is_found_under_its_inlined_names():
    model = graph("step = Identity(f) grid = other.shift(points)", "float[n,16,8,6] f, float[n,8,6,2] points")
    model.functions.append(
        parser.parse_function("""<domain: "other", opset_import: ["" : 18]> shift (a) => (b)
            { step = Constant <value_float = 0.25> () b = Add(a, step) }""")
    )
    model.opset_import.append(helper.make_opsetid("other", 1))
    _, operators = only(model)
    assert operators == ["Add"]


def test_a_convolution_over_a_flow_is_arithmetic():
    body = """flow = Conv <pads = [1,1,1,1]> (f, w) smooth = Conv <group = 2, pads = [1,1,1,1]> (flow, blur)
        last = Transpose <perm = [0,2,3,1]> (smooth) grid = Add(last, base)"""
    found, operators = only(graph(body, constants={"blur": (2, 1, 3, 3)}))
    assert operators == ["Add", "Conv", "Transpose"]
    assert found.heads == ("flow",)


@pytest.mark.parametrize(("made", "used"), [(2, 3), (3, 3), (2, 1)])
def test_a_small_layer_over_a_picture_is_a_head(made, used):
    """No filter of a flow, though it has as few channels."""
    body = """small = Conv <pads = [1,1,1,1]> (picture, small_w) flow = Slice(small, zero, two, one)
        last = Transpose <perm = [0,2,3,1]> (flow) grid = Add(last, base)"""
    sizes = {"zero": np.array([0]), "two": np.array([2]), "one": np.array([1])}
    constants = {"small_w": (made, used, 3, 3), **sizes}
    found, operators = only(graph(body, f"float[n,16,8,6] f, float[n,{used},8,6] picture", constants))
    assert operators == ["Add", "Slice", "Transpose"]
    assert found.heads == ("small",)


def test_heat_maps_are_kept_from_the_keypoints_through_exp_and_attention_is_not():
    body = """step = Sub(points, mean) square = Mul(step, step) less = Neg(square) heat = Exp(less)
        mixed = Conv <pads = [1,1,1,1]> (f, w) other = Exp(mixed) last = Transpose <perm = [0,2,3,1]> (other)
        grid = Add(last, heat)"""
    model = graph(body, "float[n,16,8,6] f, float[n,8,6,2] points", {"mean": (2,)})
    assert input_nodes(Walker(model)) == dict.fromkeys(("heat", "less", "square", "step"), "points")
