"""Measured ranges against numpy, inside branches and loops too."""

import numpy as np
from onnx import parser

from posewarp.export.graphs.graph import inline_functions
from posewarp.export.precision.ranges import Range, measure_ranges


def ranges(text, *runs, opset=18):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    return measure_ranges(inline_functions(model), runs)


def test_ranges_are_of_absolute_values_over_all_runs():
    found = ranges(
        "g (float[n] x) => (float[n] y) { h = Add(x, x) y = Exp(h) }",
        {"x": np.float32([-2, 1])},
        {"x": np.float32([0.5, 0.25, 0.75])},
    )
    assert found["x"] == Range(2, 0.25, 3)
    assert found["h"] == Range(4, 0.5, 3)
    assert found["y"].maximum == np.float32(np.exp(2))


def test_both_branches_are_measured_and_one_never_taken_is_empty():
    text = """g (bool take, float[2] x) => (float[2] y)
        { y = If (take) <then_branch = t () => (float[2] r) { h = Add(x, x)  r = Neg(h) },
                         else_branch = e () => (float[2] s) { s = Mul(x, x) }> }"""
    x = np.float32([3, -5])
    one, other = {"take": np.array(True), "x": x}, {"take": np.array(False), "x": x}
    both = ranges(text, one, other)
    assert both["h"] == Range(10, 6, 2)
    assert both["s"] == Range(25, 9, 2)
    assert ranges(text, one)["s"] == Range(0, np.inf, 0)


def test_a_loops_iterations_are_joined_and_none_is_possible():
    text = """g (int64 n, bool go, float[2] x) => (float[2] last, float[k,2] all)
        { last, all = Loop (n, go, x) <body = b (int64 i, bool c, float[2] v) => (bool d, float[2] w, float[2] s)
            { d = Identity(c)  w = Add(v, v)  s = Neg(v) }> }"""
    feeds = {"n": np.array(3), "go": np.array(True), "x": np.float32([1, 2])}
    found = ranges(text, feeds)
    assert found["w"] == Range(16, 2, 6)
    assert found["last"] == Range(16, 8, 2)
    assert ranges(text, {**feeds, "n": np.array(1)})["w"] == Range(4, 2, 2)


def test_a_scan_in_a_branch_is_measured():
    text = """g (bool take, float[2] x, float[4,2] rows) => (float[2] y)
        { y = If (take) <then_branch = t () => (float[2] last)
            { last, all = Scan <num_scan_inputs = 1, scan_output_axes = [0],
                body = b (float[2] v, float[2] row) => (float[2] w, float[2] s) { w = Add(v, row)  s = Neg(v) }>
              (x, rows) }, else_branch = e () => (float[2] s2) { s2 = Identity(x) }> }"""
    feeds = {"take": np.array(True), "x": np.float32([1, 2]), "rows": np.ones((4, 2), np.float32)}
    assert ranges(text, feeds)["w"] == Range(6, 2, 8)
