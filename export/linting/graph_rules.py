"""Lint's rules on files and their operators, on open axes and on 8-bit pictures."""

from __future__ import annotations

import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, shape_inference

from posewarp.export.graphs.graph import node_id
from posewarp.export.graphs.inlining import OURS, STANDARD, all_nodes, key_of
from posewarp.export.linting.facts import HALVES, MOVES, Facts, missing_data
from posewarp.export.linting.rules import GPU, Found, Rules

rule = GRAPH_RULES = Rules()

BROADCASTING = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Mod", "Where", "PRelu"),
    *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor"),
)
# Whose operators these are that files of other projects call.
SUPPLIERS = {
    "grid_sampler": "mmdeploy's library of operators; GridSample of opset 16 replaces it",
    "GridSample3D": "the plugin grid-sample3d-trt-plugin; GridSample of opset 20 replaces it",
}


@rule(
    "PW001",
    "not valid ONNX",
    reason="onnx.checker refuses the graph: wrong types at an operator, a missing input, an unknown attribute",
    remedy="Export again; if another tool changed the file, use the one before",
    any="error",
)
def invalid(facts: Facts) -> Found:
    if any(external_data(facts)):
        return  # the checker stops there
    try:
        onnx.checker.check_model(str(facts.path) if facts.path else facts.model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as exc:
        text = " ".join(str(exc).split())
        if "No Op registered" not in text:  # PW003 names these
            yield "graph", text


@rule(
    "PW002",
    "external data missing",
    reason="the file keeps weights in another file, which is not there or too short",
    remedy="Move both files together, or write one file by onnx.save",
    any="error",
)
def external_data(facts: Facts) -> Found:
    for tensor, location, state in missing_data(facts.tensors, facts.path.parent) if facts.path else ():
        yield tensor, f"its values are in {location!r}, which {state}"


@rule(
    "PW003",
    "unknown operators",
    reason="the target has no such operator, and nothing in the file spells it out",
    remedy="Export without it, or give the runtime the library that supplies it",
    any="error",
)
def unknown_operators(facts: Facts) -> Found:
    functions = {key_of(function) for function in facts.model.functions}
    places: dict[tuple[str, str], list[str]] = {}
    for node in all_nodes(facts.model):
        if (node.domain, node.op_type) not in functions and not _is_known(node, facts):
            places.setdefault((node.domain or "ai.onnx", node.op_type), []).append(node.name or node_id(node))
    for (domain, operator), nodes in places.items():
        supplier = SUPPLIERS.get(operator)
        yield (
            f"({domain}, {operator})",
            f"{len(nodes)} nodes, first {nodes[0]!r}" + (f"; it belongs to {supplier}" if supplier else ""),
        )


def _is_known(node: NodeProto, facts: Facts) -> bool:
    runtime = facts.target.runtime
    if (node.domain, node.op_type) == OURS:  # PW004
        return True
    if node.domain in STANDARD:
        plugin = runtime == "tensorrt" and node.op_type.endswith("_TRT")
        return plugin or onnx.defs.has(node.op_type, facts.opset)
    if node.domain in ("com.microsoft", "ai.onnx.ml", "com.microsoft.nchwc"):
        # OpenVINO reads many of them. NVIDIA's parser ignores the domain of a node that bears a standard name.
        return runtime not in GPU or node.op_type == "GridSample"
    return runtime == "tensorrt" and node.domain == "trt.plugins"


@rule(
    "PW004",
    "plugin node without a body",
    reason="MixedGridSample without its function runs only where a plugin or operator of that name is registered",
    remedy="Write the file with --warp portable",
    rtx="error",
    openvino="error",
    onnxruntime="warning",
)
def bodiless(facts: Facts) -> Found:
    if not facts.has_body:
        for node in facts.our_warps:
            yield facts.label(node), "has no function body in this file"


@rule(
    "PW005",
    "local functions",
    reason="the runtime reads no model-local functions",
    remedy="Write the file with --warp gridsample, or inline the functions by onnx.inliner",
    openvino="error",
)
def local_functions(facts: Facts) -> Found:
    for function in facts.model.functions:
        yield f"{function.domain}::{function.name}", "is a function of this file"


@rule(
    "PW006",
    "function before plugin",
    reason="the parser of TensorRT 10.1 and before expands a function before it looks for a plugin of that name, so "
    "that the plugin is not used",
    remedy="Write the file with --warp plugin",
    **{"tensorrt<10.2": "warning"},
)
def expanded_first(facts: Facts) -> Found:
    if facts.has_body and facts.our_warps:
        yield facts.label(facts.our_warps[0]), f"and {len(facts.our_warps) - 1} more have a body in this file"


@rule(
    "PW007",
    "AffineGrid",
    reason="NVIDIA's parsers have no AffineGrid (seen with TensorRT-RTX 1.7)",
    remedy="Export at --opset 18, or let the module compute the grid by a matrix product",
    **GPU,
)
def affine_grid(facts: Facts) -> Found:
    for node in facts.index.nodes.values():
        if node.op_type == "AffineGrid":
            yield facts.label(node), "is not in the parser's list"


@rule(
    "PW030",
    "baked axis",
    reason="an axis is fixed that the contract, or the other inputs, leave open",
    remedy="Export with an example batch of 2 or more and that axis dynamic",
    any="warning",
)
def baked_axis(facts: Facts) -> Found:
    graph = facts.flat.graph
    promised = (
        {spec.name: spec.shape for spec in (*facts.contract.inputs, *facts.contract.outputs)}
        if facts.contract
        else {}
    )
    batched = [value for value in graph.input if isinstance(_first_axis(value), str)]
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            dims = value.type.tensor_type.shape.dim
            for axis, (dim, open_) in enumerate(zip(dims, promised.get(value.name, ()), strict=False)):
                if dim.HasField("dim_value") and isinstance(open_, str):
                    yield (
                        f"{kind} {value.name}",
                        f"axis {axis} is {dim.dim_value}, the contract leaves {open_} open",
                    )
            if (
                value.name not in promised
                and batched
                and len(dims) > 1
                and isinstance(_first_axis(value), int)
            ):
                yield (
                    f"{kind} {value.name}",
                    f"axis 0 is {_first_axis(value)}, while input {batched[0].name} leaves it open",
                )


def _first_axis(value: ValueInfoProto) -> int | str | None:
    dims = value.type.tensor_type.shape.dim
    if not dims:
        return None
    return dims[0].dim_value if dims[0].HasField("dim_value") else dims[0].dim_param or None


@rule(
    "PW031",
    "size frozen inside",
    reason="a number in the graph fits only one size of an axis that the inputs leave open",
    remedy="Compute sizes from the input's own (torch.arange(x.shape[-1])) instead of from Python numbers",
    any="error",
)
def frozen_size(facts: Facts) -> Found:
    inputs = [value for value in facts.flat.graph.input if value.name not in facts.index.constants]
    open_axes = {d.dim_param for value in inputs for d in value.type.tensor_type.shape.dim if d.dim_param}
    batches = {axis for axis in map(_first_axis, inputs) if isinstance(axis, str)}
    for node in facts.index.nodes.values():
        if node.op_type == "Reshape":
            shape, target = facts.shape(node.input[0]), facts.integers(node.input[1])
            if shape and target and shape[0] in batches and target[0] > 0:
                yield facts.label(node), f"makes the open axis {shape[0]!r} {target[0]}"
        if node.op_type == "Expand":
            shape, target = facts.shape(node.input[0]), facts.integers(node.input[1])
            yield from _clashes(facts, node, [shape, target], open_axes)
        if node.op_type in BROADCASTING:
            yield from _clashes(facts, node, [facts.shape(name) for name in node.input], open_axes)
        if node.op_type == "GridSample" or (node.domain, node.op_type) == OURS:
            first = [(facts.shape(name) or [None])[0] for name in node.input[:2]]
            if any(size in batches for size in first) and any(isinstance(size, int) for size in first):
                yield facts.label(node), f"samples {first[0]} maps at {first[1]} grids"


def _clashes(facts: Facts, node: NodeProto, shapes: list[list | None], open_axes: set[str]) -> Found:
    """Axes where broadcasting meets a number above 1 and the name of an open size."""
    known = [shape for shape in shapes if shape]
    for back in range(1, max(map(len, known), default=0) + 1):
        sizes = [shape[-back] for shape in known if len(shape) >= back]
        number = next((size for size in sizes if isinstance(size, int) and size > 1), None)
        name = next((size for size in sizes if size in open_axes), None)
        if number is not None and name is not None:
            yield facts.label(node), f"meets {number} where the inputs leave {name!r} open"
            return


@rule(
    "PW040",
    "uint8 input not into a Cast",
    reason="TensorRT takes uint8 at the network's edge only: each such input must go straight into a Cast",
    remedy="Cast first, then transpose and scale",
    **GPU,
)
def uint8_input(facts: Facts) -> Found:
    for value in facts.flat.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            for node in facts.index.takers[value.name]:
                if node.op_type != "Cast":
                    yield f"input {value.name}", f"goes into {facts.label(node)}"


@rule(
    "PW041",
    "uint8 output not out of a Cast",
    reason="TensorRT takes uint8 at the network's edge only: the Cast to uint8 must be the last node",
    remedy="Transpose first, then Cast",
    **GPU,
)
def uint8_output(facts: Facts) -> Found:
    for value, maker in _uint8_outputs(facts):
        if maker.op_type != "Cast":
            yield f"output {value.name}", f"comes out of {facts.label(maker)}"


@rule(
    "PW042",
    "uint8 output not clipped and rounded",
    reason="a Cast from float to uint8 cuts off the fraction, and is undefined outside 0 to 255",
    remedy="Round and Clip to 0 and 255 before the Cast",
    **GPU,
    onnxruntime="warning",
    openvino="warning",
)
def unbounded_uint8(facts: Facts) -> Found:
    for value, maker in _uint8_outputs(facts):
        before = _chain_before(maker, facts)
        if before is None:
            continue
        missing = []
        if not any(node.op_type in ("Round", "Floor", "Ceil") for node in before):
            missing.append("Round")
        operators = {node.op_type for node in before}
        if not (operators & {"Clip", "Sigmoid"} or operators >= {"Min", "Max"}):
            missing.append("Clip")
        if missing:
            yield f"output {value.name}", f"is cast to uint8 without {' and '.join(missing)}"


def _uint8_outputs(facts: Facts) -> list[tuple[ValueInfoProto, NodeProto]]:
    outputs = [v for v in facts.flat.graph.output if v.type.tensor_type.elem_type == TensorProto.UINT8]
    return [(value, facts.index.makers[value.name]) for value in outputs if value.name in facts.index.makers]


def _chain_before(node: NodeProto, facts: Facts) -> list[NodeProto] | None:
    """Nodes that move, scale, round or bound what is cast from float to uint8; None where nothing is."""
    while node is not None and node.op_type in MOVES:
        node = facts.index.makers.get(node.input[0])
    if (
        node is None
        or node.op_type != "Cast"
        or facts.element(node.input[0]) not in (*HALVES, TensorProto.FLOAT)
    ):
        return None
    found = []
    through = (
        *MOVES,
        "Cast",
        "Mul",
        "Div",
        "Add",
        "Sub",
        "Round",
        "Floor",
        "Ceil",
        "Clip",
        "Min",
        "Max",
        "Sigmoid",
    )
    while (node := _maker_of_data(node, facts)) is not None and node.op_type in through:
        found.append(node)
    return found


def _maker_of_data(node: NodeProto, facts: Facts) -> NodeProto | None:
    data = [name for name in node.input if name not in facts.index.constants]
    return facts.index.makers.get(data[0]) if data else None
