import numpy as np
import pytest
from networks.one_warp import one_warp
from onnx import ModelProto, helper

from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.ladder.drift import coordinate_drift
from posewarp.export.ladder.sample_data import load_inputs, read_contract


def drift_of(reference, converted, batch=1):
    feeds = load_inputs("random", read_contract(reference), batch=batch)
    (drift,) = coordinate_drift(reference, converted, feeds)
    return drift


# The largest shift of a grid that is rounded to FP16 once, inside the frame: half a step of 2^-11, (H - 1) / 2 times.
@pytest.mark.parametrize(
    ("height", "width", "worst_px"), [(64, 44, 0.008), (256, 176, 0.031), (512, 352, 0.062)]
)
def test_a_grid_rounded_to_half_shows_in_pixels(height, width, worst_px):
    reference = one_warp(height, width, flow_is_input=True)
    feeds = load_inputs("random", read_contract(reference))[0]
    y, x = np.meshgrid(np.linspace(8, -8, height), np.linspace(8, -8, width), indexing="ij")
    feeds["flow"] = (feeds["flow"] + np.stack([x, y])).astype(np.float32)  # towards the middle
    faulty = one_warp(height, width, flow_is_input=True, half=True, fault="rounded grid")
    (drift,) = coordinate_drift(reference, faulty, feeds)
    assert 0.9 * worst_px <= drift.same_flow_max_px <= 1.03 * worst_px
    assert drift.own_flow_max_px == drift.same_flow_max_px
    assert drift.same_flow_p999_px > 0.7 * worst_px


def test_only_the_flow_is_rounded_where_coordinates_are_fp32():
    drift = drift_of(one_warp(256, 176), one_warp(256, 176, half=True))
    assert drift.same_flow_max_px == 0
    # A flow of 4 to 8 px has steps of 2^-8 px; image, filter and result of the head are rounded.
    assert 1e-4 < drift.own_flow_p999_px < 0.012
    assert drift.own_flow_p999_px <= drift.own_flow_max_px


def test_an_input_that_is_rounded_is_not_forgiven():
    """Inputs are no layer's result: both graphs get them as they are."""
    reference = one_warp(256, 176, flow_is_input=True)
    rounding = one_warp(256, 176, flow_is_input=True)
    rounding.graph.node[3].output[0] = "flow_half"
    rounding.graph.node[3].attribute[0].i = 10
    rounding.graph.node.insert(4, helper.make_node("Cast", ["flow_half"], ["flow_fp32"], to=1))
    feeds = load_inputs("random", read_contract(reference))[0]
    feeds["flow"] *= 100
    (drift,) = coordinate_drift(reference, rounding, feeds)
    assert 0.01 < drift.same_flow_max_px <= 0.0313  # half a step of 64 to 128
    (drift,) = coordinate_drift(reference, one_warp(256, 176, flow_is_input=True, half=True), feeds)
    assert drift.own_flow_max_px == 0


def test_equal_flows_are_of_values_that_half_has():
    """Moving a flow about in FP16 costs nothing more, once it is FP16."""
    moving = one_warp(256, 176, half=True)
    transpose = next(node for node in moving.graph.node if node.op_type == "Transpose")
    transpose.output[0] = "offset_fp32"
    place = list(moving.graph.node).index(transpose)
    moving.graph.node.insert(place + 1, helper.make_node("Cast", ["offset_fp32"], ["offset_half"], to=10))
    moving.graph.node.insert(place + 2, helper.make_node("Cast", ["offset_half"], ["offset"], to=1))
    assert drift_of(one_warp(256, 176), moving).same_flow_max_px == 0


def test_swapped_axes_are_hundreds_of_pixels():
    assert drift_of(one_warp(256, 176), one_warp(256, 176, fault="swapped axes")).same_flow_max_px > 50


