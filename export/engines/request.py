"""What a build is asked: by trtexec's printer, by the parent process, and by the child."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

BACKENDS = ("rtx", "tensorrt")
NAMES = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
PRECISIONS = ("fp32", "fp16")
HARDWARE = ("ampere+", "same-compute-capability")


@dataclass(frozen=True)
class BuildRequest:
    """All that a build depends on. Plain JSON.

    Attributes:
        backend: ``rtx`` or ``tensorrt``.
        onnx: path of the file that the parser shall read, functions inlined.
        plan: path that the plan is written to.
        precision: ``fp16`` or ``fp32`` to assert it of the network, or None.
        grid_samples: what each native GridSample layer must be, by the name of its result: ``mode``,
            ``padding_mode``, ``align_corners``.
        custom_ops: (domain, op, plugin version, plugin namespace) that no standard defines.
        profiles: see profiles.py.
        targets: compute capabilities such as ``8.6``; rtx only.
        plugins: paths of plugin libraries; tensorrt only.
        version_compatible, exclude_lean_runtime, hardware_compatibility, timing_cache: tensorrt only. The
            last is a folder.
        workspace_mib, optimization_level: None is the library's own.
        tf32: whether FP32 layers may round to TF32.
        unless: versions and device under which nothing is built, since an engine of them is there.
    """

    backend: str
    onnx: str
    plan: str
    precision: str | None = None
    grid_samples: dict[str, dict[str, Any]] = field(default_factory=dict)
    custom_ops: Sequence[Sequence[str]] = ()
    profiles: Sequence[dict[str, Any]] = ()
    targets: Sequence[str] = ()
    plugins: Sequence[str] = ()
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    hardware_compatibility: str | None = None
    timing_cache: str | None = None
    workspace_mib: int | None = None
    optimization_level: int | None = None
    tf32: bool = False
    unless: dict[str, Any] | None = None
