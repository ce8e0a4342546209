"""The two graphs of a cut, each with the nodes, constants, functions and contract that it needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from posewarp.export.graphs.graph import node_id
from posewarp.export.graphs.inlining import STANDARD, key_of, nodes_of
from posewarp.export.splitting.cut import choose_features
from posewarp.export.splitting.positions import position_features
from posewarp.export.splitting.sides import (
    SOURCE,
    Dims,
    Shapes,
    axis_names,
    dependence,
    settle_sizes,
    size_nodes,
    taken_by,
)
from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.errors import ExportError
from posewarp.runtime.split_session import POSE_PART, SETTING, SOURCE_PART


@dataclass(frozen=True)
class Cut:
    """Where a flat model is cut.

    Attributes:
        model: flat, its known sizes written as constants.
        shapes: of its tensors.
        by: the inputs that are the source.
        features: what the source part hands to the pose part.
        own: results of the whole model that the source part gives by itself.
        kept: inputs among ``by`` that the pose part takes too.
        again: ids of nodes of the source that the pose part runs again.
        depends: see ``sides.dependence``.
        sizes: see ``sides.settle_sizes``.
    """

    model: ModelProto
    shapes: Shapes
    by: tuple[str, ...]
    features: tuple[str, ...]
    own: tuple[str, ...]
    kept: tuple[str, ...]
    again: frozenset[str]
    depends: dict[str, frozenset[str]]
    sizes: dict[str, Dims]

    def is_source(self, node: NodeProto) -> bool:
        """Whether a node is run once a source."""
        return self.depends[node.output[0]] == {SOURCE} and node_id(node) not in self.again

    def spec(self, name: str) -> TensorSpec:
        """What a contract says of a tensor; an axis of unknown size has a name of its own."""
        dtype = helper.tensor_dtype_to_np_dtype(self.shapes.types[name]).name
        dims = self.shapes.dims[name]
        return TensorSpec(name, dtype, tuple(f"{name}_{i}" if d is None else d for i, d in enumerate(dims)))

    def narrowed(self, spec: TensorSpec) -> TensorSpec:
        """A result's spec, its sizes numbers where these are known."""
        dims = self.shapes.dims[spec.name]
        if len(dims) != len(spec.shape):  # the file says nothing of its axes
            return self.spec(spec.name)
        sizes = (d if isinstance(d, int) else said for d, said in zip(dims, spec.shape, strict=True))
        return replace(spec, shape=tuple(sizes))


def cut(flat: ModelProto, shapes: Shapes, by: Sequence[str]) -> Cut:
    """Cut a flat model by what depends on some inputs alone.

    Raises: ExportError if nothing worth keeping does.
    """
    model = ModelProto()
    model.CopyFrom(flat)
    sizes = settle_sizes(model, shapes, by)
    depends = dependence(model, by, sizes)
    made = {name for node in model.graph.node for name in node.output}
    results = [value.name for value in model.graph.output]
    own = tuple(name for name in results if name in made and depends[name] == {SOURCE})
    try:
        handed, again = choose_features(model, depends, shapes, set(results) - set(own))
    except ValueError as exc:
        raise ExportError(
            "the graph hands a sequence, or a tensor of unknown type, from the source's side to the other; "
            "export it without lists, and declare the results of foreign operators in value_info"
        ) from exc
    features = tuple(name for name in handed if name in made)
    if not features:
        raise ExportError(
            f"nothing worth keeping depends on {', '.join(by)} alone: every layer takes other inputs too; "
            f"the inputs are {', '.join(value.name for value in model.graph.input)}",
            got=tuple(by),
        )
    half = [name for name in features if shapes.types[name] == TensorProto.BFLOAT16]
    if half:
        raise ExportError(
            f"the feature {half[0]!r} is bf16, which no array can hold; split the fp32 file, then convert each part: "
            "posewarp fp16 --dtype bf16"
        )
    kept = tuple(name for name in handed if name not in made)
    return Cut(model, shapes, tuple(by), features, own, kept, frozenset(again), depends, sizes)


