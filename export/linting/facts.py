"""What lint's rules ask of a model, found out once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto, numpy_helper

from posewarp.export.graphs.coordinates import CoordinateSlice, coordinate_slices
from posewarp.export.graphs.graph import Index, inline_functions, node_id, read_graph, tensor_types
from posewarp.export.graphs.inlining import OURS, all_nodes, graphs_of, key_of, opset_of
from posewarp.export.linting.targets import Target
from posewarp.runtime.contract import METADATA_KEY, Contract

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# They move values and round none.
MOVES = (
    *(
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Slice",
        "Split",
        "Concat",
        "Tile",
    ),
    *("Expand", "Gather", "GatherND", "GatherElements", "Pad"),
)


class Facts:
    """A model, its types, its warps and what computes their grids.

    Args:
        source: a file, whose external data is not read, or a model in memory.
        target: where it shall run.

    Attributes:
        path: the file, if it is one.
        model: as written.
        flat: without functions, except ours; ``index`` and ``types`` are of it.
        opset: of the standard operators.

    Raises: ExportError if the file is missing, truncated or not ONNX.
    """

    def __init__(self, source: ModelProto | str | Path, target: Target):
        self.path = None if isinstance(source, ModelProto) else Path(source)
        self.target = target
        self.model = source if self.path is None else read_graph(source)
        self.opset = opset_of(self.model)
        self.flat = inline_functions(self.model)
        self.index = Index(self.flat)
        self.types = tensor_types(self.flat)

    @cached_property
    def warps(self) -> list[NodeProto]:
        """GridSample and MixedGridSample nodes."""
        return [
            n for n in self.index.nodes.values() if n.op_type == "GridSample" or (n.domain, n.op_type) == OURS
        ]

    @cached_property
    def plain_warps(self) -> list[NodeProto]:
        return [node for node in self.warps if node.op_type == "GridSample"]

    @cached_property
    def our_warps(self) -> list[NodeProto]:
        return [node for node in self.warps if node.op_type != "GridSample"]

    @property
    def has_body(self) -> bool:
        """Whether the file holds the function that spells out MixedGridSample."""
        return any(key_of(function) == OURS for function in self.model.functions)

    @cached_property
    def slices(self) -> list[CoordinateSlice]:
        return coordinate_slices(self.flat)

    @cached_property
    def contract(self) -> Contract | None:
        texts = (entry.value for entry in self.model.metadata_props if entry.key == METADATA_KEY)
        text = next(texts, None)
        return Contract.from_json(text) if text else None

    @cached_property
    def tensors(self) -> list[TensorProto]:
        """Every constant of the model as written: initializers and values of Constant nodes."""
        found = [tensor for graph in graphs_of(self.model.graph) for tensor in graph.initializer]
        for node in all_nodes(self.model):
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    tensor = TensorProto()
                    tensor.CopyFrom(attribute.t)
                    tensor.name = tensor.name or node.output[0]
                    found.append(tensor)
        return found

    def element(self, name: str) -> int:
        """Element type of a tensor; UNDEFINED if inference does not know it."""
        return self.types[name].elem_type if name in self.types else TensorProto.UNDEFINED

    def shape(self, name: str) -> list[int | str | None] | None:
        """A size, the name of a dynamic one, or None an axis; None if not even the rank is known."""
        kind: TypeProto.Tensor | None = self.types.get(name)
        if kind is None or not kind.HasField("shape"):
            return None
        return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]

    def integers(self, name: str) -> list[int] | None:
        """Values of a constant shape or the like."""
        tensor = self.index.constants.get(name)
        if tensor is not None and not tensor.external_data:
            return numpy_helper.to_array(tensor).ravel().tolist()
        maker = self.index.makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            return next(
                (list(a.ints) or [a.i] for a in maker.attribute if a.name in ("value_ints", "value_int")),
                None,
            )
        return None

    def label(self, node: NodeProto) -> str:
        return f"{node.op_type} {node.name or node_id(node)!r}"


def missing_data(tensors: Iterable[TensorProto], folder: Path) -> Iterator[tuple[str, str, str]]:
    """Tensors of a file in ``folder`` whose values lie in another file that is not there, or too short.

    Yields: the tensor's name, that file's, and what is the matter with it.
    """
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            file = folder / location
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            size = file.stat().st_size if file.is_file() else -1
            if size < end:
                state = "is not there" if size < 0 else f"has {size} bytes of the {end} that it needs"
                yield tensor.name, location, state
