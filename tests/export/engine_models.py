"""For the tests of engines: a Conv whose result is warped by a grid that is an input, and the stub libraries."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from posewarp.export.graphs.graph import save_model
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.to_engine import to_engine

STUBS = Path(__file__).parent / "stub_tensorrt"


def save_warp_model(
    path: Path,
    *,
    half: bool = False,
    opset: int = 18,
    mode: str = "bilinear",
    warp: str | None = None,
    batch: int | str = "batch",
    extra: tuple[onnx.NodeProto, ...] = (),
) -> Path:
    """Write picture (batch, 3, 8, 6) -> Conv -> warp by grid (batch, 8, 6, 2) -> warped.

    Args:
        half: the Conv in FP16, and the warp with FP16 features and FP32 grid.
        mode: the standard operator's word.
        warp: spelling of the warp; by default ``gridsample``, and ``portable`` with ``half``.
        extra: nodes that read ``warped`` or constants; their last result is a second output ``more``.
    """
    dtype = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3))
    nodes = [
        helper.make_node("Cast", ["picture"], ["cast"], "cast_in", to=dtype),
        helper.make_node("Conv", ["cast", "weights"], ["features"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node(
            "GridSample", ["features", "grid"], ["sampled"], "sample", mode=mode, align_corners=1
        ),
        helper.make_node("Cast", ["sampled"], ["warped"], "cast_out", to=TensorProto.FLOAT),
        *extra,
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (
            ("picture", [batch, 3, 8, 6]),
            ("grid", [batch, 8, 6, 2]),
            ("warped", [batch, 3, 8, 6]),
        )
    ]
    outputs = [values[2]]
    if extra:
        outputs.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [batch, 3, 8, 6]))
    weight = numpy_helper.from_array(weights.astype(np.float16 if half else np.float32), "weights")
    graph = helper.make_graph(nodes, "warp", values[:2], outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    warp = warp or ("portable" if half else "gridsample")
    save_model(rewrite_warps(model, warp) if warp != "gridsample" else model, path)
    return path


@pytest.fixture
def stub(monkeypatch):
    """``stub(version, fault="")``: builds of backend ``tensorrt`` meet that stub."""

    def use(version: str, fault: str = "") -> None:
        monkeypatch.setenv("PYTHONPATH", f"{STUBS / version}{os.pathsep}{STUBS}")
        monkeypatch.setenv("STUB_FAULT", fault)

    use("v11_4")
    return use


@pytest.fixture
def half(tmp_path):
    return save_warp_model(tmp_path / "model.fp16.onnx", half=True)


@pytest.fixture
def single(tmp_path):
    return save_warp_model(tmp_path / "model.onnx")


def build(path: Path, **options):
    return to_engine(path, backend="tensorrt", **options)


def record(engine: str | Path) -> dict:
    """What a stub's builder was told."""
    return json.loads(Path(engine).read_bytes()[28:].rstrip(b"\0"))


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".posewarp")]
