"""What the other rungs are compared with: PyTorch in FP32, and the same in float64, which tells how exact that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posewarp.benchmarks.harness.networks import Network
from posewarp.benchmarks.ladder.rungs import Arrays
from posewarp.export.graphs.graph import load_model, save_model
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.ladder.rungs import open_rung
from posewarp.runtime.session import Session


@dataclass(frozen=True)
class Reference:
    """The rung that all others are compared with.

    Attributes:
        name: what it is.
        run: outputs of inputs, by name; of PyTorch the flow besides.
        exact: the same in float64; None where there is no such twin.
    """

    name: str
    run: Callable[[Arrays], Arrays]
    exact: Callable[[Arrays], Arrays] | None = None


@contextmanager
def open_reference(network: Network, folder: Path) -> Iterator[Reference]:
    """PyTorch in FP32, or where only an ONNX file is given that file in ONNX Runtime, by standard operators alone."""
    if network.torch:
        with open_rung(network.torch, network.contract) as rung:
            yield Reference("PyTorch FP32", rung.run, _float64(network))
        return
    path = folder / f"{network.name}.reference.onnx"
    save_model(rewrite_warps(load_model(network.onnx), "portable"), path)
    with Session.open(path, plugins=()) as session:
        yield Reference("ONNX Runtime FP32, portable", session.run)


def _float64(network: Network) -> Callable[[Arrays], Arrays] | None:
    """PyTorch's outputs in float64; of pictures, which are rounded to 8 bits, it would tell nothing."""
    if all(spec.dtype != "float32" for spec in network.contract.outputs):
        return None
    import torch

    from posewarp.export.capture.prepare import TensorModule, detached_copy
    from posewarp.export.generator_spec import checkpoint_spec
    from posewarp.export.spec import load_spec

    if ".py:" in network.torch:
        spec = load_spec(network.torch)
    else:
        spec = checkpoint_spec(network.torch, io=network.contract.io)
    names = (*spec.output_names, *spec.intermediates)
    module = TensorModule(detached_copy(spec.module), len(names)).double()

    def run(feeds: Arrays) -> Arrays:
        inputs = [torch.from_numpy(np.array(feeds[name])) for name in spec.input_names]
        with torch.no_grad():
            outputs = module(*(value.double() if value.is_floating_point() else value for value in inputs))
        return dict(zip(names, (value.numpy() for value in outputs), strict=True))

    return run
