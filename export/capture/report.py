"""What an export tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

from posewarp.export.capture.difference import Parity
from posewarp.runtime.contract import Contract


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what it proved.

    Attributes:
        path: the file.
        mib: its size.
        opset: of the standard operators.
        warp: how warps are spelled.
        warps: how many there are.
        contract: what the file takes and gives.
        parity: differences from the torch module in ONNX Runtime.
        notes: what a user should know besides.
        seconds: that it all took.
    """

    path: str
    mib: float
    opset: int
    warp: str
    warps: int
    contract: Contract
    parity: tuple[Parity, ...]
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{self.path}: {self.mib:.1f} MiB, opset {self.opset}, {self.warps} warps ({self.warp}), "
                f"contract {self.contract.io}, {self.seconds:.0f} s",
                *(f"  takes {tensor}" for tensor in self.contract.inputs),
                *(f"  gives {tensor}" for tensor in self.contract.outputs),
                *(f"  parity {parity}" for parity in self.parity),
                *(f"  {note}" for note in self.notes),
            )
        )
