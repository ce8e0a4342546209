"""Small ONNX models, made here, so that the runtime is tested without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes.fixtures import edition, gpu, open_plan, plugin_file, provider  # noqa: F401 (a fake GPU)
from onnx import helper


@pytest.fixture
def onnx_file(tmp_path) -> Callable[..., Path]:
    """Writes a model: nodes are (op, inputs, outputs[, attributes]), tensors are name: (type, shape)."""

    def write(
        name, nodes, inputs, outputs, *, constants=None, metadata=None, opset=18, check=True, **save_options
    ):
        def declare(tensors):
            return [
                helper.make_tensor_value_info(key, getattr(onnx.TensorProto, dtype.upper()), shape)
                for key, (dtype, shape) in tensors.items()
            ]

        graph = helper.make_graph(
            [helper.make_node(*node[:3], **dict(*node[3:])) for node in nodes],
            "test",
            declare(inputs),
            declare(outputs),
            [onnx.numpy_helper.from_array(value, key) for key, value in (constants or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        helper.set_model_props(model, metadata or {})
        if check:
            onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(tmp_path / name), **save_options)
        return tmp_path / name

    return write


@pytest.fixture
def double_model(onnx_file) -> Path:
    """y = relu(x + x), where x + x is the internal tensor ``middle``; (batch, 3), fp32; no contract."""
    return onnx_file(
        "double.onnx",
        [("Add", ["x", "x"], ["middle"]), ("Relu", ["middle"], ["y"])],
        {"x": ("float", ("batch", 3))},
        {"y": ("float", ("batch", 3))},
        metadata={"note": "written by a test"},
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
