"""ONNX files that we did not export: six networks on warps, from their exporters' files to an engine."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import NETWORKS
from networks.exports import EXPORTS

from posewarp.export.difference import compare
from posewarp.export.warps import find_warps, rewrite_warps

every_network = pytest.mark.parametrize("name", NETWORKS)
every_export = pytest.mark.parametrize(
    ("name", "exporter", "opset"),
    [
        pytest.param(network.name, exporter, opset, marks=pytest.mark.slow if exporter == "dynamo" else ())
        for network in NETWORKS.values()
        for exporter, opset in EXPORTS
        if opset >= network.first_opset
    ],
)


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


@every_export
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


@every_export
def test_another_spelling_of_the_warps_keeps_the_values(foreign, name, exporter, opset):
    file = foreign(name, exporter, opset)
    expected = run(file.model, file.inputs)
    for spelling in ("portable", "gather") if name != "volume" else ("portable",):  # gathers are 4-D only
        rewritten = rewrite_warps(file.model, spelling)
        onnx.checker.check_model(rewritten, full_check=True)
        assert "GridSample" not in {node.op_type for node in rewritten.graph.node}
        assert_same(run(rewritten, file.inputs), expected)
