"""Which convolutions are spelled for Winograd's filtering, and that the file computes the same without our library."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from networks.one_conv import PADS, conv_model
from onnx import TensorProto, helper

from posewarp.export.graphs.convolutions import CONV, CONV_RELU, use_winograd
from posewarp.runtime.session import Session


@pytest.mark.parametrize(
    "settings",
    [
        PADS,
        {"auto_pad": "SAME_UPPER"},
        {**PADS, "bias": False},
        {**PADS, "strides": [1, 1], "group": 1},
        {**PADS, "relu": True},
    ],
    ids=["pads", "auto_pad", "no-bias", "spelled-out", "relu"],
)
def test_a_plain_3x3_convolution_is_found_and_means_the_same_without_the_library(settings, tmp_path):
    model = conv_model(**settings)
    rewritten, found = use_winograd(model)
    assert found == 1
    assert [node.op_type for node in rewritten.graph.node] == [CONV_RELU if "relu" in settings else CONV]
    onnx.checker.check_model(rewritten, full_check=True)
    x = np.random.default_rng(1).normal(size=(2, 16, 9, 7)).astype(np.float32)
    results = []
    for each in (model, rewritten):
        onnx.save(each, tmp_path / "model.onnx")
        with Session.open(tmp_path / "model.onnx", plugins=()) as session:
            results.append(session.run({"x": x})["y"])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**PADS, "strides": [2, 2]},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
        {**PADS, "channels": (32, 32), "group": 2},
        {**PADS, "channels": (8, 16)},
        {**PADS, "channels": (16, 3)},
        {"pads": [3, 3, 3, 3], "kernel": 7},
        {"kernel": 1},
        {"auto_pad": "VALID"},
        {**PADS, "auto_pad": "VALID"},  # the pads are not looked at
        {**PADS, "weight_is_input": True},
    ],
    ids=str,
)
def test_any_other_convolution_stays_as_it_is(settings):
    model = conv_model(**settings)
    rewritten, found = use_winograd(model)
    assert found == 0
    assert rewritten == model


def test_a_result_that_others_take_too_keeps_its_relu_apart():
    model = conv_model(relu=True, **PADS)
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "convolved"
    rewritten, _ = use_winograd(model)
    assert [node.op_type for node in rewritten.graph.node] == [CONV, "Relu"]


def test_a_result_that_another_node_takes_too_keeps_its_relu_apart():
    model = conv_model(relu=True, **PADS)
    model.graph.node.append(helper.make_node("Neg", ["convolved"], ["z"]))
    rewritten, _ = use_winograd(model)
    assert [node.op_type for node in rewritten.graph.node] == [CONV, "Relu", "Neg"]


def test_inside_a_branch_an_output_keeps_its_maker():
    model = conv_model(relu=True, **PADS)
    branch = helper.make_graph(
        list(model.graph.node),
        "branch",
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("convolved", "y")],
        list(model.graph.initializer),
    )
    choose = helper.make_node("If", ["which"], ["a", "b"], then_branch=branch, else_branch=branch)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(choose)
    rewritten, found = use_winograd(model)
    assert found == 2
    for attribute in rewritten.graph.node[0].attribute:
        made = {name for node in attribute.g.node for name in node.output}
        assert {value.name for value in attribute.g.output} <= made


def test_a_bias_left_out_by_an_empty_name_is_none():
    model = conv_model(bias=False, pads=[1, 1, 1, 1])
    model.graph.node[0].input.append("")
    spelled, found = use_winograd(model)
    assert found == 1
    onnx.checker.check_model(spelled)
    assert "" not in spelled.graph.node[0].input
