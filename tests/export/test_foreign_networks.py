"""ONNX files that we did not export: six networks on warps, from their exporters' files to an engine."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import NETWORKS
from networks.exports import EXPORTS

from posewarp.export.capture.difference import compare
from posewarp.export.graphs.warps import find_warps, rewrite_warps
from posewarp.export.ladder.drift import coordinate_drift
from posewarp.export.lint import lint
from posewarp.export.parity import parity
from posewarp.export.precision.half import convert
from posewarp.export.to_engine import to_engine
from posewarp.export.to_fp16 import to_fp16

every_network = pytest.mark.parametrize("name", NETWORKS)


def every_export(fast_opsets):
    """Every network by every exporter and opset; fast are the TorchScript exporter's first ``fast_opsets`` of each."""
    cases = []
    for network in NETWORKS.values():
        exports = [(exporter, opset) for exporter, opset in EXPORTS if opset >= network.first_opset]
        fast = [export for export in exports if export[0] == "torchscript"][:fast_opsets]
        cases += [
            pytest.param(network.name, *export, marks=() if export in fast else pytest.mark.slow)
            for export in exports
        ]
    return pytest.mark.parametrize(("name", "exporter", "opset"), cases)


def run(model, feeds, outputs=None):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = outputs or [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        # The maximum alone: a thin plate's sums cancel, and 0.1 % of its pixels are just above the p99.9 limit.
        parity = compare(name, {}, found[name], expected[name])
        assert parity.max <= parity.max_limit, str(parity)


@every_export(fast_opsets=2)
def test_an_exported_file_computes_what_the_network_does(foreign, name, exporter, opset):
    file = foreign(name, exporter, opset)
    onnx.checker.check_model(str(file.path), full_check=True)
    assert len(find_warps(file.model)) == file.network.warps
    network = file.network.make()
    for batch in (1, 3):
        feeds = {name: value[:batch] for name, value in file.inputs.items()}
        with torch.no_grad():
            results = network(*map(torch.from_numpy, feeds.values()))
        results = results if isinstance(results, tuple) else (results,)
        expected = {n: value.numpy() for n, value in zip(file.network.outputs, results, strict=True)}
        assert_same(run(file.model, feeds), expected)


@every_network
def test_no_warp_of_the_networks_is_the_identity(foreign, name):
    """Each reads 8 to 35 px of a full picture away from where it writes, at most."""
    file = foreign(name)
    model = file.model
    warps = find_warps(model)
    for warp in warps:
        for value in (warp.grid, warp.features):
            if value not in file.inputs:
                model.graph.output.add().name = value
    values = {**file.inputs, **run(model, file.inputs)}
    reach = 0.0
    for warp in warps:
        grid, size = values[warp.grid], values[warp.features].shape[:1:-1]  # x first
        if grid.shape[1:-1] != size[::-1]:
            continue  # a look-up in a correlation reads anywhere
        for axis, pixels in enumerate(size):
            shape = [1] * (grid.ndim - 1)
            shape[-1 - axis] = pixels
            still = np.linspace(-1, 1, pixels).reshape(shape)
            if axis < 2:
                reach = max(reach, float(abs(grid[..., axis] - still).max() * (192, 256)[axis] / 2))
    assert 8 <= reach <= 35


@every_export(fast_opsets=2)
def test_another_spelling_of_the_warps_keeps_the_values(foreign, name, exporter, opset):
    file = foreign(name, exporter, opset)
    expected = run(file.model, file.inputs)
    for spelling in ("portable", "gather") if name != "volume" else ("portable",):  # gathers are 4-D only
        rewritten = rewrite_warps(file.model, spelling)
        onnx.checker.check_model(rewritten, full_check=True)
        assert "GridSample" not in {node.op_type for node in rewritten.graph.node}
        assert_same(run(rewritten, file.inputs), expected)


@every_network
def test_everything_in_fp16_moves_the_positions(foreign, name):
    """By a fiftieth of a pixel and more: what the next test shows to stay away."""
    file = foreign(name)
    careless = convert(rewrite_warps(file.model, "gridsample"), {})
    drifts = coordinate_drift(file.model, careless, {n: value[:1] for n, value in file.inputs.items()})
    assert len(drifts) == file.network.warps
    assert max(drift.same_flow_max_px for drift in drifts) > 0.02
    assert {"PW020"} <= {finding.rule for finding in lint(careless, "rtx")}


@every_export(fast_opsets=1)
def test_fp16_without_options_keeps_the_pixels_and_builds(foreign, name, exporter, opset, tmp_path):
    file = foreign(name, exporter, opset)
    output = tmp_path / "model.fp16.onnx"
    report = to_fp16(file.path, output, data=file.npz)
    onnx.checker.check_model(str(output), full_check=True)
    assert all(measures.passed for measures in report.parity)
    assert len(report.drifts) == file.network.warps
    assert max(drift.same_flow_max_px for drift in report.drifts) < 1e-3
    assert max(drift.own_flow_p999_px for drift in report.drifts) < 0.05
    assert all(kept.reason for kept in report.kept)
    assert report.share_by_count > 0.6
    assert report.share_by_flops > 0.8
    assert not [finding for finding in lint(output, "rtx-1.7") if finding.severity == "error"]

    engine = to_engine(output, tmp_path / "model.engine", precision="fp16", targets=["8.6"])
    assert Path(engine.path).stat().st_size > 0
    assert len(engine.sidecar.grid_samples) == file.network.warps
    assert {entry["mode"] for entry in engine.sidecar.grid_samples} == {"bilinear"}


@pytest.mark.slow
def test_parity_of_a_foreign_file_and_its_mixed_one_passes_on_given_inputs(foreign, tmp_path):
    file = foreign("try_on")
    to_fp16(file.path, tmp_path / "model.fp16.onnx", data=file.npz)
    assert parity(file.path, tmp_path / "model.fp16.onnx", data=file.npz, batches=(1, 3)).passed
