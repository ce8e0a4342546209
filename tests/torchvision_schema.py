"""Lets torchvision be imported beside a torch that its compiled operators were not built for.

The package index has torchvision for CUDA alone. Beside the CPU build of torch its extension does not load, and its
import then fails at ``register_fake("torchvision::nms")``: "operator torchvision::nms does not exist". lpips and
torch-fidelity, which our figures are compared with, import torchvision for network definitions that need none of those
operators; so their names are declared here, without an implementation. Where torchvision is sound, nothing is done.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a declaration lives as long as this object


def make_importable() -> None:
    """Declare the operators once, if the extension cannot be loaded."""
    spec = find_spec("torchvision")
    if spec is None:
        pytest.skip("torchvision is not installed")
    if _declared:
        return
    extension = next(Path(spec.submodule_search_locations[0]).glob("_C*.so"), None)
    try:
        torch.ops.load_library(str(extension))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _declared.append(library)
