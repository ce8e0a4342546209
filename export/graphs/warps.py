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

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import (
    FunctionProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    parser,
)

from posewarp.export.graphs.gather import gather_function
from posewarp.export.graphs.graph import fresh_name, tensor_types
from posewarp.export.graphs.inlining import (
    DOMAIN,
    OP,
    OURS,
    STANDARD,
    all_nodes,
    graphs_of,
    inline,
    key_of,
    nodes_of,
    opset_of,
)
from posewarp.runtime.errors import ExportError

SPELLINGS = ("portable", "plugin", "gridsample", "gather")

PLUGIN_NAMESPACE = DOMAIN
PLUGIN_VERSION = "1"

# GridSample came with opset 16; opset 20 added the 5-D form and renamed two modes.
FIRST_OPSET, RENAMED_OPSET = 16, 20
_RENAMED = {"bilinear": "linear", "bicubic": "cubic"}
MODES = ("bilinear", "nearest", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")

_FUNCTIONS_IR = 8  # the IR version that brought model-local functions
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_GATHERS = "posewarp.gather"  # a domain that no file leaves with


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
    """All warps, those inside If, Loop and Scan included, and those of functions once for each call."""
    graphs = graphs_of(_with_warps_in_graphs(model).graph)
    return [warp for graph in graphs for node in graph.node if (warp := _read(node))]


def rewrite_warps(model: ModelProto, to: str) -> ModelProto:
    """Spell every warp of a model in one way.

    Functions that hold warps are put in place of their calls. Where features and grid are of several types,
    or a grid is of 16 bits, Casts are added: positions are read in float32, the result has the features' type.

    Args:
        model: of ours or anyone's, with warps as MixedGridSample, GridSample or ONNX Runtime's
            com.microsoft::GridSample; left as it is.
        to: one of ``SPELLINGS``.

    Returns: a new model; all else is unchanged.
    Raises: ExportError if a warp cannot be spelled so at the model's opset; it names the warp.
    """
    if to not in SPELLINGS:
        raise ExportError(f"no warp spelling {to!r}; there are {', '.join(SPELLINGS)}")
    rewritten = _with_warps_in_graphs(model)
    warps = find_warps(rewritten)
    if not warps:
        return rewritten
    opset = opset_of(rewritten)
    types = tensor_types(rewritten)
    for warp in warps:
        _check(warp, types, to, opset)
    _check_versions(rewritten)
    _forget_ours(rewritten)
    names = {name for node in all_nodes(rewritten) for name in (*node.input, *node.output)}
    for graph in graphs_of(rewritten.graph):
        if any(map(_read, graph.node)):
            nodes = [new for node in graph.node for new in _respell(node, to, opset, types, names)]
            del graph.node[:]
            graph.node.extend(nodes)
    if to in ("portable", "plugin"):
        _import(rewritten, DOMAIN)
        if to == "portable":
            rewritten.functions.append(_portable_function(opset))
            rewritten.ir_version = max(rewritten.ir_version, _FUNCTIONS_IR)
    if to == "gather":
        kinds = {_gather_name(w): (w.mode, w.padding_mode, w.align_corners) for w in warps}
        rewritten.functions.extend(
            gather_function(_GATHERS, name, *kind, opset) for name, kind in kinds.items()
        )
        _import(rewritten, _GATHERS)
        rewritten = inline(rewritten, ((_GATHERS, name) for name in kinds))
        _forget(rewritten, _GATHERS)
    return rewritten


def _with_warps_in_graphs(model: ModelProto) -> ModelProto:
    """The model, after functions that hold warps, themselves or in functions that they call, were inlined."""
    holders: set[tuple[str, str]] = set()
    found = True
    while found:
        found = {
            key_of(function)
            for function in model.functions
            if key_of(function) not in {*holders, OURS}
            and any(_is_warp(n) or (n.domain, n.op_type) in holders for n in nodes_of(function.node))
        }
        holders |= found
    return inline(model, holders)


def _is_warp(node: NodeProto) -> bool:
    return (node.domain, node.op_type) == OURS or (
        node.domain in (*STANDARD, "com.microsoft") and node.op_type == "GridSample"
    )


def _read(node: NodeProto) -> Warp | None:
    if not _is_warp(node):
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
        spelling="mixed" if node.domain == DOMAIN else "gridsample",
    )


def _respell(node: NodeProto, to: str, opset: int, types: Types, names: set[str]) -> list[NodeProto]:
    """The nodes that take the place of one; all others stay."""
    warp = _read(node)
    if warp is None:
        return [node]
    features, grid, output = warp.features, warp.grid, warp.output
    features_type, grid_type = (_element_type(types, name) for name in (features, grid))
    before, after = [], []
    one_type = to == "gridsample" and TensorProto.UNDEFINED not in (features_type, grid_type)
    if grid_type in _HALVES and (to != "gridsample" or features_type != grid_type):
        grid = fresh_name(f"{output}_grid", names)
        before.append(helper.make_node("Cast", [warp.grid], [grid], grid, to=TensorProto.FLOAT))
    if one_type and features_type != grid_type and features_type in _HALVES:
        features = fresh_name(f"{output}_features", names)
        before.append(helper.make_node("Cast", [warp.features], [features], features, to=TensorProto.FLOAT))
        output = fresh_name(f"{output}_sampled", names)
        after.append(helper.make_node("Cast", [output], [warp.output], f"{output}_cast", to=features_type))
    return [*before, _write(warp, [features, grid], output, to, opset, node.name), *after]


