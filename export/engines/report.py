"""What a build tells of itself."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from posewarp.export.engines.profiles import KINDS, format_shapes
from posewarp.export.engines.request import NAMES
from posewarp.runtime.contract import Contract, TensorSpec
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
        state = "up to date, not built again" if self.unchanged else f"built in {self.seconds:.1f} s"
        half, compute = sidecar.precision["half"], sidecar.precision["all"]
        lines = [
            f"{self.path}: {self.mib:.1f} MiB, {made_with(sidecar)}, {state}",
            f"  FP16 or BF16: {half} of {compute} Conv, ConvTranspose, Gemm and MatMul layers"
            + (f" ({half / compute:.0%})" if compute else ""),
        ]
        if half and self.fp32_layers:
            more = len(self.fp32_layers) - _NAMED
            named = ", ".join(self.fp32_layers[:_NAMED]) + (f" and {more} more" if more > 0 else "")
            lines.append(f"  FP32 among them: {named}")
        samples = grid_sample_kinds(sidecar)
        lines.append(f"  GridSample layers: {f'{samples}: as the ONNX file says' if samples else 'none'}")
        for profile in sidecar.profiles:
            for name, shapes in profile.items():
                sizes = ", ".join(f"{kind} {'x'.join(map(str, shapes[kind]))}" for kind in KINDS)
                lines.append(f"  profile of {name}: {sizes}")
        lines.append(f"  TF32: {'on' if sidecar.tf32 else 'off'}")
        lines += [f"  plugin library {entry['name']}: {entry['version']}" for entry in sidecar.plugins]
        lines += [f"  parity {r['reference']} -> {r['model']}: {r['status']}" for r in sidecar.parity]
        return "\n".join((*lines, *(f"  {note}" for note in self.notes)))


def made_with(sidecar: Sidecar) -> str:
    """The library, its version, and what the engine was built for."""
    library = NAMES.get(sidecar.backend, sidecar.backend)
    place = f"for {', '.join(sidecar.targets)}" if sidecar.targets else "for its default targets"
    if sidecar.backend == "tensorrt":
        device = sidecar.device
        place = f"on {device['name']} ({device['compute_capability']})" if device else "on an unknown GPU"
    elif "targets" in sidecar.unknown:
        place = "for unknown targets"
    return f"{library} {sidecar.versions.get(library, 'of unknown version')} {place}"


def grid_sample_kinds(sidecar: Sidecar) -> str:
    """The native GridSample layers, those that are alike counted."""
    kinds = Counter(
        f"{entry['mode']}, {entry['padding_mode']}, align_corners {entry['align_corners']}, {entry['dtype']}"
        for entry in sidecar.grid_samples
    )
    return "; ".join(f"{count} {kind}" for kind, count in kinds.items())


def sidecar_lines(sidecar: Sidecar) -> list[str]:
    """What is known of an engine, for reading; profiles in trtexec's grammar. What is not known has no line."""
    lines = [f"{sidecar.origin} from {sidecar.onnx['name']} (SHA-256 {sidecar.onnx['sha256'][:12]}...)"]
    if sidecar.contract:
        contract = Contract.from_json(json.dumps(sidecar.contract))
        lines.append(f"contract: io {contract.io}")
        lines += [f"input {spec}" for spec in contract.inputs] + [
            f"output {spec}" for spec in contract.outputs
        ]
    else:
        for kind, tensors in (("input", sidecar.inputs), ("output", sidecar.outputs)):
            lines += [f"{kind} {TensorSpec(t['name'], t['dtype'], tuple(t['shape']))}" for t in tensors]
    half, compute = (sidecar.precision.get(name) for name in ("half", "all"))
    if compute is not None:
        lines.append(f"FP16 or BF16: {half} of {compute} Conv, ConvTranspose, Gemm and MatMul layers")
    if sidecar.grid_samples:
        lines.append(f"GridSample layers: {grid_sample_kinds(sidecar)}")
    for profile in sidecar.profiles:
        lines.append(
            "profile: " + " ".join(f"--{kind}Shapes={format_shapes(profile, kind)}" for kind in KINDS)
        )
    if sidecar.tf32 is not None:
        lines.append(f"TF32: {'on' if sidecar.tf32 else 'off'}")
    lines += [f"plugin library {p['name']}: {p['version']}" for p in sidecar.plugins]
    options = [f"{name} {value}" for name, value in sidecar.options.items() if value not in (None, False)]
    if options:
        lines.append(f"options: {', '.join(options).replace(' True', '')}")
    lines += [f"parity {r['reference']} -> {r['model']}: {r['status']}" for r in sidecar.parity]
    if sidecar.unknown:
        lines.append(f"not known: {', '.join(sidecar.unknown)}")
    return lines
