"""Reading, writing and flattening of ONNX files that others wrote."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnxruntime import InferenceSession

from posewarp.export.graphs import graph as graph_module
from posewarp.export.graphs.graph import Index, inline_functions, load_model, save_model, tensor_types
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.runtime.errors import ExportError


def parse(text, opset=18, functions=()):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    model.functions.extend(parser.parse_function(f) for f in functions)
    return model


def weighted():
    model = parse("g (float[2,3] x) => (float[2,3] y) { y = Add(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.arange(900, dtype=np.float32)[:3], "w"))
    return model


def run(model, feeds):
    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def test_a_written_model_is_read_back(tmp_path):
    save_model(weighted(), tmp_path / "m.onnx")
    assert load_model(tmp_path / "m.onnx") == weighted()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_what_is_too_large_for_one_file_has_its_weights_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_module, "MAX_BYTES", graph_module._BESIDE_WEIGHTS + 1000)
    model = parse("g (float[2,300] x) => (float[2,300] y) { y = Add(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.arange(300, dtype=np.float32), "w"))
    save_model(model, tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < 500
    read = load_model(tmp_path / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[0]), np.arange(300))
    x = np.ones((2, 300), np.float32)
    np.testing.assert_array_equal(
        InferenceSession(tmp_path / "m.onnx").run(None, {"x": x})[0], x + np.arange(300)
    )
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ExportError, match="lacks its external data"):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("content", [b"", b"<html>no model</html>", b"\x08\x08", "cut"])
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "bad.onnx"
    whole = weighted().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    with pytest.raises(ExportError, match=rf"^{re.escape(str(path))} is not an ONNX file, or is truncated"):
        load_model(path)


@pytest.mark.parametrize("suffix", [".json", ".textproto", ".onnxtxt"])
def test_no_suffix_makes_a_file_text(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    save_model(weighted(), path)
    assert load_model(path) == weighted()
    path.write_text('{"graph": []}')
    with pytest.raises(ExportError, match="is not an ONNX file, or is truncated"):
        load_model(path)


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(ExportError, match=r"no\.onnx does not exist"):
        load_model(tmp_path / "no.onnx")
    with pytest.raises(ExportError, match=r"the folder .*gone does not exist"):
        save_model(weighted(), tmp_path / "gone" / "m.onnx")


def test_local_functions_are_inlined_and_ours_is_kept():
    text = """g (float[1,2,5,4] f, float[1,3,3,2] p) => (float[1,2,3,3] y)
        { moved = other.shift(p)  y = GridSample<align_corners = 1>(f, moved) }"""
    shift = """<domain: "other", opset_import: ["" : 18]> shift (a) => (b)
        { step = Constant<value_float = 0.25>()  b = Add(a, step) }"""
    model = parse(text)
    model.functions.append(parser.parse_function(shift))
    model.opset_import.append(helper.make_opsetid("other", 1))
    flat = inline_functions(rewrite_warps(model, "portable"))
    assert [f.name for f in flat.functions] == ["MixedGridSample"]
    assert [n.op_type for n in flat.graph.node] == ["Constant", "Add", "MixedGridSample"]
    rng = np.random.default_rng(0)
    feeds = {"f": rng.random((1, 2, 5, 4), np.float32), "p": rng.random((1, 3, 3, 2), np.float32)}
    np.testing.assert_array_equal(run(flat, feeds)[0], run(model, feeds)[0])


BRANCHES = """g (bool take, float[2] x) => (float[2] y)
    { y = If (take) <then_branch = t () => (float[2] r) { h = Add(x, x)  r = Neg(h) },
                     else_branch = e () => (float[2] r) { h = Mul(x, x)  r = Exp(h) }> }"""


def test_names_that_two_branches_share_are_made_unique():
    model = parse(BRANCHES)
    flat = inline_functions(model)
    names = [name for node in Index(flat).nodes.values() for name in node.output]
    assert len(names) == len(set(names)) == 5
    onnx.checker.check_model(flat, full_check=True)
    for take in (True, False):
        feeds = {"take": np.array(take), "x": np.array([1, 2], np.float32)}
        np.testing.assert_array_equal(run(flat, feeds)[0], run(model, feeds)[0])


def test_weights_listed_as_inputs_become_constants():
    model = weighted()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    assert [value.name for value in inline_functions(model).graph.input] == ["x"]


@pytest.mark.parametrize("spelling", ["portable", "plugin"])
def test_our_node_gives_the_type_of_its_features(spelling):
    text = """g (float16[1,2,h,w] f, float[1,3,3,2] p) => (float16[1,2,3,3] y)
        { s = posewarp.MixedGridSample<mode = "bilinear">(f, p)  y = Relu(s) }"""
    model = parse(text)
    model.opset_import.append(helper.make_opsetid("posewarp", 1))
    types = tensor_types(inline_functions(rewrite_warps(model, spelling)))
    assert types["s"].elem_type == TensorProto.FLOAT16
    assert [d.dim_value for d in types["s"].shape.dim] == [1, 2, 3, 3]


def test_types_are_known_inside_branches_and_of_large_constants():
    model = inline_functions(parse(BRANCHES))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((600, 2), np.float32), "big"))
    types = tensor_types(model)
    assert {types[name].elem_type for name in ("h", "h_1", "y", "big")} == {TensorProto.FLOAT}
    assert [d.dim_value for d in types["big"].shape.dim] == [600, 2]


def test_values_are_followed_into_through_and_out_of_a_loop():
    model = parse("""g (int64 n, bool go, float[2] x) => (float[2] last, float[k,2] all)
        { last, all = Loop (n, go, x) <body = b (int64 i, bool c, float[2] v) => (bool d, float[2] w, float[2] s)
            { d = Identity(c)  w = Add(v, v)  s = Neg(v) }> }""")
    feeds = {name: set(sources) for name, sources in Index(model).feeds.items()}
    assert feeds == {"v": {"x", "w"}, "last": {"x", "w"}, "all": {"s"}}


def test_values_are_followed_into_through_and_out_of_a_scan():
    model = parse("""g (float[2] x, float[4,2] rows) => (float[2] last, float[4,2] all)
        { last, all = Scan <num_scan_inputs = 1, body = b (float[2] v, float[2] row) => (float[2] w, float[2] s)
            { w = Add(v, row)  s = Neg(v) }> (x, rows) }""")
    feeds = {name: set(sources) for name, sources in Index(model).feeds.items()}
    assert feeds == {"v": {"x", "w"}, "last": {"x", "w"}, "row": {"rows"}, "all": {"s"}}
