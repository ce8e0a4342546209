"""The emulation against float16 arithmetic in numpy: accumulate in float32, round once to half."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.precision.emulation import emulate, half_type
from posewarp.runtime.errors import ExportError

LEVELS = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
F16 = TensorProto.FLOAT16


def run(model, level=LEVELS[1], **feeds):
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def model_of(body, inputs="float[N, C] x", output="float[P, Q] y", weights=None, extra=""):
    """A graph in ONNX's text form; x is FP32 outside."""
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({inputs}) => ({output}) {{ {body} }} {extra}'
    model = parser.parse_model(text)
    for name, value in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def half(x):
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(np.float16)


def wide(x):
    return half(x).astype(np.float32)


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def assert_rounded_alike(got, exact, equal=0.99, slack=0.0):
    """``got`` is ``exact`` rounded to half; where float32's own last bits decide, one step off (and ``slack``)."""
    expected = half(exact)
    got = np.asarray(got)
    np.testing.assert_array_equal(got.astype(np.float32), wide(got))  # all values are FP16's
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    assert same.mean() >= equal
    step = np.spacing(np.abs(expected[~same])).astype(np.float32)
    assert (np.abs(got[~same].astype(np.float32) - expected[~same].astype(np.float32)) <= step + slack).all()


# The casts themselves


SPECIAL = [
    *(65504, 65519.99, 65520, -65520, 70000, 3.4e38, np.inf, -np.inf, np.nan, 0.0, -0.0),
    *(6e-8, 2.98e-8, 2.99e-8, 5.96e-8, 6.1e-5, 1e-45),  # subnormals, and what vanishes
    *(1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20),  # ties go to even
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("kind", "dtype"), [("FLOAT16", np.float16), ("BFLOAT16", ml_dtypes.bfloat16)])
def test_rounding_is_real_and_exact_with_optimisation_on_and_off(level, kind, dtype):
    number = getattr(TensorProto, kind)
    model = model_of(f"h = Cast<to={number}>(x) s = Add(h, h) y = Cast<to=1>(s)")
    rng = np.random.default_rng(0)
    x = np.concatenate([SPECIAL, rng.normal(size=5000), 10.0 ** rng.uniform(-9, 5, 5000)])
    x = x.astype(np.float32)[None]
    with np.errstate(over="ignore", invalid="ignore"):
        once = x.astype(dtype).astype(np.float32)
        expected = (once + once).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(run(emulate(model), level, x=x), expected)


def test_the_runtime_itself_does_not_round():
    """Why the emulation is there: the FP16 file itself, in ONNX Runtime on a CPU."""
    model = model_of("h = Cast<to=10>(x) s = Mul(h, h) r = Sqrt(s) y = Cast<to=1>(r)")
    x = np.full((1, 4), 300.0, np.float32)
    assert np.isfinite(run(model, x=x)).all()
    assert np.isinf(run(emulate(model), x=x)).all()


# Operators


UNARY = {
    "Exp": np.exp,
    "Sqrt": lambda x: np.sqrt(np.abs(x)),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Softmax": lambda x: (
        np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
    "ReduceMean": lambda x: x.mean(-1, keepdims=True),
    "ReduceSumSquare": lambda x: np.square(x).sum(-1, keepdims=True),
}


@pytest.mark.parametrize("op", UNARY)
def test_one_operator_rounds_once(op):
    x = normal(64, 96)
    x = np.abs(x) if op == "Sqrt" else x
    call = f"{op}(h, axes)" if op.startswith("Reduce") else f"{op}(h)"
    weights = {"axes": np.array([1])} if op.startswith("Reduce") else {}
    model = model_of(f"h = Cast<to=10>(x) r = {call} y = Cast<to=1>(r)", weights=weights)
    assert_rounded_alike(run(emulate(model), x=x), UNARY[op](wide(x).astype(np.float64)))


@pytest.mark.parametrize(("op", "function"), [("Add", np.add), ("Mul", np.multiply), ("Div", np.divide)])
def test_elementwise_chains_round_at_each_step(op, function):
    x, w = normal(64, 96), half(1 + np.abs(normal(64, 96, seed=1)))
    model = model_of(f"h = Cast<to=10>(x) a = {op}(h, w) b = {op}(a, w) y = Cast<to=1>(b)", weights={"w": w})
    expected = half(function(half(function(half(x), w)), w))
    np.testing.assert_array_equal(run(emulate(model), x=x), expected)