def _write(warp: Warp, inputs: list[str], output: str, to: str, opset: int, name: str) -> NodeProto:
    if to == "gather":
        return helper.make_node(_gather_name(warp), inputs, [output], name, domain=_GATHERS)
    standard = standard_mode(warp.mode, opset)
    reading = {"padding_mode": warp.padding_mode, "align_corners": warp.align_corners}
    if to == "gridsample":
        return helper.make_node("GridSample", inputs, [output], name, mode=standard, **reading)
    return helper.make_node(
        OP,
        inputs,
        [output],
        name,
        domain=DOMAIN,
        mode=warp.mode,
        **({"standard_mode": standard} if opset >= RENAMED_OPSET else {}),
        **reading,
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
    )


def standard_mode(mode: str, opset: int) -> str:
    """What the standard operator calls one of our modes."""
    return _RENAMED.get(mode, mode) if opset >= RENAMED_OPSET else mode


def _portable_function(opset: int) -> FunctionProto:
    """The body: sample in the grid's type (fp32), give the features' type back.

    From opset 20 on the plugin's word is not the operator's, so the node carries both. (A body for each word, by
    function overloads, passes the checker and ONNX Runtime, but TensorRT-RTX 1.7 takes the first for all.)
    """
    word = "standard_mode" if opset >= RENAMED_OPSET else "mode"
    names = dict.fromkeys(
        ("mode", word, "padding_mode", "align_corners", "plugin_namespace", "plugin_version")
    )
    return parser.parse_function(f"""
        <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
        {OP} <{", ".join(names)}>
        (features, grid) => (sampled)
        {{
            wide = CastLike (features, grid)
            read = GridSample <mode: string = @{word}, padding_mode: string = @padding_mode,
                               align_corners: int = @align_corners> (wide, grid)
            sampled = CastLike (read, features)
        }}
    """)


def _gather_name(warp: Warp) -> str:
    return f"gather_{warp.mode}_{warp.padding_mode}_{warp.align_corners}"


def _check(warp: Warp, types: Types, to: str, opset: int) -> None:
    grid = types.get(warp.grid)
    rank = len(grid.shape.dim) if grid is not None and grid.HasField("shape") else 4
    what = f"the {rank}-D {warp.mode} warp {warp.output!r} (padding {warp.padding_mode})"
    if warp.mode not in MODES or warp.padding_mode not in PADDING_MODES:
        raise ExportError(
            f"{what} is unknown to ONNX; modes are {', '.join(MODES)}, paddings {', '.join(PADDING_MODES)}"
        )
    if rank == 5 and warp.mode == "bicubic":
        raise ExportError(f"{what} has no ONNX form: GridSample knows cubic in 4-D only")
    if to == "gather" and (rank != 4 or warp.mode == "bicubic" or warp.padding_mode == "reflection"):
        raise ExportError(
            f"{what} cannot be spelled as gathers, which exist for 4-D bilinear and nearest with zeros "
            "or border padding; use --warp portable"
        )
    least = RENAMED_OPSET if rank == 5 else FIRST_OPSET
    if opset < least:
        raise ExportError(f"{what} needs opset {least}, got {opset}; export with --opset {least}")
    kind = _element_type(types, warp.grid)
    if to != "gridsample" and kind not in (TensorProto.UNDEFINED, TensorProto.FLOAT, *_HALVES):
        raise ExportError(
            f"{what} has a grid of type {TensorProto.DataType.Name(kind)}; positions must be float32 in the graph"
        )


def _check_versions(model: ModelProto) -> None:
    """Nodes of our name that another version of posewarp may have meant otherwise are not touched."""
    imported = next((entry.version for entry in model.opset_import if entry.domain == DOMAIN), 1)
    for node in all_nodes(model):
        if (node.domain, node.op_type) == OURS:
            version = next(
                (a.s.decode() for a in node.attribute if a.name == "plugin_version"), PLUGIN_VERSION
            )
            if imported != 1 or version != PLUGIN_VERSION:
                raise ExportError(
                    f"{node.output[0]!r} is a {DOMAIN}::{OP} of version {max(str(imported), version)}, this "
                    f"posewarp knows version {PLUGIN_VERSION}; use the posewarp that wrote the file"
                )


Types = Mapping[str, onnx.TypeProto.Tensor]


def _element_type(types: Types, name: str) -> int:
    return types[name].elem_type if name in types else TensorProto.UNDEFINED


def _import(model: ModelProto, domain: str) -> None:
    if not any(entry.domain == domain for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _forget_ours(model: ModelProto) -> None:
    """Remove the function, and the import of its domain unless something else is of that domain."""
    kept = [function for function in model.functions if key_of(function) != OURS]
    del model.functions[:]
    model.functions.extend(kept)
    users = {(n.domain, n.op_type) for n in all_nodes(model)} | {key_of(function) for function in kept}
    if not any(domain == DOMAIN and name != OP for domain, name in users):
        _forget(model, DOMAIN)


def _forget(model: ModelProto, domain: str) -> None:
    imports = [entry for entry in model.opset_import if entry.domain != domain]
    del model.opset_import[:]
    model.opset_import.extend(imports)
