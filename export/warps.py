"""Warps in an ONNX graph, and the four ways to spell them.

    portable    a call of the model-local function posewarp::MixedGridSample, whose body is standard ONNX:
                runs everywhere, and is taken as the plugin or custom op of that name where one is registered
    plugin      the same node without the body, for parsers that expand functions before they look for plugins
    gridsample  the standard operator
    gather      floor, clip and GatherND, for runtimes whose GridSample cannot be trusted

Convention: ``mode`` is bilinear, nearest or bicubic here and in our node, at every opset; the standard
operator says linear and cubic from opset 20 on, where TensorRT's parsers before 11.2 read linear as nearest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner, parser, shape_inference

from posewarp.export.gather import gather_function
from posewarp.runtime.errors import ExportError

SPELLINGS = ("portable", "plugin", "gridsample", "gather")

DOMAIN = "posewarp"
OP = "MixedGridSample"
PLUGIN_NAMESPACE = "posewarp"
PLUGIN_VERSION = "1"

# GridSample came with opset 16; opset 20 added the 5-D form and renamed two modes.
FIRST_OPSET, RENAMED_OPSET = 16, 20
_RENAMED = {"bilinear": "linear", "bicubic": "cubic"}


@dataclass(frozen=True)
class Warp:
    """One warp of a graph, however it is spelled.

    Attributes:
        features: name of the value that is sampled, (N, C, [D,] H, W).
        grid: name of the positions, (N, [Do,] Ho, Wo, 2|3), normalised.
        output: name of the result, (N, C, [Do,] Ho, Wo).
        mode: ``bilinear``, ``nearest`` or ``bicubic``.
        padding_mode: ``zeros``, ``border`` or ``reflection``.
        align_corners: 1 if -1 and 1 are the centres of the outer pixels, 0 if they are their outer edges.
        spelling: ``gridsample`` for the standard operator, ``mixed`` for our node, with or without body.
    """

    features: str
    grid: str
    output: str
    mode: str
    padding_mode: str
    align_corners: int
    spelling: str


def find_warps(model: ModelProto) -> list[Warp]:
    """All GridSample and MixedGridSample nodes, those inside If and Loop included."""
    return [warp for graph in graphs_of(model.graph) for node in graph.node if (warp := _read(node))]


def opset_of(model: ModelProto) -> int:
    """Version of the standard operators that a model imports."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def rewrite_warps(model: ModelProto, to: str) -> ModelProto:
    """Spell every warp of a model in one way.

    Args:
        model: with warps as GridSample or MixedGridSample nodes; left as it is.
        to: one of ``SPELLINGS``.

    Returns: a new model; all else is unchanged.
    Raises: ExportError if a warp cannot be spelled so at the model's opset; it names the warp.
    """
    if to not in SPELLINGS:
        raise ExportError(f"no warp spelling {to!r}; there are {', '.join(SPELLINGS)}")
    opset = opset_of(model)
    _check(model, to, opset)
    rewritten = ModelProto()
    rewritten.CopyFrom(model)
    warps = find_warps(model)
    for graph in graphs_of(rewritten.graph):
        for node in graph.node:
            if warp := _read(node):
                node.CopyFrom(_write(warp, to, opset, node.name))
    _drop_domain(rewritten)
    if to in ("portable", "plugin") and warps:
        rewritten.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        if to == "portable":
            rewritten.functions.append(_portable_function(warps[0].mode, opset))
    if to == "gather" and warps:
        rewritten.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        kinds = {_gather_name(w): (w.mode, w.padding_mode, w.align_corners) for w in warps}
        rewritten.functions.extend(
            gather_function(DOMAIN, name, *kind, opset) for name, kind in kinds.items()
        )
        rewritten = inliner.inline_selected_functions(rewritten, [(DOMAIN, name) for name in kinds])
        _drop_domain(rewritten)
    return rewritten