def test_a_product_with_bias_and_activation_rounds_once():
    x, w, b = normal(64, 96), half(normal(96, 80, seed=1)), half(normal(80, seed=2))
    model = model_of(
        "h = Cast<to=10>(x) m = MatMul(h, w) a = Add(m, b) r = Relu(a) y = Cast<to=1>(r)",
        weights={"w": w, "b": b},
    )
    exact = np.maximum(wide(x).astype(np.float64) @ w.astype(np.float64) + b, 0)
    got = run(emulate(model), x=x)
    assert_rounded_alike(got, exact)
    # Rounding the product and the sum too would be another number in a good part of the places.
    thrice = np.maximum(half(wide(half(wide(x).astype(np.float64) @ w.astype(np.float64))) + wide(b)), 0)
    assert (got == thrice).mean() < 0.9


def test_nothing_is_fused_behind_an_activation():
    x, w, b = normal(64, 96), half(normal(96, 80, seed=1)), half(normal(80, seed=2))
    model = model_of(
        "h = Cast<to=10>(x) m = MatMul(h, w) r = Relu(m) a = Add(r, b) y = Cast<to=1>(a)",
        weights={"w": w, "b": b},
    )
    relu = half(np.maximum(wide(x).astype(np.float64) @ w.astype(np.float64), 0))
    assert_rounded_alike(run(emulate(model), x=x), wide(relu) + wide(b), equal=0.98)


def test_a_product_that_something_else_takes_is_rounded():
    x, w, b = normal(64, 96), half(normal(96, 80, seed=1)), half(normal(80, seed=2))
    model = model_of(
        "h = Cast<to=10>(x) m = MatMul(h, w) a = Add(m, b) r = Sub(a, m) y = Cast<to=1>(r)",
        weights={"w": w, "b": b},
    )
    m = half(wide(x).astype(np.float64) @ w.astype(np.float64))
    assert_rounded_alike(run(emulate(model), x=x), wide(half(wide(m) + wide(b))) - wide(m), equal=0.98)


def test_conv_accumulates_in_float32_and_rounds_once():
    x, w = normal(1, 8, 12, 10), half(normal(6, 8, 3, 3, seed=1))
    model = model_of(
        "h = Cast<to=10>(x) c = Conv(h, w) y = Cast<to=1>(c)",
        "float[N, C, H, W] x",
        "float[N, D, P, Q] y",
        {"w": w},
    )
    windows = np.lib.stride_tricks.sliding_window_view(wide(x).astype(np.float64), (3, 3), (2, 3))
    assert_rounded_alike(
        run(emulate(model), x=x), np.einsum("nchwij,dcij->ndhw", windows, w.astype(np.float64))
    )


def test_resize_rounds_its_result():
    x = normal(1, 3, 6, 5)
    model = model_of(
        "h = Cast<to=10>(x) r = Resize<mode='linear', coordinate_transformation_mode='align_corners'>(h, , , s) "
        "y = Cast<to=1>(r)".replace("'", '"'),
        "float[N, C, H, W] x",
        "float[N, C, P, Q] y",
        {"s": np.array([1, 3, 6, 9])},
    )
    at = np.linspace(0, 4, 9)
    low = np.minimum(at.astype(int), 3)
    values = wide(x).astype(np.float64)
    assert_rounded_alike(
        run(emulate(model), x=x), values[..., low] * (1 - at + low) + values[..., low + 1] * (at - low)
    )


def test_bodies_of_if_and_loop_round():
    body = """
        h = Cast<to=10>(x)
        l = Loop (trips, yes, h) <body = step (int64 i, bool c, float16[N, C] v) => (bool again, float16[N, C] w) {
            again = Identity (c)
            w = Mul (v, factor)
        }>
        r = If (yes) <
            then_branch = grow () => (float16[N, C] t) { t = Add (l, factor) },
            else_branch = keep () => (float16[N, C] e) { e = Identity (l) }
        >
        y = Cast<to=1>(r)
    """
    factor = np.float16(1.1)
    model = model_of(body, weights={"trips": np.array(5), "yes": np.array(True), "factor": np.array(factor)})
    x = normal(64, 96)
    expected = half(x)
    for _ in range(5):
        expected = expected * factor
    np.testing.assert_array_equal(run(emulate(model), x=x), expected + factor)


