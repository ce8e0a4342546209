"""The typed graph pass: whatever it is told to keep, its file is valid, loads, and computes as numpy's float16 does."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnxruntime import InferenceSession, SessionOptions

from posewarp.export.graphs.graph import Index, inline_functions, tensor_types
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.precision.emulation import emulate
from posewarp.export.precision.half import PRECISION_KEY, convert
from posewarp.runtime.errors import ExportError

RNG = np.random.default_rng(0)
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def graph(text, opset=18, domains=(), **constants):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n g {text}')
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in domains)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def run(model, **feeds):
    session = open_session(model)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def open_session(model):
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def converted(model, kept=(), dtype="fp16", *, runs=True):
    """Converted, and what holds of every conversion checked."""
    mixed = convert(model, dict.fromkeys(kept, "a reason"), dtype)
    onnx.checker.check_model(mixed, full_check=True)
    onnx.shape_inference.infer_shapes(mixed, check_type=True, strict_mode=True)
    for was, now in ((model.graph.input, mixed.graph.input), (model.graph.output, mixed.graph.output)):
        assert [(v.name, v.type) for v in was] == [(v.name, v.type) for v in now]
    names = [node.name for node in Index(mixed).nodes.values() if node.name]
    assert len(names) == len(set(names))
    if runs:
        open_session(mixed)
    return mixed


def kinds(mixed):
    return {name: tensor.elem_type for name, tensor in tensor_types(inline_functions(mixed)).items()}


def values(shape, scale=1.0):
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


def half(array):
    return np.asarray(array, np.float32).astype(np.float16).astype(np.float32)


def test_every_operation_is_rounded_as_numpys_float16_is():
    model = graph(
        "(float[4,8] x) => (float[4,8] y) { a = Mul(x, w) b = Add(a, v) y = Tanh(b) }",
        w=values(8),
        v=values(8),
    )
    x = values((4, 8))
    w, v = (half(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer)
    expected = half(np.tanh(half(half(half(x) * w) + v)))
    found = run(emulate(converted(model)), x=x)["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-12)  # of tanh's last bit, at a tie
    assert np.mean(found == expected) > 0.9
    assert (found != run(model, x=x)["y"]).any()


def test_kept_nodes_compute_in_fp32_with_casts_around_them():
    model = graph("(float[4,8] x) => (float[4,8] y) { a = Exp(x) b = Mul(a, a) c = Neg(b) y = Exp(c) }")
    mixed = converted(model, ["b"])
    types = kinds(mixed)
    assert (types["a"], types["b"]) == (HALF, FLOAT)
    x = values((4, 8))
    expected = half(np.exp(-half(half(np.exp(half(x))) ** 2)))
    np.testing.assert_allclose(run(emulate(mixed), x=x)["y"], expected, rtol=0, atol=2**-11)


def test_with_every_node_kept_nothing_is_changed():
    """Public converters still take each edge through float16."""
    model = graph(
        "(float[4,8] x) => (float[4,8] y) { a = Mul(x, w) b = Add(a, x) y = Div(b, w) }", w=values(8)
    )
    mixed = converted(model, ["a", "b", "y"])
    assert mixed.graph == model.graph
    x = values((4, 8))
    np.testing.assert_array_equal(run(mixed, x=x)["y"], run(model, x=x)["y"])


def test_a_cast_from_integers_gives_what_its_takers_want():
    model = graph("(int64[4] i, float[4] x) => (float[4] y) { f = Cast <to = 1> (i) y = Add(f, x) }")
    mixed = converted(model)
    assert [n.op_type for n in mixed.graph.node] == ["Cast", "Cast", "Add", "Cast"]
    assert kinds(mixed)["f"] == HALF
    feeds = {"i": np.arange(4), "x": np.float32([0, 1, 2, 0.5])}
    np.testing.assert_array_equal(run(mixed, **feeds)["y"], run(model, **feeds)["y"])
    kept = converted(model, ["y"])
    assert kept.graph == model.graph


@pytest.mark.parametrize("opset", [10, 11, 13, 18, 20])
@pytest.mark.parametrize("shared", [False, True])
def test_scales_and_region_of_a_resize_stay_fp32(opset, shared):
    region = "" if opset == 10 else "roi, "
    after = "y = Mul(r, factor)" if shared else "y = Neg(r)"
    model = graph(
        f'(float[1,4,6,6] x) => (float[1,4,12,12] y) {{ r = Resize <mode = "linear"> (x, {region}scales) {after} }}',
        opset,
        scales=np.float32([1, 1, 2, 2]),
    )
    if opset > 10:
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), "roi"))
    if shared:
        factor = helper.make_node("Reshape", ["scales", "four"], ["factor"])
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 4, 1, 1]), "four"))
        model.graph.node.insert(0, factor)
    mixed = converted(model)
    types = kinds(mixed)
    (resize,) = (n for n in mixed.graph.node if n.op_type == "Resize")
    assert types[resize.input[0]] == HALF
    assert {types[name] for name in resize.input[1:] if name} == {FLOAT}
    x = values((1, 4, 6, 6))
    np.testing.assert_allclose(run(emulate(mixed), x=x)["y"], run(model, x=x)["y"], rtol=2e-3, atol=1e-3)


def test_a_constant_is_written_in_each_type_that_it_is_taken_in():
    model = graph(
        "(float[4] x) => (float[4] y, float[4] z) { y = Add(x, w) s = CumSum(w, axis) z = Mul(s, x) }",
        w=values(4),
        axis=np.array(0),
    )
    mixed = converted(model, ["s"])
    (total,) = (n for n in mixed.graph.node if n.op_type == "CumSum")
    (added,) = (n for n in mixed.graph.node if n.op_type == "Add")
    assert (kinds(mixed)[total.input[0]], kinds(mixed)[added.input[1]]) == (FLOAT, HALF)
    assert sum(n.op_type == "Cast" for n in mixed.graph.node) == 4  # of x, of s, and of both results
    x = values(4)
    for name, value in run(model, x=x).items():
        np.testing.assert_allclose(run(emulate(mixed), x=x)[name], value, atol=5e-3)


def test_weights_taken_in_one_type_keep_their_name():
    model = graph(
        "(float[1,2,4,4] x) => (float[1,3,2,2] y) { y = Conv(x, w, b) }", w=values((3, 2, 3, 3)), b=values(3)
    )
    mixed = converted(model)
    assert {t.name: t.data_type for t in mixed.graph.initializer} == {"w": HALF, "b": HALF}


@pytest.mark.parametrize(
    "attribute", ["value = float[2] {1.5, 2.5}", "value_floats = [1.5, 2.5]", "value_float = 1.5"]
)
def test_constant_nodes_are_typed_like_weights(attribute):
    text = f"(float[2] x) => (float[2] y) {{ c = Constant <{attribute}> () d = Mul(x, c) y = Add(d, c) }}"
    mixed = converted(graph(text), ["y"])
    types = kinds(mixed)
    assert types["c"] == FLOAT
    x = np.float32([1, -3])
    np.testing.assert_array_equal(run(emulate(mixed), x=x)["y"], run(graph(text), x=x)["y"])


def test_unnamed_nodes_get_casts_of_different_names():
    model = graph(
        """(float[1,1,2,2] x) => (float[1,1,8,8] y, float[1,1,8,1] top, int64[1,1,8,1] at)
        { a = Resize (x, , scales) y = Resize (a, , scales) top, at = TopK(y, k) }""",
        scales=np.float32([1, 1, 2, 2]),
        k=np.array([1]),
    )
    mixed = converted(model, ["top"])
    names = [n.name for n in mixed.graph.node if n.op_type == "Cast"]
    assert len(names) >= 2
    assert all(names)


def test_converting_twice_is_refused():
    model = graph("(float[4] x) => (float[4] y) { y = Exp(x) }")
    mixed = converted(model)
    with pytest.raises(ExportError, match="already in fp16 or bf16; convert the fp32 file"):
        convert(mixed, {})
    del mixed.metadata_props[:]
    with pytest.raises(ExportError, match="already in fp16 or bf16"):
        convert(mixed, {})


def test_an_output_that_is_a_constant_keeps_its_type_and_value():
    model = graph("(float[4] x) => (float[4] y, float[4] w) { y = Mul(x, w) }", w=values(4))
    mixed = converted(model)
    x = values(4)
    np.testing.assert_array_equal(run(mixed, x=x)["w"], numpy_helper.to_array(model.graph.initializer[0]))


def test_an_input_that_is_an_output_and_feeds_a_node():
    model = graph("(float[4] x) => (float[4] y) { y = Exp(x) }")
    model.graph.output.append(model.graph.input[0])
    x = values(4)
    np.testing.assert_array_equal(run(converted(model), x=x)["x"], x)


def test_an_output_that_others_take_is_fp32_outside_and_low_inside():
    model = graph("(float[4] x) => (float[4] y, float[4] z) { y = Exp(x) z = Mul(y, y) }")
    mixed = converted(model)
    (product,) = (n for n in mixed.graph.node if n.op_type == "Mul")
    assert kinds(mixed)[product.input[0]] == HALF
    assert kinds(mixed)["y"] == FLOAT


def test_recorded_shapes_are_dropped_and_other_sizes_run():
    model = graph(
        '(float[1,2,h,w] x) => (float[1,2,h2,w2] y) { a = Resize <mode = "nearest"> (x, , scales) y = Exp(a) }',
        scales=np.float32([1, 1, 2, 2]),
    )
    model.graph.value_info.append(helper.make_tensor_value_info("a", FLOAT, [1, 2, 8, 8]))
    mixed = converted(model)
    assert not mixed.graph.value_info
    for size in (4, 7):
        x = values((1, 2, size, size))
        np.testing.assert_allclose(run(mixed, x=x)["y"], run(model, x=x)["y"], rtol=2e-3)


def test_a_cast_that_is_an_output_and_feeds_a_node_stays_connected():
    model = graph(
        "(int64[4] i, float[4] x, float[0,4] none) => (float[4] f, float[4] y, float[0,4] empty) "
        "{ f = Cast <to = 1> (i) y = Add(f, x) empty = Exp(none) }"
    )
    feeds = {"i": np.arange(4), "x": np.float32([0, 1, 2, 0.5]), "none": np.zeros((0, 4), np.float32)}
    found = run(converted(model), **feeds)
    for name, value in run(model, **feeds).items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == np.float32


def test_operators_of_other_domains_stay_fp32_with_casts_around_them():
    model = graph(
        "(float[1,2,4,4] x) => (float[1,2,4,4] y) { a = Exp(x) b = plugin.Warp(a, x) y = Exp(b) }",
        domains=["plugin"],
    )
    mixed = converted(model, runs=False)
    nodes = {n.op_type: n for n in mixed.graph.node}
    casts = {n.output[0]: n.attribute[0].i for n in mixed.graph.node if n.op_type == "Cast"}
    assert casts[nodes["Warp"].input[0]] == FLOAT
    assert nodes["Warp"].input[1] == "x"
    taken = [n.input[0] for n in mixed.graph.node if n.op_type == "Cast" and n.attribute[0].i == HALF]
    assert nodes["Warp"].output[0] in taken


def test_all_parameters_of_an_operator_have_its_type():
    model = graph(
        "(float[1,2,4,4] x) => (float[1,2,4,4] y) { y = PRelu(x, slope) }",
        slope=np.float32([[[0.25]], [[0.5]]]),
    )
    assert {t.data_type for t in converted(model).graph.initializer} == {HALF}
    power = converted(graph("(float[4] x) => (float[4] y) { y = Pow(x, two) }", two=np.float32(2)))
    assert {t.data_type for t in power.graph.initializer} == {HALF}


@pytest.mark.parametrize(
    "text", ["f = Range(start, start2, one) y = Mul(x, f)", "f = RandomNormal <shape = [4]> () y = Add(x, f)"]
)
def test_what_onnx_has_no_half_form_for_stays_fp32(text):
    model = graph(f"(float[4] x, float start, float start2) => (float[4] y) {{ {text} }}", one=np.float32(1))
    mixed = converted(model)
    assert kinds(mixed)["f"] == FLOAT


def test_filled_tensors_have_the_type_of_their_takers():
    model = graph(
        "(int64[1] n, float[4] x) => (float[4] y) { z = ConstantOfShape(n) "
        "o = ConstantOfShape <value = float[1] {0.5}> (n) a = Add(x, z) y = Add(a, o) }"
    )
    types = kinds(mixed := converted(model))
    assert (types["z"], types["o"]) == (HALF, HALF)
    x = np.float32([1, 2, 3, 4])
    np.testing.assert_array_equal(run(mixed, n=np.array([4]), x=x)["y"], x + 0.5)


def test_what_only_moves_values_moves_them_as_they_come():
    model = graph(
        "(float[1,4] x) => (float[4,1] y, float[4,1] z) { t = Transpose(x) e = Exp(t) y = Identity(e) z = Identity(t) }"
    )
    types = kinds(converted(model))
    assert (types["t"], types["e"]) == (FLOAT, HALF)
    assert types["z"] == FLOAT
    x = values((1, 4))
    np.testing.assert_array_equal(run(emulate(converted(model)), x=x)["z"], x.T)


BRANCH = """(bool take, float[4] x) => (float[4] y) {{ a = Exp(x)
    b = If (take) <then_branch = t () => (float[4] r) {{ r = Mul(a, w) }},
                   else_branch = e () => (float[4] s) {{ {other} }}>
    y = Neg(b) }}"""


@pytest.mark.parametrize(
    ("other", "kept", "expected"),
    [
        ("s = Sub(a, w)", [], HALF),
        ("s = Sub(a, w)", ["s"], FLOAT),
        ("s = Sub(a, w)", ["r"], FLOAT),
        ("s = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> ()", [], HALF),
        ("s = Identity(x)", [], FLOAT),
    ],
)
def test_both_branches_give_one_type(other, kept, expected):
    model = graph(BRANCH.format(other=other), w=values(4))
    mixed = converted(model, kept)
    branches = next(n for n in mixed.graph.node if n.op_type == "If").attribute
    assert {a.g.output[0].type.tensor_type.elem_type for a in branches} == {expected}
    for take in (True, False):
        feeds = {"take": np.array(take), "x": values(4)}
        np.testing.assert_allclose(run(mixed, **feeds)["y"], run(model, **feeds)["y"], rtol=4e-3, atol=4e-3)


LOOP = """(int64 n, bool go, float[4] x) => (float[4] y, float[k,4] all) {{ {start}
    last, all = Loop (n, go, a) <body = b (int64 i, bool c, float[4] v) => (bool d, float[4] u, float[4] s)
        {{ d = Identity(c)  u = Mul(v, w)  s = Neg(u) }}>
    y = Tanh(last) }}"""


@pytest.mark.parametrize(
    ("start", "kept", "carried"),
    [
        ("a = Exp(x)", [], HALF),
        ("a = Exp(x)", ["u"], FLOAT),
        ("a = Exp(x)", ["a"], FLOAT),
        ("a = Identity(x)", [], FLOAT),
    ],
)
def test_a_loops_carried_value_has_one_type(start, kept, carried):
    model = graph(LOOP.format(start=start), w=values(4))
    mixed = converted(model, kept)
    body = next(n for n in mixed.graph.node if n.op_type == "Loop").attribute[0].g
    assert body.input[2].type.tensor_type.elem_type == carried
    assert body.output[1].type.tensor_type.elem_type == carried
    feeds = {"n": np.array(3), "go": np.array(True), "x": values(4)}
    for name, value in run(model, **feeds).items():
        np.testing.assert_allclose(run(mixed, **feeds)[name], value, rtol=1e-2, atol=4e-3)


def test_a_scans_state_and_rows_are_typed():
    text = """(float[4] x, float[3,4] rows) => (float[4] last, float[3,4] all) { r = Exp(rows)
        last, all = Scan <num_scan_inputs = 1, body = b (float[4] v, float[4] row) => (float[4] u, float[4] s)
            { u = Add(v, row)  s = Tanh(row) }> (x, r) }"""
    mixed = converted(graph(text))
    body = next(n for n in mixed.graph.node if n.op_type == "Scan").attribute
    body = next(a.g for a in body if a.name == "body")
    assert [v.type.tensor_type.elem_type for v in body.input] == [FLOAT, HALF]
    feeds = {"x": values(4), "rows": values((3, 4))}
    for name, value in run(graph(text), **feeds).items():
        np.testing.assert_allclose(run(mixed, **feeds)[name], value, rtol=4e-3, atol=4e-3)


def test_sequences_are_refused():
    text = "(float[4] x) => (float[4] y) { s = SequenceConstruct(x, x) y = SequenceAt(s, i) }"
    with pytest.raises(
        ExportError, match=r"SequenceConstruct \(s\) makes or takes a sequence.*unroll the loop"
    ):
        convert(graph(text, i=np.array(0)), {})


def test_a_node_that_is_not_there_cannot_be_kept():
    with pytest.raises(ExportError, match="there is no node gone to keep in fp32"):
        convert(graph("(float[4] x) => (float[4] y) { y = Exp(x) }"), {"gone": ""})


def test_metadata_is_kept_and_tells_what_was_done():
    model = graph("(float[4] x) => (float[4] y) { a = Exp(x) y = Neg(a) }")
    helper.set_model_props(model, {"author": "someone"})
    properties = {e.key: e.value for e in convert(model, {"a": "because"}).metadata_props}
    assert properties["author"] == "someone"
    assert json.loads(properties[PRECISION_KEY]) == {"dtype": "fp16", "kept": {"a": "because"}}


def test_the_model_itself_is_left_alone():
    model = graph(BRANCH.format(other="s = Sub(a, w)"), w=values(4))
    before = model.SerializeToString(deterministic=True)
    convert(model, {"r": ""})
    assert model.SerializeToString(deterministic=True) == before


WARP = """(float[1,4,8,6] x, float[1,8,6,2] g) => (float[1,4,8,6] y) { f = Exp(x) p = Add(g, step)
    s = GridSample <align_corners = 1> (f, p) y = Neg(s) }"""


@pytest.mark.parametrize("spelling", ["portable", "plugin"])
def test_our_node_takes_low_features_and_fp32_positions(spelling):
    model = rewrite_warps(graph(WARP, step=np.float32(0.25)), spelling)
    mixed = converted(model, runs=spelling == "portable")
    (node,) = (n for n in mixed.graph.node if n.op_type == "MixedGridSample")
    types = kinds(mixed)
    assert [types[name] for name in (*node.input, *node.output)] == [HALF, FLOAT, HALF]


def test_the_standard_operator_has_one_type():
    model = graph(WARP, step=np.float32(0.25))
    for kept, expected in ((["p", "s"], FLOAT), ((), HALF)):
        mixed = converted(model, kept)
        (node,) = (n for n in mixed.graph.node if n.op_type == "GridSample")
        assert {kinds(mixed)[name] for name in (*node.input, *node.output)} == {expected}


@pytest.mark.parametrize("spelling", ["portable", "gridsample"])
def test_bf16_raises_the_opset_that_convolutions_need_it_at(spelling):
    text = """(float[1,4,8,6] x, float[1,8,6,2] g) => (float[1,4,8,6] y) { f = Conv <pads = [1,1,1,1]> (x, w)
        s = GridSample <align_corners = 1, mode = "bilinear"> (f, g) y = Neg(s) }"""
    model = rewrite_warps(graph(text, w=values((4, 4, 3, 3))), spelling)
    mixed = converted(model, ["s"], "bf16", runs=False)
    assert mixed.opset_import[0].version == 22
    feeds = {"x": values((1, 4, 8, 6)), "g": RNG.uniform(-1, 1, (1, 8, 6, 2)).astype(np.float32)}
    expected = run(model, **feeds)["y"]
    found = run(emulate(mixed), **feeds)["y"]
    np.testing.assert_allclose(found, expected, atol=0.15)
    assert np.abs(found - expected).max() > 1e-3


def test_bf16_of_a_file_too_old_to_be_raised_is_refused():
    with pytest.raises(
        ExportError, match=r"bf16 needs opset 22.*opset 17 cannot be raised.*--opset 22, or take fp16"
    ):
        convert(graph("(float[4] x) => (float[4] y) { y = Exp(x) }", 17), {}, "bf16")
