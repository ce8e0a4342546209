"""A mixed-precision graph as an FP32 graph that rounds where the mixed one would: FP16 judged on a CPU.

ONNX Runtime's CPU provider computes most FP16 operators in FP32 and cancels the casts between them, so running the
FP16 file itself understates its error about two times. Here every value is FP32, weights hold FP16's values, and
after each operator whose result is FP16 (or BF16) stands an explicit pair of casts, FP32 to FP16 to FP32, which
ONNX Runtime leaves alone: its result is rounded once, half to even, with FP16's overflow and subnormals.

It is a model, not a bound. An operator accumulates in FP32 and rounds once, and a chain of Conv, ConvTranspose, Gemm
or MatMul, scaling by constants (bias, BatchNormalization) and one activation rounds once, as TensorRT fuses them;
every other operator rounds by itself. TensorRT's own accumulators, fusions and tactics are not known: an engine may
be nearer to FP32 or further from it, and only running the engine tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from posewarp.export.graphs.execution import open_model
from posewarp.export.graphs.graph import Index, fresh_name, inline_functions, tensor_types
from posewarp.export.graphs.inlining import STANDARD
from posewarp.export.graphs.warps import graphs_of, rewrite_warps
from posewarp.runtime.errors import BackendError, ExportError

HALF_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SCALINGS = ("Add", "Sub", "Mul", "BatchNormalization")
_ACTIVATIONS = (
    "Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Tanh",
)  # fmt: skip
# Of FP16 values these give FP16 values again, and need no rounding.
_EXACT = (
    "Abs", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "GlobalMaxPool", "Identity", "If", "Loop", "Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax",
    "ReduceMin", "Relu", "Reshape", "Scan", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze", "Where",
)  # fmt: skip


def half_type(model: ModelProto) -> str:
    """``fp16`` or ``bf16`` if anything in a model is that, so that a CPU runs it by ``emulate``; else ``fp32``."""
    kinds = {tensor.elem_type for tensor in tensor_types(inline_functions(model)).values()}
    if TensorProto.BFLOAT16 in kinds:
        return "bf16"
    return "fp16" if TensorProto.FLOAT16 in kinds else "fp32"


def is_mixed(model: ModelProto) -> bool:
    """Whether a model has anything of FP16 or BF16 in it."""
    return half_type(model) != "fp32"


def emulate(model: ModelProto) -> ModelProto:
    """The FP32 graph that rounds where a strongly typed mixed graph does; see above for what it is worth.

    Args:
        model: FP32 with FP16 or BF16 tensors; local functions are inlined, our warps become GridSample.

    Returns: a new model for ONNX Runtime's CPU provider. Tensors keep their names, inputs and outputs their types;
        what is FP16 in the graph is FP32 there, with values that FP16 has.
    Raises: ExportError if the type of a tensor cannot be told.
    """
    flat = inline_functions(model)
    types = {name: tensor.elem_type for name, tensor in tensor_types(flat).items()}
    for graph in graphs_of(flat.graph):
        for node in graph.node:
            if node.domain not in STANDARD and any(name and name not in types for name in node.output):
                raise ExportError(
                    f"the node {node.domain}::{node.op_type} that makes {node.output[0]!r} cannot be emulated: "
                    "the type of its result is not known; declare it in value_info"
                )
    half = {name: kind for name, kind in types.items() if kind in HALF_TYPES}
    if half:
        _Rewrite(flat, half).run()
    return rewrite_warps(flat, "gridsample")


@cache
def check_rounding() -> None:
    """Make sure, once a process, that this ONNX Runtime leaves the pairs of casts alone.

    Raises: BackendError if it does not; then nothing that it says of FP16 would be true.
    """
    value = helper.make_tensor_value_info
    x, y = (value(name, TensorProto.FLOAT, [None]) for name in "xy")
    graph = helper.make_graph(
        [_cast("x", "h", TensorProto.FLOAT16), _cast("h", "y", TensorProto.FLOAT)], "g", [x], [y]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    # A tie, one beyond the tie, the last finite value and the first that overflows, a subnormal.
    numbers = np.array([1 + 2**-11, 1 + 2**-11 + 2**-20, 65519, 65520, 2.99e-8], np.float32)
    with open_model(model) as session:
        got = session.run({"x": numbers})["y"]
        with np.errstate(over="ignore"):
            if not np.array_equal(got, numbers.astype(np.float16)):
                raise BackendError(
                    f"{session.backend.name} does not round to FP16 when told to; use another version"
                )


class _Rewrite:
    """One pass over a flat model, in place.

    Tensors of half type that the outside sees (inputs, outputs) keep it; the graph then takes their FP32 twins.
    """

    def __init__(self, model: ModelProto, half: dict[str, int]):
        self.model, self.half = model, half
        index = Index(model)
        self.taken = {*index.makers, *index.takers, *index.constants, *half}
        outputs = {value.name for value in model.graph.output}
        self.outputs = outputs & set(half)
        # Inputs, and weights that are outputs: no node makes them.
        self.given = [
            name for name in half if name in index.inputs or (name in outputs and name in index.constants)
        ]
        self.twins = {name: fresh_name(f"{name}_fp32", self.taken) for name in {*self.given, *self.outputs}}
        kept = {value.name for graph in graphs_of(model.graph) for value in graph.output}
        self.unrounded = {name for node in index.nodes.values() for name in _fused(node, index, half, kept)}

    def run(self) -> None:
        graphs = list(graphs_of(self.model.graph))
        for graph in reversed(graphs):  # inner ones first: the nodes that hold them are copied
            inner = () if graph is graphs[0] else (*graph.input, *graph.output)
            for value in (*graph.value_info, *inner):
                if value.name in self.half:
                    value.type.tensor_type.elem_type = TensorProto.FLOAT
            for tensor in graph.initializer:
                if tensor.name not in self.twins:
                    _widen(tensor)
            nodes = [each for node in graph.node for each in self._rewritten(node)]
            if graph is graphs[0]:
                casts = [_cast(name, self.twins[name], TensorProto.FLOAT) for name in self.given]
                nodes = casts + nodes
            del graph.node[:]
            graph.node.extend(nodes)

    def _rewritten(self, node: NodeProto) -> Iterator[NodeProto]:
        exact = node.op_type in _EXACT and not self.unrounded & set(node.input)
        names = [name for name in node.output if name in self.half]
        is_cast = node.op_type in ("Cast", "CastLike") and bool(names)
        if is_cast:
            node = _cast(node.input[0], node.output[0], self.half[names[0]])
        node.input[:] = [self.twins.get(name, name) for name in node.input]
        for attribute in node.attribute:
            _widen_attribute(attribute, keep=is_cast)
        casts = []
        for place, name in enumerate(node.output):
            if name not in self.half:
                continue
            wide = self.twins.get(name, name)
            rounded = name if name in self.outputs else None
            if exact or name in self.unrounded:
                node.output[place] = wide
                if rounded:
                    casts.append(_cast(wide, rounded, self.half[name]))
                continue
            rounded = rounded or fresh_name(f"{name}_rounded", self.taken)
            node.output[place] = rounded if is_cast else fresh_name(f"{name}_exact", self.taken)
            if not is_cast:
                casts.append(_cast(node.output[place], rounded, self.half[name]))
            casts.append(_cast(rounded, wide, TensorProto.FLOAT))
        yield node
        yield from casts


def _fused(node: NodeProto, index: Index, half: dict[str, int], kept: set[str]) -> list[str]:
    """Results inside the chain that starts at a node: all but its last one."""
    if node.op_type not in _PRODUCTS:
        return []
    inside: list[str] = []
    while (name := node.output[0]) in half and name not in kept and len(index.takers[name]) == 1:
        (node,) = index.takers[name]
        others = [other for other in node.input if other and other != name]
        if node.op_type not in (*_SCALINGS, *_ACTIVATIONS) or not all(
            other in index.constants for other in others
        ):
            break
        inside.append(name)
        if node.op_type in _ACTIVATIONS:
            break
    return inside


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], to=kind)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in HALF_TYPES:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _widen_attribute(attribute: AttributeProto, keep: bool) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen(attribute.t)
    elif attribute.name in ("dtype", "output_dtype") and attribute.i in HALF_TYPES and not keep:
        attribute.i = TensorProto.FLOAT
