"""Features of a source that say where the pose part samples: only together do the two parts show which these are."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto

from posewarp.export.graphs.coordinates import Walker, coordinate_slices
from posewarp.runtime.contract import Contract
from posewarp.runtime.split_session import SETTING, SOURCE_PART


def position_features(pose: ModelProto, features: Iterable[str]) -> list[str]:
    """The features that a pose part computes a sampling grid of."""
    sources = {name for each in coordinate_slices(pose) for name in each.sources}
    return [name for name in features if name in sources]


def nodes_behind(walker: Walker, contract: Contract) -> dict[str, str]:
    """What computes such features in a source part, layers included, to be held in FP32.

    Args:
        walker: over the part.
        contract: of it, or of any other model, which has no such features.

    Returns: the reason by node id.
    """
    setting = contract.settings.get(SETTING, {})
    if setting.get("part") != SOURCE_PART:
        return {}
    found = {}
    for feature in setting["positions"]:
        nodes, sources = walker.back([feature])
        layers = [layer for source in sources for layer in walker.layers_of(source)]
        found.update(dict.fromkeys((*nodes, *layers), f"computes {feature}: the pose part samples by it"))
    return found