@pytest.mark.parametrize("spelling", ["portable", "plugin", "gather"])
def test_spellings_have_the_same_positions(spelling):
    drift = drift_of(one_warp(64, 44), rewrite_warps(one_warp(64, 44), spelling))
    assert (drift.same_flow_max_px, drift.own_flow_max_px) == (0, 0)
    assert drift.note == ("the other graph has no such warp node, so its tensor 'grid' is compared"
                          if spelling == "gather" else "")  # fmt: skip


def test_every_element_of_a_batch_counts():
    drift = drift_of(one_warp(64, 44), one_warp(64, 44, fault="batch"), batch=1)
    assert drift.same_flow_max_px == 0
    drift = drift_of(one_warp(64, 44), one_warp(64, 44, fault="batch"), batch=2)
    assert drift.same_flow_max_px > 2


def renamed(model: ModelProto, old: str, new: str) -> ModelProto:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    return model


def test_warps_are_found_by_their_order_where_names_differ():
    other = renamed(one_warp(64, 44, half=True), "sampled", "something")
    assert drift_of(one_warp(64, 44), other).same_flow_max_px == 0


def test_a_flow_of_another_name_is_said():
    drift = drift_of(one_warp(64, 44), renamed(one_warp(64, 44), "head", "neck"))
    assert drift.note == "same flow not measured: the two grids do not both come from 'head'"
    assert drift.same_flow_max_px is None
    assert drift.own_flow_max_px == 0


def test_a_head_kept_in_fp32_beside_casts_is_the_same_head():
    other = one_warp(64, 44, half=True)
    conv = next(node for node in other.graph.node if node.output[0] == "head")
    conv.output[0] = "head_raw"
    place = list(other.graph.node).index(conv)
    other.graph.node.insert(place + 1, helper.make_node("Cast", ["head_raw"], ["head"], to=1))
    for node in other.graph.node:
        if node.output[0] == "flow_fp32":
            node.input[0] = "head_raw"
    assert drift_of(one_warp(64, 44), other).same_flow_max_px == 0


def test_a_grid_inside_a_body_is_said():
    def wrapped():
        model = one_warp(16, 12)
        inner = helper.make_graph(
            model.graph.node, "body", [], [helper.make_empty_tensor_value_info("warped")]
        )
        outer = ModelProto()
        outer.CopyFrom(model)
        del outer.graph.node[:]
        outer.graph.node.extend(
            [
                helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", 9, [], [True])),
                helper.make_node("If", ["yes"], ["result"], then_branch=inner, else_branch=inner),
            ]
        )
        outer.graph.output[0].name = "result"
        return outer

    model = wrapped()
    feeds = load_inputs("random", read_contract(model))
    drifts = coordinate_drift(model, model, feeds)
    assert {drift.note for drift in drifts} == {
        "its grid or features are made inside the body of an If, Loop or Scan"
    }


def test_numbers_against_nan_are_infinitely_far():
    model = one_warp(16, 12, flow_is_input=True)
    feeds = load_inputs("random", read_contract(model))[0]
    feeds["flow"][0, 0, 3, 3] = np.nan
    (drift,) = coordinate_drift(model, model, feeds)
    assert drift.own_flow_max_px == 0
    other = one_warp(16, 12, flow_is_input=True)
    other.graph.node.insert(4, helper.make_node("Max", ["flow_fp32", "zero"], ["flow_positive"]))
    other.graph.node[5].input[0] = "flow_positive"
    other.graph.initializer.append(helper.make_tensor("zero", 1, [], [0.0]))
    feeds["flow"][:] = 0
    (same,) = coordinate_drift(model, other, feeds)
    assert same.own_flow_max_px == 0
    feeds["flow"][0, 0, 3, 3] = -np.inf
    (drift,) = coordinate_drift(model, other, feeds)
    assert drift.own_flow_max_px == np.inf


def test_a_model_without_warps_has_no_drift():
    graph = helper.make_graph(
        [helper.make_node("Exp", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert coordinate_drift(model, model, {"x": np.zeros(1, np.float32)}) == []
