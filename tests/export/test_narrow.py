"""Which convolutions of few outputs are written as ones of many, and that the file computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks.one_conv import conv_model
from onnx import TensorProto, helper, numpy_helper

from posewarp.export.graphs.narrow import stride_of, widen_narrow
from posewarp.runtime.session import Session

NARROW = {"channels": (8, 3), "kernel": 7, "pads": [3, 3, 3, 3], "size": (12, 8)}


def run(model, x, folder):
    onnx.save(model, folder / "model.onnx")
    with Session.open(folder / "model.onnx", plugins=()) as session:
        return session.run({"x": x})["y"]


def stride(model):
    """Of the only Conv."""
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    return {a.name: helper.get_attribute_value(a) for a in conv.attribute}["strides"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 4),
        ({"kernel": 5, "pads": [2, 2, 2, 2]}, 4),
        ({"kernel": 9, "pads": [4, 4, 4, 4]}, 4),
        ({"kernel": 3, "pads": [1, 1, 1, 1]}, 2),
        ({"kernel": (5, 9), "pads": [2, 4, 2, 4]}, 4),
        ({"kernel": (9, 5), "pads": [4, 2, 4, 2]}, 4),
        ({"bias": False}, 4),
        ({"relu": True}, 4),
        ({"size": (12, 10)}, 2),
        ({"size": (14, 8)}, 2),
        ({"pads": [0, 5, 6, 1]}, 4),
        ({"pads": [1, 4, 3, 6], "size": (12, 10)}, 2),
        ({"pads": [0, 0, 0, 0], "size": (18, 14)}, 4),
        ({"pads": [8, 7, 6, 7], "size": (12, 8)}, 4),
        ({"pads": None, "auto_pad": "VALID", "size": (18, 14)}, 4),
        ({"pads": None, "auto_pad": "SAME_UPPER", "kernel": (6, 8)}, 4),
        ({"pads": None, "auto_pad": "SAME_LOWER", "kernel": (6, 8)}, 4),
        ({"pads": None, "auto_pad": "NOTSET", "size": (18, 14)}, 4),
        ({"strides": [1, 1], "dilations": [1, 1], "group": 1, "kernel_shape": [7, 7]}, 4),
        ({"channels": (3, 1)}, 4),
        ({"channels": (16, 4)}, 4),
        ({"channels": (5, 5)}, 2),
        ({"channels": (16, 8)}, 2),
    ],
    ids=str,
)
def test_a_narrow_convolution_is_written_as_a_wide_one_with_the_same_bits(changes, expected, tmp_path):
    chosen = {name: value for name, value in {**NARROW, **changes}.items() if value is not None}
    model = conv_model(**chosen)
    widened, found = widen_narrow(model)
    assert found == 1
    assert [node.op_type for node in widened.graph.node][:2] == ["Conv", "DepthToSpace"]
    assert stride(widened) == [expected, expected]
    assert len(widened.graph.initializer) == len(model.graph.initializer)  # the narrow ones are gone
    onnx.checker.check_model(widened, full_check=True)
    x = np.random.default_rng(1).normal(size=(2, chosen["channels"][0], *chosen["size"])).astype(np.float32)
    np.testing.assert_array_equal(run(widened, x, tmp_path), run(model, x, tmp_path))


def test_a_size_that_is_declared_of_the_result_alone_is_not_believed():
    model = conv_model(**{**NARROW, "size": ("H", "W")})
    shape = model.graph.output[0].type.tensor_type.shape
    shape.dim[2].dim_value, shape.dim[3].dim_value = 12, 8
    assert widen_narrow(model)[1] == 0


def test_weights_of_constant_nodes_and_a_bias_left_out_by_an_empty_name_are_taken(tmp_path):
    model = conv_model(**NARROW, bias=False)
    (weight,) = model.graph.initializer
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    model.graph.node.insert(0, constant)
    del model.graph.initializer[:]
    model.graph.node[1].input.append("")
    widened, found = widen_narrow(model)
    assert found == 1
    x = np.random.default_rng(1).normal(size=(2, 8, 12, 8)).astype(np.float32)
    # Not by the same bits: a name that is empty keeps ONNX Runtime from its convolution of packed channels.
    np.testing.assert_allclose(run(widened, x, tmp_path), run(model, x, tmp_path), rtol=0, atol=1e-4)


@st.composite
def convolutions(draw):
    height, width = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))  # of the result, halved
    kernel = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    pads = [draw(st.integers(0, side)) for side in (*kernel, *kernel)]
    size = [2 * height + kernel[0] - 1 - pads[0] - pads[2], 2 * width + kernel[1] - 1 - pads[1] - pads[3]]
    channels = draw(st.tuples(st.integers(1, 40), st.integers(1, 9)))
    return {"channels": channels, "kernel": kernel, "pads": pads, "size": size, "bias": draw(st.booleans())}


@given(convolutions().filter(lambda chosen: min(chosen["size"]) > 0), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_whatever_is_rewritten_computes_the_same(tmp_path_factory, chosen, batch):
    model = conv_model(**chosen)
    widened, found = widen_narrow(model)
    assert found == (
        chosen["channels"][1] <= 8 and stride_of(chosen["channels"][1], chosen["kernel"], 2, 2) == 2
    )
    folder, inputs = tmp_path_factory.mktemp("narrow"), chosen["channels"][0]
    x = np.random.default_rng(inputs).normal(size=(batch, inputs, *chosen["size"])).astype(np.float32)
    got, expected = run(widened, x, folder), run(model, x, folder)
    # From 16 inputs on, if they are no multiple of 4, ONNX Runtime multiplies matrices, in pieces of another length.
    exact = inputs < 16 or inputs % 4 == 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=0 if exact else 2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (13, 8)},
        {"size": (12, 7)},
        {"size": ("H", 8)},
        {"size": (12, "W")},
        {"pads": [3, 3, 3, 2]},
        {"channels": (8, 9)},
        {"channels": (8, 5), "kernel": 3, "pads": [1, 1, 1, 1]},
        {"kernel": 1, "pads": [0, 0, 0, 0]},
        {"kernel": (1, 7), "pads": [0, 3, 0, 3]},
        {"strides": [2, 2]},
        {"strides": [1, 2]},
        {"dilations": [2, 2], "pads": [6, 6, 6, 6]},
        {"channels": (8, 4), "group": 2},
        {"weight_is_input": True},
    ],
    ids=str,
)
def test_any_other_convolution_stays_as_it_is(changes):
    model = conv_model(**{**NARROW, **changes})
    widened, found = widen_narrow(model)
    assert found == 0
    assert widened == model


def test_a_bias_that_is_computed_and_weights_of_another_type_stay():
    computed = conv_model(**NARROW)
    (bias,) = (tensor for tensor in computed.graph.initializer if tensor.name == "b")
    bias.name = "b_held"
    computed.graph.node.insert(0, helper.make_node("Neg", ["b_held"], ["b"]))
    double = conv_model(**NARROW)
    for tensor in double.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        )
    for value in (*double.graph.input, *double.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for model in (computed, double):
        assert widen_narrow(model) == (model, 0)


@pytest.mark.parametrize("axes", [1, 3])
def test_convolutions_over_one_or_three_axes_stay(axes):
    weight = numpy_helper.from_array(np.ones((3, 4, *[5] * axes), np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[2] * 2 * axes)],
        "conv",
        [value("x", TensorProto.FLOAT, ["N", 4, *[8] * axes])],
        [value("y", TensorProto.FLOAT, ["N", 3, *[8] * axes])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    assert widen_narrow(model) == (model, 0)


@pytest.mark.parametrize(
    ("outputs", "kernel", "size", "expected"),
    [
        (4, (5, 5), (8, 8), 4),
        (4, (5, 5), (6, 8), 2),
        (4, (5, 5), (8, 7), 1),
        (5, (5, 5), (8, 8), 2),
        (8, (7, 7), (8, 8), 2),
        (9, (7, 7), (8, 8), 1),
        (4, (3, 3), (8, 8), 2),
        (5, (3, 3), (8, 8), 1),
        (3, (2, 4), (8, 8), 1),
        (3, (1, 25), (8, 8), 4),
    ],
)
def test_the_stride_is_the_one_measured_to_be_fastest_that_divides_the_size(outputs, kernel, size, expected):
    assert stride_of(outputs, kernel, *size) == expected


def test_weights_that_others_take_too_stay_in_the_file_and_names_stay_unique(tmp_path):
    model = conv_model(**NARROW)
    model.graph.node.extend(
        [
            helper.make_node(
                "Conv", ["x", "w", "b"], ["w_wide"], pads=[3, 3, 3, 3]
            ),  # the same weights once more
            helper.make_node("Conv", ["x", "w"], ["apart"], strides=[2, 2], pads=[2, 2, 2, 2]),
            helper.make_node("ReduceSum", ["apart"], ["sum"], keepdims=0),
        ]
    )
    model.graph.node[0].output[0] = "first"
    model.graph.node.append(helper.make_node("Sum", ["first", "w_wide", "sum"], ["y"]))
    widened, found = widen_narrow(model)
    assert found == 2
    names = {tensor.name for tensor in widened.graph.initializer}
    assert "w" in names
    assert "b" not in names
    onnx.checker.check_model(widened, full_check=True)
    x = np.random.default_rng(1).normal(size=(1, 8, 12, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(widened, x, tmp_path), run(model, x, tmp_path))


def test_inside_a_branch_too():
    model = conv_model(**NARROW)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph(list(model.graph.node), "branch", [], [output], list(model.graph.initializer))
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(helper.make_node("If", ["which"], ["z"], then_branch=branch, else_branch=branch))
    model.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    model.graph.output[0].name = "z"
    widened, found = widen_narrow(model)
    assert found == 2
    for attribute in widened.graph.node[0].attribute:
        assert [node.op_type for node in attribute.g.node] == ["Conv", "DepthToSpace"]
        assert len(attribute.g.initializer) == 2


def test_the_model_given_is_left_alone():
    model = conv_model(**NARROW)
    before = model.SerializeToString()
    widen_narrow(model)
    assert model.SerializeToString() == before
