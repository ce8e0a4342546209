"""How an engine is run: what only TensorRT's backends know, for ``Session.open(path, engine=EngineOptions(...))``."""

from __future__ import annotations

import os
from dataclasses import dataclass

from posewarp.runtime.errors import BackendError

LIBRARIES = ("tensorrt", "tensorrt_rtx", "tensorrt_lean")
PROVIDERS = ("cuda-python", "pycuda")


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is run.

    Attributes:
        cuda_graph: whether to capture a CUDA graph for each shape, at its second run, and replay it from then on.
            Runs on arrays of the caller's own on the device do without. TensorRT-RTX captures by itself.
        contexts: how many threads may run at once; further ones wait. Each context holds memory for the engine's
            activations, and is made when it is first needed.
        shapes: for how many shapes each context keeps buffers and a graph; the one unused longest goes first.
        provider: what calls the driver: ``cuda-python``; or ``pycuda``, which runs in the pycuda context that is
            current when the session opens, and captures no graphs.
        library: ``tensorrt``, ``tensorrt_rtx`` or ``tensorrt_lean``; by default the one that the plan is for.
        allow_host_code: whether to run what an engine carries besides kernels: a lean runtime, or plugin
            libraries. That is machine code of whoever built it, which runs with your rights.
        runtime_cache: a file that keeps the kernels that TensorRT-RTX compiles when an engine first runs; read if
            it is there, written when the session closes. Other libraries compile nothing.

    Raises: BackendError if a word or number is none of these.
    """

    cuda_graph: bool = True
    contexts: int = 4
    shapes: int = 8
    provider: str = "cuda-python"
    library: str | None = None
    allow_host_code: bool = False
    runtime_cache: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("contexts", "shapes"):
            if getattr(self, name) < 1:
                raise BackendError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name, known in (("provider", PROVIDERS), ("library", (None, *LIBRARIES))):
            if getattr(self, name) not in known:
                raise BackendError(
                    f"no {name} {getattr(self, name)!r}; there are {', '.join(filter(None, known))}",
                    got=getattr(self, name),
                    expected=known,
                )
