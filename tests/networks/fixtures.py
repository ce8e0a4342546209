"""``foreign``: the networks' files, each exported once a session, whichever pytest worker asks first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import pytest
from filelock import FileLock

from . import NETWORKS, Network
from .exports import export, write_inputs


@dataclass(frozen=True)
class Foreign:
    """A network's ONNX file, and inputs that it was not exported with (batch 3) as an .npz."""

    network: Network
    path: Path
    npz: Path

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load(self.path)

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        with np.load(self.npz) as archive:
            return dict(archive)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """``foreign(name, exporter="torchscript", opset=17) -> Foreign``: an opset too early for it is raised to its
    first. The TorchScript exporter takes half a second, the dynamo exporter five: ask for that in slow tests."""
    base = tmp_path_factory.getbasetemp()
    # Workers of one run have a folder each in one that they share.
    shared = (base.parent if base.name.startswith("popen-") else base) / "networks"
    shared.mkdir(exist_ok=True)

    def exported(name: str, exporter: str = "torchscript", opset: int = 17) -> Foreign:
        network = NETWORKS[name]
        opset = max(opset, network.first_opset)
        path = shared / f"{name}-{exporter}-{opset}.onnx"
        npz = shared / f"{name}.npz"
        with FileLock(f"{path}.lock"), FileLock(f"{npz}.lock"):
            if not path.exists():
                export(network, exporter, opset, path)
            if not npz.exists():
                write_inputs(network, npz)
        return Foreign(network, path, npz)

    return exported
