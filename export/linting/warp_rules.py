"""Lint's rules on warps, and on the precision of what computes their grids."""

from __future__ import annotations

from onnx import NodeProto, TensorProto, helper

from posewarp.export.graphs.inlining import STANDARD
from posewarp.export.graphs.warps import MODES, PADDING_MODES, RENAMED_OPSET, standard_mode
from posewarp.export.linting.facts import HALVES, MOVES, Facts
from posewarp.export.linting.rules import GPU, Found, Rules

rule = WARP_RULES = Rules()

# What GridSample calls its modes, at one opset or another.
_WORDS = (*MODES, *(standard_mode(mode, RENAMED_OPSET) for mode in MODES[::2]))
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")


@rule(
    "PW010",
    "mode word of another opset",
    reason="GridSample's bilinear and bicubic are called linear and cubic from opset 20 on; the checker takes either "
    "word, ONNX Runtime only the right one",
    remedy="Write the file anew with any --warp, which puts the words right",
    onnxruntime="error",
    openvino="error",
    tensorrt="warning",
    rtx="warning",
)
def wrong_word(facts: Facts) -> Found:
    right = [standard_mode(mode, facts.opset) for mode in MODES]
    for node in facts.plain_warps:
        mode = _text(node, "mode")
        if node.domain in STANDARD and mode in _WORDS and mode not in right:
            yield facts.label(node), f"has mode {mode!r}, opset {facts.opset} knows {', '.join(right)}"


@rule(
    "PW011",
    "linear and cubic of opset 20",
    reason="these parsers know the words bilinear and bicubic only, and read linear as nearest without a word",
    remedy="Export at --opset 18 (16 to 19), or with --warp plugin and the plugin library",
    **{"tensorrt<11.2": "error", "rtx<1.6": "error"},
)
def renamed_word(facts: Facts) -> Found:
    if facts.opset < RENAMED_OPSET:
        return
    for node in facts.plain_warps:
        mode = _text(node, "mode") or "linear"
        if node.domain in STANDARD and mode in ("linear", "cubic"):
            yield facts.label(node), f"is {mode!r} at opset {facts.opset}"
    for node in facts.our_warps if facts.has_body else ():
        if _text(node, "mode") != "nearest":
            yield facts.label(node), f"is {standard_mode(_text(node, 'mode'), facts.opset)!r} in its body"


@rule(
    "PW012",
    "5-D GridSample",
    reason="the runtime samples 4-D maps only; TensorRT samples volumes since 11.2.1",
    remedy="Run it in ONNX Runtime or a later TensorRT, or write it with --warp plugin and give the plugin library",
    **{"tensorrt<11.2.1": "error", "rtx<1.6": "error", "openvino": "error"},
)
def volumes(facts: Facts) -> Found:
    # Without a body the plugin samples it, which knows 5-D.
    for node in (*facts.plain_warps, *(facts.our_warps if facts.has_body else ())):
        if _rank(node, facts) == 5:
            yield facts.label(node), "samples a 5-D tensor"


@rule(
    "PW013",
    "5-D GridSample below opset 20",
    reason="only opset 20 defines it, although exporters write it, and checkers and parsers take it",
    remedy="Export at --opset 20",
    any="error",
)
def early_volumes(facts: Facts) -> Found:
    for node in facts.warps if facts.opset < RENAMED_OPSET else ():
        if _rank(node, facts) == 5:
            yield facts.label(node), f"samples a 5-D tensor at opset {facts.opset}"


@rule(
    "PW014",
    "5-D bicubic",
    reason="cubic interpolation exists for 4-D maps only",
    remedy="Use bilinear for volumes",
    any="error",
)
def cubic_volumes(facts: Facts) -> Found:
    for node in facts.warps:
        if _rank(node, facts) == 5 and _text(node, "mode") in ("bicubic", "cubic"):
            yield facts.label(node), "samples a 5-D tensor by bicubic interpolation"


@rule(
    "PW015",
    "features and grid of two types",
    reason="TensorRT's GridSample wants one type for both; ONNX Runtime has no float64 grid beside float32 features",
    remedy="Write the file with --warp portable (fp16 features, fp32 grid) or gridsample (casts to one type)",
    **GPU,
    onnxruntime="error",
)
def two_types(facts: Facts) -> Found:
    narrowed = facts.target.runtime in GPU  # float64 to fp32, see PW022
    for node in facts.plain_warps:
        kinds = [facts.element(name) for name in node.input[:2]]
        read = [TensorProto.FLOAT if narrowed and kind == TensorProto.DOUBLE else kind for kind in kinds]
        if (
            TensorProto.UNDEFINED not in read
            and read[0] != read[1]
            and (narrowed or TensorProto.DOUBLE in read)
        ):
            yield facts.label(node), f"samples {_type(kinds[0])} features at a {_type(kinds[1])} grid"


@rule(
    "PW016",
    "MixedGridSample with a grid that is not fp32",
    reason="its grid is fp32 by definition: the plugin refuses another, and a rounded grid moves pixels",
    remedy="Convert the fp32 file by `posewarp fp16`; common converters do not know this node",
    any="error",
)
def rounded_grid(facts: Facts) -> Found:
    for node in facts.our_warps:
        kind = facts.element(node.input[1])
        if kind not in (TensorProto.UNDEFINED, TensorProto.FLOAT):
            yield facts.label(node), f"has a grid of type {_type(kind)}"


