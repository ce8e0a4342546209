"""The ONNX file of an engine: the form that its parser wants, and what can be checked before a parser reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256 as _sha256
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper

from posewarp.export.graphs.graph import inline_functions, node_id, tensor_types
from posewarp.export.graphs.inlining import OURS, STANDARD, graphs_of, opset_of
from posewarp.export.graphs.warps import PLUGIN_NAMESPACE, PLUGIN_VERSION, find_warps, rewrite_warps
from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.errors import ContractError, ExportError
from posewarp.runtime.files import sha256

COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def contract_of(model: ModelProto) -> Contract:
    """The contract in a model's metadata, or one that is derived from its inputs and outputs."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return Contract.from_json(entry.value)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs, outputs = (
        tuple(_spec(value) for value in values if value.name not in weights)
        for values in (model.graph.input, model.graph.output)
    )
    return Contract("custom", inputs, outputs)


def check_contract(contract: Contract, declared: Contract) -> Contract:
    """A contract that a caller brings, if its inputs are the model's.

    Raises: ContractError if they are not.
    """
    promised, held = ({s.name: (s.dtype, len(s.shape)) for s in c.inputs} for c in (contract, declared))
    if promised != held:
        raise ContractError(
            f"the contract does not fit the file: it takes {', '.join(map(str, contract.inputs))}; the file has "
            f"{', '.join(map(str, declared.inputs))}",
            got=promised,
            expected=held,
        )
    return contract


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    # An axis without a name is dynamic too, and unlike any other.
    axes = enumerate(kind.shape.dim)
    shape = (d.dim_value if d.HasField("dim_value") else d.dim_param or f"axis_{i}" for i, d in axes)
    return TensorSpec(value.name, dtype, tuple(shape))


def onnx_sha256(path: Path) -> str:
    """SHA-256 of an ONNX file: of the file, or, if it has external data, of its hash and those of the data.

    The latter is the hash of a text of lines ``<hash>  <name>``, the file's own first, then sorted by name.
    """
    model = onnx.load(path, format="protobuf", load_external_data=False)
    tensors = [tensor for graph in graphs_of(model.graph) for tensor in graph.initializer]
    names = sorted({e.value for tensor in tensors for e in tensor.external_data if e.key == "location"})
    own = sha256(path)
    if not names:
        return own
    lines = [f"{own}  {path.name}", *(f"{sha256(path.parent / name)}  {name}" for name in names)]
    return _sha256("\n".join(lines).encode()).hexdigest()


def parser_model(model: ModelProto, *, plugins: bool) -> ModelProto:
    """The form of a model that a parser wants: without local functions.

    With plugins our warp node stands without its body: TensorRT's parsers of 10.1 would else take the body, later
    ones the plugin. Without them every warp is a standard GridSample of one type, with the Casts that it needs;
    parsers put the body in place too, but give all warps the same layer names then.

    Returns: a new model.
    """
    flat = inline_functions(model)
    if not plugins:
        return rewrite_warps(flat, "gridsample")
    del flat.functions[:]
    return flat


def grid_samples(model: ModelProto) -> dict[str, dict[str, object]]:
    """What each GridSample node says, by the name of its result."""
    return {
        warp.output: {
            "mode": warp.mode,
            "padding_mode": warp.padding_mode,
            "align_corners": warp.align_corners,
        }
        for warp in find_warps(model)
        if warp.spelling == "gridsample"
    }


def custom_ops(model: ModelProto) -> list[tuple[str, str, str, str]]:
    """(domain, op, plugin version, plugin namespace) of each operator that ONNX does not define."""
    found = {}
    for node in _nodes(model):
        if onnx.defs.has(node.op_type, "" if node.domain in STANDARD else node.domain):
            continue
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        ours = (node.domain, node.op_type) == OURS
        version = given.get("plugin_version", PLUGIN_VERSION.encode())
        namespace = given.get("plugin_namespace", PLUGIN_NAMESPACE.encode() if ours else b"")
        found[node.domain, node.op_type, version.decode(), namespace.decode()] = None
    return sorted(found)


def check_types(model: ModelProto, types: Mapping[str, TypeProto.Tensor]) -> None:
    """Check that what must be of one type at a node is: parsers' messages name neither node nor types.

    Raises: ExportError naming the node, its inputs and their types.
    """
    opset = opset_of(model)
    for node in _nodes(model):
        if node.domain not in STANDARD or not onnx.defs.has(node.op_type):
            continue
        groups: dict[str, dict[str, str]] = {}
        formal = onnx.defs.get_schema(node.op_type, opset).inputs
        for index, name in enumerate(node.input):
            if name not in types or not types[name].elem_type or not formal:
                continue
            place = formal[min(index, len(formal) - 1)]
            group = place.type_str
            if node.op_type == "GridSample":
                group = "features and grid"  # two types in ONNX, one in TensorRT
            elif (
                place.option == onnx.defs.OpSchema.FormalParameterOption.Variadic and not place.is_homogeneous
            ):
                continue
            groups.setdefault(group, {})[name] = TensorProto.DataType.Name(types[name].elem_type)
        for members in groups.values():
            if len(set(members.values())) > 1:
                said = " and ".join(f"{name} {kind}" for name, kind in members.items())
                remedy = (
                    "spell the warp as our node: posewarp fp16 --warp portable"
                    if node.op_type == "GridSample"
                    else "put a Cast before one of them"
                )
                raise ExportError(
                    f"node {node.name or node_id(node)!r} ({node.op_type}) has inputs of different types: "
                    f"{said}; {remedy}",
                    got=members,
                )


def half_share(model: ModelProto, types: Mapping[str, TypeProto.Tensor]) -> tuple[int, int, int]:
    """How many Conv, ConvTranspose, Gemm and MatMul are FP16 or BF16, how many there are, and how many tensors are."""
    kinds = [
        types[node.output[0]].elem_type
        for node in _nodes(model)
        if node.op_type in COMPUTE and node.domain in STANDARD and node.output[0] in types
    ]
    half = sum(kind in _HALF for kind in kinds)
    tensors = sum(kind.elem_type in _HALF for kind in types.values())
    return half, half + kinds.count(TensorProto.FLOAT), tensors


def checked(model: ModelProto, *, plugins: bool) -> tuple[ModelProto, tuple[int, int, int]]:
    """``parser_model`` with its types checked, and its ``half_share``.

    Raises: ExportError if types are mixed at a node.
    """
    flat = parser_model(model, plugins=plugins)
    types = tensor_types(flat)
    check_types(flat, types)
    return flat, half_share(flat, types)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    return (node for graph in graphs_of(model.graph) for node in graph.node)
