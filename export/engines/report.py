"""What a build tells of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from posewarp.export.engines.profiles import KINDS
from posewarp.export.engines.request import NAMES
from posewarp.runtime.sidecar import Sidecar

_NAMED = 5  # so many FP32 layers are named in the printed report; the side-car names all


@dataclass(frozen=True)
class EngineReport:
    """An engine that was built, or found to be up to date.

    Attributes:
        path: the engine; its side-car lies beside it.
        mib: its size.
        sidecar: what is known of it.
        unchanged: whether it was there already, and nothing that it depends on has changed.
        fp32_layers: names of the Conv, ConvTranspose, Gemm and MatMul layers that are FP32.
        notes: what a user should know besides.
        seconds: that it all took.
    """

    path: str
    mib: float
    sidecar: Sidecar
    unchanged: bool
    fp32_layers: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        sidecar = self.sidecar
        library = NAMES[sidecar.backend]
        place = f"for {', '.join(sidecar.targets)}" if sidecar.targets else "for its default targets"
        if sidecar.backend == "tensorrt":
            device = sidecar.device
            place = f"on {device['name']} ({device['compute_capability']})" if device else "on an unknown GPU"
        state = "up to date, not built again" if self.unchanged else f"built in {self.seconds:.1f} s"
        half, compute = sidecar.precision["half"], sidecar.precision["all"]
        lines = [
            f"{self.path}: {self.mib:.1f} MiB, {library} {sidecar.versions[library]} {place}, {state}",
            f"  FP16 or BF16: {half} of {compute} Conv, ConvTranspose, Gemm and MatMul layers"
            + (f" ({half / compute:.0%})" if compute else ""),
        ]
        if half and self.fp32_layers:
            more = len(self.fp32_layers) - _NAMED
            named = ", ".join(self.fp32_layers[:_NAMED]) + (f" and {more} more" if more > 0 else "")
            lines.append(f"  FP32 among them: {named}")
        lines.append(f"  GridSample layers: {self._grid_samples()}")
        for profile in sidecar.profiles:
            for name, shapes in profile.items():
                sizes = ", ".join(f"{kind} {'x'.join(map(str, shapes[kind]))}" for kind in KINDS)
                lines.append(f"  profile of {name}: {sizes}")
        lines.append(f"  TF32: {'on' if sidecar.tf32 else 'off'}")
        lines += [f"  plugin library {entry['name']}: {entry['version']}" for entry in sidecar.plugins]
        lines += [f"  parity {r['reference']} -> {r['model']}: {r['status']}" for r in sidecar.parity]
        return "\n".join((*lines, *(f"  {note}" for note in self.notes)))

    def _grid_samples(self) -> str:
        kinds = Counter(
            f"{entry['mode']}, {entry['padding_mode']}, align_corners {entry['align_corners']}, {entry['dtype']}"
            for entry in self.sidecar.grid_samples
        )
        if not kinds:
            return "none"
        return "; ".join(f"{count} {kind}" for kind, count in kinds.items()) + ": as the ONNX file says"