def _read(node: NodeProto) -> Warp | None:
    standard = node.domain in ("", "ai.onnx") and node.op_type == "GridSample"
    if not standard and (node.domain, node.op_type) != (DOMAIN, OP):
        return None
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    mode = values.get("mode", b"bilinear").decode()
    return Warp(
        features=node.input[0],
        grid=node.input[1],
        output=node.output[0],
        mode={new: old for old, new in _RENAMED.items()}.get(mode, mode),
        padding_mode=values.get("padding_mode", b"zeros").decode(),
        align_corners=values.get("align_corners", 0),
        spelling="gridsample" if standard else "mixed",
    )


def _write(warp: Warp, to: str, opset: int, name: str) -> NodeProto:
    inputs, outputs = [warp.features, warp.grid], [warp.output]
    if to == "gather":
        return helper.make_node(_gather_name(warp), inputs, outputs, name, domain=DOMAIN)
    reading = {"padding_mode": warp.padding_mode, "align_corners": warp.align_corners}
    if to == "gridsample":
        return helper.make_node(
            "GridSample", inputs, outputs, name, mode=standard_mode(warp.mode, opset), **reading
        )
    return helper.make_node(
        OP,
        inputs,
        outputs,
        name,
        domain=DOMAIN,
        mode=warp.mode,
        **reading,
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
    )


def standard_mode(mode: str, opset: int) -> str:
    """What the standard operator calls one of our modes."""
    return _RENAMED.get(mode, mode) if opset >= RENAMED_OPSET else mode


def _portable_function(mode: str, opset: int) -> onnx.FunctionProto:
    """The body: sample in the grid's type (fp32), give the features' type back."""
    # From opset 20 on the word on our node is not the operator's, so the function holds the operator's.
    spoken = "@mode" if opset < RENAMED_OPSET else f'"{standard_mode(mode, opset)}"'
    return parser.parse_function(f"""
        <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
        {OP} <mode, padding_mode, align_corners, plugin_namespace, plugin_version>
        (features, grid) => (sampled)
        {{
            wide = CastLike (features, grid)
            read = GridSample <mode: string = {spoken}, padding_mode: string = @padding_mode,
                               align_corners: int = @align_corners> (wide, grid)
            sampled = CastLike (read, features)
        }}
    """)


def _gather_name(warp: Warp) -> str:
    return f"gather_{warp.mode}_{warp.padding_mode}_{warp.align_corners}"


def _check(model: ModelProto, to: str, opset: int) -> None:
    warps = find_warps(model)
    types = _types(model) if warps else {}
    for warp in warps:
        grid = types.get(warp.grid)
        rank = len(grid.shape.dim) if grid is not None and grid.HasField("shape") else 4
        what = f"the {rank}-D {warp.mode} warp {warp.output!r} (padding {warp.padding_mode})"
        if rank == 5 and warp.mode == "bicubic":
            raise ExportError(f"{what} has no ONNX form: GridSample knows cubic in 4-D only")
        if to == "gather" and (rank != 4 or warp.mode == "bicubic" or warp.padding_mode == "reflection"):
            raise ExportError(
                f"{what} cannot be spelled as gathers, which exist for 4-D bilinear and nearest with zeros "
                "or border padding; use --warp portable"
            )
        if rank == 5 and opset < RENAMED_OPSET:
            raise ExportError(f"{what} needs opset {RENAMED_OPSET}, got {opset}; export with --opset 20")
        if to != "gridsample" and grid is not None and grid.elem_type not in (0, TensorProto.FLOAT):
            kind = TensorProto.DataType.Name(grid.elem_type)
            raise ExportError(f"{what} has a grid of type {kind}; positions must be float32 in the graph")
    modes = Counter(warp.mode for warp in warps)
    if to == "portable" and opset >= RENAMED_OPSET and len(modes) > 1:
        raise ExportError(
            f"warps of different modes ({', '.join(modes)}) cannot share one function body from opset 20 on; "
            "export with --opset 18, or with --warp gridsample"
        )


def _types(model: ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    inferred = shape_inference.infer_shapes(model)
    return {
        value.name: value.type.tensor_type
        for graph in graphs_of(inferred.graph)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and those inside its nodes, the bodies of If, Loop and Scan."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)


def _drop_domain(model: ModelProto) -> None:
    kept = [function for function in model.functions if function.domain != DOMAIN]
    del model.functions[:]
    model.functions.extend(kept)
    imports = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(imports)
