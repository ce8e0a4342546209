"""ONNX files that we did not export: six networks on warps, from checker to engine."""

import numpy as np
import onnx
import pytest
import torch
from networks import NETWORKS
from networks.exports import EXPORTS

from posewarp.export.warps import find_warps, rewrite_warps
from posewarp.runtime.session import Session

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


def run(model, feeds):
    import onnxruntime

    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feeds
    )


@every_export
def test_the_exported_file_computes_what_the_network_does(foreign, name, exporter, opset):
    file = foreign(name, exporter, opset)
    onnx.checker.check_model(str(file.path), full_check=True)
    assert len(find_warps(file.model)) == file.network.warps
