"""The convolution operator in ONNX Runtime: it is taken where it is spelled, and gives what PyTorch gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks.one_conv import PADS, conv_model
from onnx import helper, numpy_helper

from posewarp.export.graphs.convolutions import CONV, CONV_RELU, use_winograd
from posewarp.runtime import plugin_library
from posewarp.runtime.errors import BackendError
from posewarp.runtime.session import Session

# Of the sum of the absolute products; fp32 rounds to 6e-8, the transformations cancel some digits.
TOLERANCE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def library() -> Path:
    found = plugin_library.find("cpu")
    assert found is not None, "run `make plugins` first"
    return found


def write(model: onnx.ModelProto, path: Path) -> Path:
    rewritten, found = use_winograd(model)
    assert found == 1
    onnx.save(rewritten, path)
    return path


def error_of(model: onnx.ModelProto, x: np.ndarray, y: np.ndarray) -> float:
    """The largest, against PyTorch in fp64, as a share of the sum of the absolute products."""
    tensors = [torch.from_numpy(numpy_helper.to_array(t).copy()).double() for t in model.graph.initializer]
    weight, bias = tensors if len(tensors) == 2 else (tensors[0], torch.zeros(len(tensors[0])).double())
    features = torch.from_numpy(x).double()
    exact = torch.nn.functional.conv2d(features, weight, bias, padding=1)
    if any(node.op_type == "Relu" for node in model.graph.node):
        exact = exact.relu()
    size = torch.nn.functional.conv2d(features.abs(), weight.abs(), bias.abs(), padding=1)
    assert y.shape == tuple(exact.shape)
    return float(((torch.from_numpy(y).double() - exact).abs() / size).max())


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"relu": True}], ids=["bias", "no-bias", "relu"])
def test_the_operator_gives_what_pytorch_gives_at_any_size(settings, tmp_path):
    rng = np.random.default_rng(0)
    model = conv_model((19, 37), **settings, **PADS)
    with Session.open(write(model, tmp_path / "model.onnx")) as session:
        for shape in [(1, 1), (1, 9), (2, 3), (4, 4), (5, 8), (16, 11), (64, 44), (33, 130)]:
            for batch in (1, 3):
                x = rng.normal(size=(batch, 19, *shape)).astype(np.float32)
                assert error_of(model, x, session.run({"x": x})["y"]) < TOLERANCE, (batch, shape)


@pytest.mark.parametrize(("relu", "operator"), [(False, CONV), (True, CONV_RELU)])
def test_the_operator_is_taken_and_the_plain_file_is_not(relu, operator, tmp_path, monkeypatch):
    plain = onnxruntime.SessionOptions

    def profiled() -> onnxruntime.SessionOptions:
        options = plain()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "profile")
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", profiled)
    ran = {}
    model = conv_model(relu=relu, **PADS)
    onnx.save(model, tmp_path / "plain.onnx")
    write(model, tmp_path / "spelled.onnx")
    for name, plugins in (("plain", None), ("spelled", None), ("without", ())):
        path = tmp_path / ("plain.onnx" if name == "plain" else "spelled.onnx")
        session = Session.open(path, plugins=plugins)
        session.run({"x": np.zeros((1, 16, 8, 8), np.float32)})
        events = json.loads(Path(session.backend._session.end_profiling()).read_text())
        ran[name] = {e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")}
    assert operator in ran["spelled"]
    assert operator not in ran["plain"] | ran["without"]


@pytest.mark.parametrize("simd", ["avx2", "portable"])
def test_other_instruction_sets_give_the_same(simd, tmp_path):
    """One process for each: the instruction set is chosen once. They differ in the last bits, so it was another."""
    model = conv_model((16, 24), **PADS)
    path = write(model, tmp_path / "model.onnx")
    x = np.random.default_rng(2).normal(size=(1, 16, 21, 30)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    program = (
        "import sys, numpy\n"
        "from posewarp.runtime.session import Session\n"
        "path, x, y = sys.argv[1:]\n"
        "numpy.save(y, Session.open(path).run({'x': numpy.load(x)})['y'])\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / "x.npy", tmp_path / "y.npy"],
        check=True,
        env={**os.environ, "POSEWARP_CPU_SIMD": simd},
    )
    results = np.load(tmp_path / "y.npy")
    assert error_of(model, x, results) < TOLERANCE
    if simd == "portable" and plugin_library.simd() != "portable":
        with Session.open(path) as session:
            assert (results != session.run({"x": x})["y"]).any()


def test_a_weight_that_the_graph_computes_is_refused_when_the_file_is_opened(tmp_path):
    rewritten, _ = use_winograd(conv_model(**PADS))
    rewritten.graph.node.insert(0, helper.make_node("Add", ["w", "x"], ["sum"]))
    rewritten.graph.node[1].input[1] = "sum"
    onnx.save(rewritten, tmp_path / "model.onnx")
    with pytest.raises(BackendError, match="WinogradConv: weight is computed in the graph"):
        Session.open(tmp_path / "model.onnx")


def test_features_of_other_channels_are_refused(tmp_path):
    rewritten, _ = use_winograd(conv_model(**PADS))
    rewritten.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "C"
    onnx.save(rewritten, tmp_path / "model.onnx")
    with (
        Session.open(tmp_path / "model.onnx") as session,
        pytest.raises(BackendError, match="expected \\(N, 16"),
    ):
        session.run({"x": np.zeros((1, 17, 8, 8), np.float32)})


def test_an_empty_map_gives_an_empty_map(tmp_path):
    with Session.open(write(conv_model(**PADS), tmp_path / "model.onnx")) as session:
        for shape in [(0, 16, 8, 8), (1, 16, 0, 8), (2, 16, 8, 0)]:
            assert session.run({"x": np.zeros(shape, np.float32)})["y"].shape == shape
