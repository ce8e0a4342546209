"""`torch.onnx.export` of the networks, and inputs for them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from . import NETWORKS, Network

# (exporter, opset) that people use; a network with a later first opset skips what lies before it.
EXPORTS = (("dynamo", 18), ("dynamo", 20), ("torchscript", 17), ("torchscript", 20))


def export(network: Network, exporter: str, opset: int, path: Path) -> None:
    """Write a network's ONNX file, its batch dynamic."""
    example = network.inputs(2, 0)
    axes = {name: {0: "batch"} for name in example}
    options = {"input_names": list(example), "output_names": list(network.outputs), "opset_version": opset}
    if exporter == "dynamo":
        options |= {
            "dynamo": True,
            "dynamic_shapes": tuple(axes.values()),
            "external_data": False,
            "verbose": False,
        }
    else:
        options |= {"dynamo": False, "dynamic_axes": axes | {name: {0: "batch"} for name in network.outputs}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own: deprecations, sizes that the tracer fixes
        torch.onnx.export(network.make(), tuple(example.values()), str(path), **options)


def write_inputs(network: Network, path: Path, batch: int = 3, seed: int = 1) -> None:
    """Write inputs that the export did not see, by name, as an .npz."""
    np.savez(path, **{name: value.numpy() for name, value in network.inputs(batch, seed).items()})


def write_all(folder: Path) -> None:
    """All networks by the default exporter, at opset 18 where they can, with inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    for network in NETWORKS.values():
        export(network, "dynamo", max(18, network.first_opset), folder / f"{network.name}.onnx")
        write_inputs(network, folder / f"{network.name}.npz")