@rule(
    "PW017",
    "fp32 GridSample inside a half network",
    reason="TensorRT from 10.14.1 on is reported to fuse such an island wrongly",
    remedy="Write the file with --warp portable and give the plugin library, or with --warp gather; parity of the "
    "whole engine decides",
    **{"tensorrt>=10.14.1": "warning"},
)
def island(facts: Facts) -> Found:
    layers = (node for node in facts.index.nodes.values() if node.op_type in LAYERS)
    if any(facts.element(node.output[0]) in HALVES for node in layers):
        for node in facts.plain_warps:
            if all(facts.element(name) == TensorProto.FLOAT for name in node.input[:2]):
                yield facts.label(node), "samples in fp32, while layers of this network are half"


@rule(
    "PW018",
    "unknown mode",
    reason="no opset has such a mode, though the checker takes any word",
    remedy="Call grid_sample in the module with a mode that exists, and export again",
    any="error",
)
def unknown_mode(facts: Facts) -> Found:
    for node in facts.warps:
        mode, known = _text(node, "mode"), _WORDS if node in facts.plain_warps else MODES
        if mode is not None and mode not in known:
            yield facts.label(node), f"has mode {mode!r}; there are {', '.join(known)}"


@rule(
    "PW019",
    "unknown padding mode",
    reason="no opset has such a padding mode, though the checker takes any word, and TensorRT-RTX 1.7 too",
    remedy="Call grid_sample in the module with a padding mode that exists, and export again",
    any="error",
)
def unknown_padding(facts: Facts) -> Found:
    for node in facts.warps:
        padding = _text(node, "padding_mode")
        if padding is not None and padding not in PADDING_MODES:
            yield facts.label(node), f"has padding_mode {padding!r}; there are {', '.join(PADDING_MODES)}"


@rule(
    "PW020",
    "half coordinates",
    reason="one rounding of a position to fp16 moves it by up to 0.02 px at width 176, 0.06 px at 512; bf16 by 8 "
    "times as much",
    remedy="Convert the fp32 file by `posewarp fp16`, which keeps coordinates fp32",
    **GPU,
    onnxruntime="warning",
    openvino="warning",
)
def half_coordinates(facts: Facts) -> Found:
    for part in facts.slices:
        rounding = [node for node in map(facts.index.nodes.get, part.nodes) if _rounds(node, facts)]
        if rounding:
            kind = _type(facts.element(rounding[0].output[0]))
            yield (
                f"grid {part.warp.grid!r}",
                f"{len(rounding)} nodes of its coordinate arithmetic are {kind}, first {facts.label(rounding[0])}",
            )
        elif part.warp.spelling == "gridsample" and facts.element(part.warp.grid) in HALVES:
            yield f"grid {part.warp.grid!r}", f"is {_type(facts.element(part.warp.grid))}"


def _rounds(node: NodeProto, facts: Facts) -> bool:
    return node.op_type not in MOVES and any(facts.element(name) in HALVES for name in node.output)


@rule(
    "PW021",
    "TF32 in the coordinates",
    reason="TensorRT computes fp32 products and convolutions in TF32 unless told otherwise, which has fp16's mantissa",
    remedy="Build with TF32 off: `posewarp build` does, trtexec with --noTF32",
    tensorrt="warning",
    rtx="warning",
)
def tf32(facts: Facts) -> Found:
    found = {}
    for part in facts.slices:
        heads = [facts.index.makers[name] for name in part.positions if name in facts.index.makers]
        nodes = [*map(facts.index.nodes.get, part.nodes), *heads]
        products = [
            n for n in nodes if n.op_type in LAYERS and facts.element(n.output[0]) == TensorProto.FLOAT
        ]
        if products:
            found.setdefault(repr(part.warp.grid), facts.label(products[0]))
    if found:
        layers = list(dict.fromkeys(found.values()))
        more = f" and {len(layers) - 1} more" if layers[1:] else ""
        yield (
            f"{'grids' if len(found) > 1 else 'grid'} {', '.join(found)}",
            f"depends on {layers[0]}{more}, whose fp32 TF32 would round",
        )


@rule(
    "PW022",
    "float64",
    reason="TensorRT has no float64: parsers refuse it, or narrow it to fp32 (TensorRT-RTX 1.7 does)",
    remedy="Make it float32 in the module (numpy arrays and Python floats turned to tensors are float64)",
    tensorrt="error",
    rtx="warning",
)
def float64(facts: Facts) -> Found:
    for tensor in facts.tensors:
        if tensor.data_type == TensorProto.DOUBLE:
            yield tensor.name, "is a float64 constant"
    constants = {tensor.name for tensor in facts.tensors}
    for name, kind in facts.types.items():
        if kind.elem_type == TensorProto.DOUBLE and name not in constants:
            yield name, "is a float64 tensor"


def _text(node: NodeProto, name: str) -> str | None:
    return next((a.s.decode() for a in node.attribute if a.name == name), None)


def _rank(node: NodeProto, facts: Facts) -> int | None:
    ranks = [len(shape) for name in node.input[:2] if (shape := facts.shape(name)) is not None]
    return max(ranks, default=None)


def _type(kind: int) -> str:
    return helper.tensor_dtype_to_np_dtype(kind).name
