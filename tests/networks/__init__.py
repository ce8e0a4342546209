"""Six small networks of the kinds that people deploy on warps, and their export as a stranger would do it.

Nothing here uses posewarp: the files are what `torch.onnx.export` gives. Weights are random, pictures and flows
smooth and of realistic size (8 to 30 px at 256 x 192).

    python -m tests.networks FOLDER      writes all six, with inputs as .npz beside them
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from . import first_order, interpolator, raft, thin_plate, try_on, volume


@dataclass(frozen=True)
class Network:
    """One of the six.

    Attributes:
        name: for files and tests.
        make: the module, in eval mode, with its weights.
        inputs: (batch, seed) -> its example inputs by name, float32.
        outputs: names of what it returns.
        warps: how often it samples.
        first_opset: 20 for 5-D sampling, which no earlier opset defines.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], dict[str, Tensor]]
    outputs: tuple[str, ...]
    warps: int
    first_opset: int = 16


NETWORKS = {
    network.name: network
    for network in (
        Network("raft", raft.make, raft.inputs, ("flow", "warped"), raft.ITERATIONS * raft.LEVELS + 1),
        Network("first_order", first_order.make, first_order.inputs, ("prediction", "deformation"), 2),
        Network("volume", volume.make, volume.inputs, ("prediction",), 2, first_opset=20),
        Network("thin_plate", thin_plate.make, thin_plate.inputs, ("composed", "warped"), 1),
        Network("interpolator", interpolator.make, interpolator.inputs, ("between", "flows"), 6),
        Network("try_on", try_on.make, try_on.inputs, ("dressed", "warped"), 5),
    )
}