@pytest.mark.parametrize("spelling", ["portable", "plugin", "gridsample"])
def test_a_warp_rounds_features_and_result_and_keeps_its_grid(spelling):
    """Features FP16, grid FP32: positions are not rounded. The plain operator's grid is FP16, and is."""
    kinds = "FLOAT16", "FLOAT16" if spelling == "gridsample" else "FLOAT"
    types = [getattr(TensorProto, kind) for kind in kinds]
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=types[0]),
        helper.make_node("Cast", ["g"], ["p"], to=types[1]),
        helper.make_node("GridSample", ["f", "p"], ["s"], align_corners=1),
        helper.make_node("Cast", ["s"], ["y"], to=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [1, 2, 8, 176]), ("g", [1, 8, 176, 2]))],
        [helper.make_tensor_value_info("y", 1, [1, 2, 8, 176])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model = rewrite_warps(model, spelling)
    rng = np.random.default_rng(0)
    u = np.broadcast_to(rng.uniform(0, 174.9, (8, 1)) * np.linspace(0, 1, 176), (8, 176))
    grid = np.stack([2 * u / 175 - 1, np.broadcast_to(np.linspace(-1, 1, 8)[:, None], (8, 176))], -1)[None]
    grid = grid.astype(np.float32)
    x = normal(1, 2, 8, 176)
    position = grid if kinds[1] == "FLOAT" else wide(grid)
    at_x = (position[0, ..., 0].astype(np.float64) + 1) * 87.5
    at_y = (position[0, ..., 1].astype(np.float64) + 1) * 3.5
    exact = sample(wide(x)[0].astype(np.float64), at_x, at_y)
    assert_rounded_alike(run(emulate(model), x=x, g=grid)[0], exact, equal=0.97, slack=1e-4)


def sample(image, x, y):
    left, top = np.minimum(np.floor(x).astype(int), 174), np.minimum(np.floor(y).astype(int), 6)
    s, t = x - left, y - top
    upper = image[:, top, left] * (1 - s) + image[:, top, left + 1] * s
    lower = image[:, top + 1, left] * (1 - s) + image[:, top + 1, left + 1] * s
    return upper * (1 - t) + lower * t


# The graph around


def test_inputs_and_outputs_keep_their_types_and_all_tensors_their_names():
    model = model_of("a = Mul(x, w) y = Add(a, w)", "float16[N, C] x", "float16[N, C] y, float16[N, C] a")
    model.graph.initializer.append(numpy_helper.from_array(half(normal(96)), "w"))
    emulated = emulate(model)
    assert [v.type.tensor_type.elem_type for v in (*emulated.graph.input, *emulated.graph.output)] == [
        F16
    ] * 3
    assert {name for node in model.graph.node for name in node.output} <= {
        name for node in emulated.graph.node for name in node.output
    }
    x, w = half(normal(4, 96, seed=1)), numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(run(emulated, x=x), x * w + w)
    assert half_type(model) == "fp16"


def test_an_input_that_is_an_output_and_a_weight_that_is_one_pass_through():
    model = model_of("y = Add(x, w)", "float16[N, C] x", "float16[N, C] y, float16[4] w, float16[N, C] x")
    del model.graph.output[2]
    model.graph.initializer.append(numpy_helper.from_array(half(np.arange(4)), "w"))
    np.testing.assert_array_equal(run(emulate(model), x=half(np.ones((2, 4)))), half([[1, 2, 3, 4]] * 2))


def test_constants_and_generated_values_are_widened():
    model = model_of("s = Shape(x) h = CastLike(x, c) a = Add(h, z) b = Mul(a, c) y = Cast<to=1>(b)")
    value = numpy_helper.from_array(half([2]))
    model.graph.node.insert(
        0, helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(half(1.5)))
    )
    model.graph.node.insert(2, helper.make_node("ConstantOfShape", ["s"], ["z"], value=value))
    np.testing.assert_array_equal(run(emulate(model), x=np.ones((2, 3), np.float32)), np.full((2, 3), 4.5))


def test_an_fp32_model_stays_as_it_is():
    model = model_of("y = Exp(x)")
    assert half_type(model) == "fp32"
    assert [node.op_type for node in emulate(model).graph.node] == ["Exp"]


def test_an_operator_of_unknown_result_is_refused():
    model = model_of("h = Cast<to=10>(x) y = Cast<to=1>(h)")
    model.opset_import.append(helper.make_opsetid("somebody", 1))
    model.graph.node.insert(1, helper.make_node("Thing", ["h"], ["t"], domain="somebody"))
    with pytest.raises(ExportError, match="somebody::Thing that makes 't' cannot be emulated"):
        emulate(model)
