"""What a conversion to 16 bits tells of itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, TypeProto

from posewarp.export.graphs.graph import Index, inline_functions, node_id, tensor_types
from posewarp.export.ladder.drift import WarpDrift
from posewarp.export.ladder.measures import OutputMeasures
from posewarp.export.ladder.report import drift_line, output_line, plain
from posewarp.export.precision.ranges import Range

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class KeptNode:
    """A node that stays FP32.

    Attributes:
        node: its id, the name of its first result.
        name: its own name, which may be empty.
        operator: what it is.
        reason: why.
    """

    node: str
    name: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Fp16Report:
    """What was written, what stays FP32 in it, and how near it is to FP32.

    Attributes:
        path: the file.
        dtype: ``fp16`` or ``bf16``.
        warp: how warps are spelled.
        mib: the file's size.
        kept: the nodes that stay FP32.
        products: how many Conv, ConvTranspose, Gemm and MatMul nodes there are.
        share_by_count, share_by_flops: of these in the low type, 0 to 1; 1 where there are none.
        parity: differences from FP32 of the emulated graph: a model of an engine's arithmetic, no bound on it.
        drifts: how far each warp's positions moved.
        data: what inputs these figures come from.
        notes: what a user should know besides.
        seconds: that it all took.
    """

    path: str
    dtype: str
    warp: str
    mib: float
    kept: tuple[KeptNode, ...]
    products: int
    share_by_count: float
    share_by_flops: float
    parity: tuple[OutputMeasures, ...]
    drifts: tuple[WarpDrift, ...]
    data: str
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> str:
        """Strict JSON: what is infinite is a string, ``inf``."""
        return json.dumps(plain(asdict(self)), indent=1, allow_nan=False) + "\n"

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.mib:.1f} MiB, {self.dtype}, warps {self.warp}, {self.seconds:.0f} s",
            f"  {self.dtype}: {self.share_by_count:.1%} of {self.products} Conv, ConvTranspose, Gemm and MatMul, "
            f"{self.share_by_flops:.1%} of their FLOPs",
            f"  on {self.data}, {self.dtype} emulated on the CPU (a model of an engine, not a bound):",
            *(f"    {output_line(self.dtype, each)}" for each in self.parity),
            *(f"    {drift_line(drift)}" for drift in self.drifts),
        ]
        lines.append(f"  fp32: {len(self.kept)} nodes")
        for reason, count in Counter(kept.reason for kept in self.kept).items():
            nodes = [kept for kept in self.kept if kept.reason == reason]
            named = ", ".join(f"{kept.operator} {kept.name or kept.node}" for kept in nodes[:3])
            lines.append(f"    {count}: {reason} ({named}{', ...' if count > 3 else ''})")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def shares(model: ModelProto, mixed: ModelProto, ranges: Mapping[str, Range]) -> tuple[int, float, float]:
    """How much of the products is in the low type.

    Args:
        model: the flat FP32 model.
        mixed: made of it by ``half.convert``.
        ranges: of the FP32 model's tensors, which tell how much is computed.

    Returns: number of products, and the low type's share of them by count and by FLOPs.
    """
    index, types, converted = Index(model), tensor_types(model), inline_functions(mixed)
    mixed_types = tensor_types(converted)

    def products(found: Index) -> list[NodeProto]:
        return [node for node in found.nodes.values() if node.op_type in PRODUCTS]

    flops, low = [], []
    for node, twin in zip(products(index), products(Index(converted)), strict=True):
        flops.append(product_flops(node, index, ranges, types))
        low.append(mixed_types[twin.output[0]].elem_type != TensorProto.FLOAT)
    if not flops:
        return 0, 1.0, 1.0
    weights = np.array(flops)
    share = float((weights * low).sum() / weights.sum()) if weights.sum() else float(np.mean(low))
    return len(flops), float(np.mean(low)), share


def product_flops(
    node: NodeProto, index: Index, ranges: Mapping[str, Range], types: Mapping[str, TypeProto.Tensor]
) -> float:
    """Multiplications and additions of one run, each counted."""
    elements = [ranges[name].elements if name in ranges else 0.0 for name in (*node.input[:2], node_id(node))]
    weight = index.constants.get(node.input[1])
    dynamic = types.get(node.input[1], TypeProto.Tensor())
    sizes = list(weight.dims) if weight is not None else [d.dim_value for d in dynamic.shape.dim]
    if node.op_type in ("Conv", "ConvTranspose"):
        each = np.prod(sizes) / max(sizes[0], 1)  # of Conv's outputs, of ConvTranspose's inputs
        return 2.0 * each * elements[2 if node.op_type == "Conv" else 0]
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    terms = sizes[-1 if turned or len(sizes) < 2 else -2] if sizes else 0
    if not terms:  # unknown: exact for one matrix, too much for a batch of them
        terms = np.sqrt(elements[0] * elements[1] / max(elements[2], 1))
    return 2.0 * terms * elements[2]
