"""Layers that give a flow or a position: which of them 16 bits would move by too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper

from posewarp.export.graphs.coordinates import CoordinateSlice, Walker
from posewarp.export.graphs.graph import Index, fresh_name
from posewarp.export.graphs.inlining import graphs_of
from posewarp.export.ladder.drift import coordinate_drift
from posewarp.export.precision.half import LOW_TYPES

# What rounding a flow may cost: a flow of up to 64 px is rounded by 0.016, one of up to 128 px by 0.031.
TOLERANCE_PX = 0.02


def kept_heads(
    model: ModelProto,
    walker: Walker,
    slices: Sequence[CoordinateSlice],
    runs: Sequence[Mapping[str, np.ndarray]],
    dtype: str,
) -> dict[str, str]:
    """Layers to keep in FP32 because what they give is a position, or too long a flow for 16 bits.

    Args:
        model: flat, FP32.
        walker: of the same.
        slices: of its warps (see ``coordinates.coordinate_slices``).
        runs: inputs by name, on which the flows are of real length.
        dtype: ``fp16`` or ``bf16``.

    Returns: a reason by the id of the layer's node.
    """
    kept: dict[str, str] = {}
    for each in slices:
        for head in each.positions:
            kept.setdefault(head, f"{head} is a position of {each.warp.output}: no base grid is added to it")
    offsets = {head for each in slices for head in each.heads} - set(kept)
    if offsets:
        drifts = coordinate_drift(model, _rounded(model, offsets, LOW_TYPES[dtype]), runs)
        for each, drift in zip(slices, drifts, strict=True):
            # Where these inputs leave no position inside the frame, others may.
            moved = drift.own_flow_max_px if drift.own_flow_p999_px is None else drift.own_flow_p999_px
            if moved is None:
                reason = f"what its rounding does to {each.warp.output} cannot be measured: {drift.note}"
            elif moved > TOLERANCE_PX:
                reason = f"rounded to {dtype} it would move {each.warp.output} by {moved:.3f} px"
            else:
                continue
            kept.update({head: reason for head in each.heads if head not in kept})
    return {name: reason for head, reason in kept.items() for name in walker.layers_of(head)}


def _rounded(model: ModelProto, tensors: set[str], low_type: int) -> ModelProto:
    """The model with some tensors rounded, and nothing else."""
    rounded = ModelProto()
    rounded.CopyFrom(model)
    index = Index(model)
    taken = {*index.makers, *index.takers, *index.constants}
    for graph in graphs_of(rounded.graph):
        nodes = []
        for node in graph.node:
            nodes.append(node)
            for place, name in enumerate(node.output):
                if name in tensors:
                    exact, low = fresh_name(f"{name}_exact", taken), fresh_name(f"{name}_low", taken)
                    node.output[place] = exact
                    nodes.append(helper.make_node("Cast", [exact], [low], to=low_type))
                    nodes.append(helper.make_node("Cast", [low], [name], to=TensorProto.FLOAT))
        del graph.node[:]
        graph.node.extend(nodes)
    return rounded
