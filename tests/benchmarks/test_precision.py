"""The table of drift: what it measures, and when it fails."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from posewarp.benchmarks import precision
from posewarp.benchmarks.precision import Row, measure
from posewarp.export.generator_spec import generator_spec
from posewarp.export.to_onnx import to_onnx
from posewarp.models.config import GeneratorConfig

HEIGHT, WIDTH = 64, 352


@pytest.fixture(scope="module")
def warper(tmp_path_factory):
    """A picture warped by two convolutions' flow, as an ONNX file, and pictures for it."""
    random = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(-1, 1, HEIGHT), np.linspace(-1, 1, WIDTH), indexing="ij")
    weights = {
        "base": np.stack((x, y), axis=-1)[None],
        "first": random.normal(0, 0.2, (8, 3, 3, 3)),
        "weight": random.normal(0, 0.001, (2, 8, 3, 3)),
        "bias": np.array([0.02, -0.1]),
    }
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["hidden"], "hide", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["hidden", "weight", "bias"], ["flow"], "head", pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["flow"], ["last"], "transpose", perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["last", "base"], ["grid"], "add"),
        helper.make_node("GridSample", ["image", "grid"], ["warped"], "warp", align_corners=1),
    ]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3, HEIGHT, WIDTH])
        for name in ("image", "warped")
    ]
    constants = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()]
    graph = helper.make_graph(nodes, "warper", values[:1], values[1:], constants)
    folder = tmp_path_factory.mktemp("warper")
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        folder / "warper.onnx",
    )
    wave = np.sin(np.arange(WIDTH) / 20 + np.arange(12).reshape(4, 3, 1, 1))
    np.savez(folder / "inputs.npz", image=np.broadcast_to(wave, (4, 3, HEIGHT, WIDTH)).astype(np.float32))
    return folder


def test_one_rounding_of_the_grid_is_what_the_careless_rows_show_and_ours_does_not(warper):
    careless, common, ours = measure("warper", warper / "warper.onnx", str(warper / "inputs.npz"))
    assert [row.conversion for row in (careless, common, ours)] == ["all fp16", "common", "posewarp"]
    for row in (careless, common):
        # Half a step of fp16 below 1 is 2^-12, in x 0.043 px of 352; offset, base and sum are rounded.
        assert 0.04 < row.same_flow_max_px < 3 * 0.043
        assert not row.passed
    assert ours.same_flow_max_px < 1e-3
    assert ours.passed
    assert ours.psnr_db > careless.psnr_db + 6
    assert (ours.warps, ours.share_by_count, ours.share_by_flops) == (1, 1.0, 1.0)
    assert ours.kept == 2  # Transpose and Add


def test_a_file_that_the_common_converter_breaks_is_a_row_that_says_so(foreign):
    file = foreign("volume")
    rows = {row.conversion: row for row in measure("volume", file.path, str(file.npz))}
    assert rows["common"].failure.startswith("not valid ONNX: ")
    assert not rows["common"].passed
    assert rows["posewarp"].passed


@pytest.mark.parametrize(
    ("figures", "passed"),
    [
        ({}, True),
        ({"same_flow_max_px": 9e-4, "own_flow_p999_px": 0.049}, True),
        ({"same_flow_max_px": 2e-3}, False),
        ({"own_flow_p999_px": 0.06}, False),
        ({"failure": "fp16 differs"}, False),
    ],
)
def test_a_row_passes_while_positions_stay(figures, passed):
    assert Row("network", "posewarp", **figures).passed == passed


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["precision.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        precision.command.main(precision.app)
    captured = capsys.readouterr()
    return int(ending.value.code or 0), captured.out, captured.err


def test_the_command_prints_and_writes_all_rows(warper, tmp_path, monkeypatch, capsys):
    entry = f"{warper / 'warper.onnx'}={warper / 'inputs.npz'}"
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(monkeypatch, capsys, entry, "--json", tmp_path / "precision.json")
    assert code == 0
    assert "all fp16" in out
    assert "posewarp" in out
    rows = json.loads((tmp_path / "precision.json").read_text())
    assert [(row["network"], row["conversion"]) for row in rows] == [
        ("warper", "all fp16"), ("warper", "common"), ("warper", "posewarp")
    ]  # fmt: skip


def test_the_command_fails_if_ours_moves_a_warp(warper, monkeypatch, capsys):
    monkeypatch.setattr(
        precision,
        "measure",
        lambda *_: [Row("warper", "posewarp", 1, 0.02, 0.02, 60.0, 1.0, 1.0, 3)],
    )
    code, _, err = run(monkeypatch, capsys, warper / "warper.onnx")
    assert code == 1
    assert err == "ParityError: warper: its positions moved\n"


def test_a_network_without_inputs_is_told_what_to_give(warper, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, warper / "warper.onnx")
    assert code == 1
    assert "give --data inputs.npz (arrays image)" in err


@pytest.mark.slow
def test_at_512x352_careless_fp16_moves_positions_and_ours_does_not(random_generator, tmp_path):
    """A narrow network: drift depends on the size of what is sampled, not on channels."""
    config = GeneratorConfig(height=512, width=352, base_width=4, blocks=1)
    to_onnx(generator_spec(random_generator(config), io="image"), tmp_path / "model.onnx")
    rows = {row.conversion: row for row in measure("narrow", tmp_path / "model.onnx")}
    assert rows["all fp16"].same_flow_max_px >= 0.04
    assert rows["posewarp"].same_flow_max_px < 1e-3
    assert rows["posewarp"].passed
