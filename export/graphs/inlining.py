"""Model-local functions put in place of their calls, where onnx.inliner alone would change what they compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, inliner

from posewarp.runtime.errors import ExportError

Key = tuple[str, str]  # domain and name of a function or operator

DOMAIN, OP = OURS = "posewarp", "MixedGridSample"  # our warp, whose node a plugin or custom op may take
STANDARD = ("", "ai.onnx")  # two names of one domain


def opset_of(model: ModelProto | FunctionProto) -> int:
    """Version of the standard operators that a model or function imports.

    Raises: ExportError if it imports none.
    """
    for entry in model.opset_import:
        if entry.domain in STANDARD:
            return entry.version
    raise ExportError("the model imports no opset of the standard operators; it is not a usable ONNX model")


def inline(model: ModelProto, keys: Iterable[Key]) -> ModelProto:
    """Put the bodies of some functions in place of their calls, wherever these are.

    onnx.inliner forgets the default values of a function's attributes, and refuses functions of another
    opset even where both opsets define each operator alike. Both are set right here first.

    Args:
        model: left as it is.
        keys: (domain, name) of the functions; calls among them are resolved too.

    Returns: a new model without these functions.
    Raises: ExportError if a function means an operator of another opset than the model's.
    """
    prepared = ModelProto()
    prepared.CopyFrom(model)
    keys = set(keys)
    functions = [function for function in prepared.functions if key_of(function) in keys]
    if not functions:
        return prepared
    _spell_defaults(prepared, functions)
    for function in functions:
        _take_opset(function, opset_of(prepared))
    try:
        return inliner.inline_selected_functions(prepared, sorted(keys))
    except RuntimeError as exc:
        names = ", ".join(sorted(f"{domain}::{name}" for domain, name in keys))
        raise ExportError(f"the functions {names} cannot be inlined: {exc}") from exc


def key_of(function: FunctionProto) -> Key:
    return function.domain, function.name


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and those inside its nodes, the bodies of If, Loop and Scan."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)


def nodes_of(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes and those inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from nodes_of(attribute.g.node)


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of a model: of its graph, the graphs inside, and its functions."""
    yield from nodes_of(model.graph.node)
    for function in model.functions:
        yield from nodes_of(function.node)


def _spell_defaults(model: ModelProto, functions: list[FunctionProto]) -> None:
    """Write the defaults of a function's attributes on each call that leaves them out."""
    defaults = {key_of(function): list(function.attribute_proto) for function in functions}
    for node in all_nodes(model):
        given = {attribute.name for attribute in node.attribute}
        missing = [a for a in defaults.get((node.domain, node.op_type), ()) if a.name not in given]
        node.attribute.extend(missing)


def _take_opset(function: FunctionProto, opset: int) -> None:
    """Import the model's standard operators instead of the function's own, if they mean the same."""
    for entry in function.opset_import:
        if entry.domain not in STANDARD or entry.version == opset:
            continue
        for node in nodes_of(function.node):
            if node.domain in STANDARD and _since(node, entry.version) != _since(node, opset):
                raise ExportError(
                    f"the function {function.domain}::{function.name} holds {node.op_type} of opset "
                    f"{entry.version}, the model is of opset {opset}; export both at one opset"
                )
        entry.version = opset


def _since(node: NodeProto, opset: int) -> int:
    # GridSample's renamed modes are told apart by their words, its 5-D form by the rank.
    if node.op_type == "GridSample":
        return 16
    try:
        return onnx.defs.get_schema(node.op_type, opset).since_version
    except onnx.defs.SchemaError:  # no operator of ONNX, whatever the opset
        return 0