def make_parts(cut: Cut, contract: Contract, sha256: str) -> tuple[ModelProto, ModelProto]:
    """The source and the pose graph.

    Args:
        cut: where.
        contract: of the whole model.
        sha256: of its file.
    """
    known = {value.name: value for value in (*cut.model.graph.input, *cut.model.graph.output)}
    # Runtimes infer what a file leaves open, and refuse a contract that then says less.
    contract = replace(contract, outputs=tuple(map(cut.narrowed, contract.outputs)))
    specs = {spec.name: spec for spec in (*contract.inputs, *contract.outputs)}
    specs.update((name, cut.spec(name)) for name in cut.features if name not in specs)
    features = [
        known.get(name) or helper.make_tensor_value_info(name, cut.shapes.types[name], specs[name].shape)
        for name in cut.features
    ]
    results = [value.name for value in cut.model.graph.output]
    source_outputs = [*features, *(known[name] for name in cut.own if name not in cut.features)]
    source = _part(cut, [known[name] for name in cut.by], source_outputs)
    others = [value for value in cut.model.graph.input if value.name not in cut.by]
    inputs = [*features, *(known[name] for name in cut.kept), *others]
    pose = _part(cut, inputs, [known[name] for name in results if name not in cut.own])
    pair = hashlib.sha256(json.dumps([sha256, sorted(cut.by), cut.features]).encode()).hexdigest()
    setting = {
        "pair": pair,
        "whole_sha256": sha256,
        "by": cut.by,
        "features": cut.features,
        "positions": position_features(pose, cut.features),
        "shared": [name for name in cut.features if cut.shapes.three and cut.shapes.is_shared(name)],
    }
    _write_contract(source, specs, contract, {**setting, "part": SOURCE_PART})
    _write_contract(pose, specs, contract, {**setting, "part": POSE_PART, "whole": asdict(contract)})
    return source, pose


def _part(cut: Cut, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
    """What computes ``outputs`` from some of ``inputs``: those that it needs, if only for a size."""
    graph = cut.model.graph
    given = {value.name for value in inputs}
    makers = {name: node for node in graph.node for name in node.output if name}
    wanted: dict[str, NodeProto] = {}
    used, waiting = set(), [value.name for value in outputs]
    while waiting:
        name = waiting.pop()
        if name in used:
            continue
        used.add(name)
        if name in given or name not in makers:
            continue
        node = makers[name]
        wanted[node_id(node)] = node
        if node_id(node) not in cut.sizes:
            waiting.extend(taken_by(node))
    part = ModelProto()
    part.CopyFrom(cut.model)
    for field in (part.graph.node, part.graph.input, part.graph.output, part.graph.value_info):
        del field[:]
    nodes = [node for node in graph.node if node_id(node) in wanted]
    sizing = sorted({axis for n in nodes for axis in cut.sizes.get(node_id(n), ()) if isinstance(axis, str)})
    held = [value for value in inputs if value.name in used]
    for axis in sizing:
        if not any(axis in axis_names(value) for value in held):
            held.append(next(value for value in inputs if axis in axis_names(value)))
    part.graph.input.extend(held)
    part.graph.output.extend(outputs)
    kept = [tensor for tensor in part.graph.initializer if tensor.name in used]
    sparse = [tensor for tensor in part.graph.sparse_initializer if tensor.values.name in used]
    for field, values in ((part.graph.initializer, kept), (part.graph.sparse_initializer, sparse)):
        del field[:]
        field.extend(values)
    taken = {*makers, *used, *given}
    for node in nodes:
        sizes = cut.sizes.get(node_id(node))
        part.graph.node.extend(
            [node] if sizes is None else size_nodes(part.graph, node_id(node), sizes, taken)
        )
    ends = {value.name for value in (*part.graph.input, *part.graph.output)}
    made = {name for node in part.graph.node for name in node.output}
    part.graph.value_info.extend(v for v in graph.value_info if v.name in made - ends)
    _forget_unused(part)
    return part


def _forget_unused(part: ModelProto) -> None:
    """Drop functions that no node calls, and imports of domains that nothing is of."""
    calls = {(node.domain, node.op_type) for node in nodes_of(part.graph.node)}
    functions = [function for function in part.functions if key_of(function) in calls]
    domains = {domain for domain, _ in calls} | {"", *STANDARD, *(f.domain for f in functions)}
    imports = [entry for entry in part.opset_import if entry.domain in domains]
    for field, values in ((part.functions, functions), (part.opset_import, imports)):
        del field[:]
        field.extend(values)


def _write_contract(
    part: ModelProto, specs: Mapping[str, TensorSpec], whole: Contract, setting: dict
) -> None:
    made = {name for node in part.graph.node for name in node.output}
    settings = {**whole.settings, SETTING: setting}
    if settings.get("flow") not in made:
        settings.pop("flow", None)
    inputs, outputs = (
        tuple(specs[v.name] for v in values) for values in (part.graph.input, part.graph.output)
    )
    properties = {entry.key: entry.value for entry in part.metadata_props}
    contract = Contract("custom", inputs, outputs, settings)
    helper.set_model_props(part, {**properties, METADATA_KEY: contract.to_json()})
