"""What the graph of an exported file must be, whatever it computes."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, shape_inference

from posewarp.export.graphs.warps import RENAMED_OPSET, graphs_of, opset_of
from posewarp.export.spec import ExportSpec
from posewarp.runtime.errors import ExportError


def check_file(path: Path, spec: ExportSpec) -> None:
    """Check a file's structure: checker, shape inference, dynamic axes, types, words.

    Raises: ExportError naming what is wrong.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path)
        inferred = _infer(model)
    except (onnx.checker.ValidationError, shape_inference.InferenceError, RuntimeError) as exc:
        raise ExportError(f"the exported graph is not valid ONNX: {exc}") from exc
    _check_axes(inferred, spec)
    _check_types(inferred)
    _check_words(model)


def _infer(model: ModelProto) -> ModelProto:
    """With the sizes that follow from the nodes, not those that the file declares for its outputs."""
    bare = ModelProto()
    bare.CopyFrom(model)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    return shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)


def _check_axes(model: ModelProto, spec: ExportSpec) -> None:
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            dims = value.type.tensor_type.shape.dim
            for index, axis in spec.dynamic_axes.get(value.name, {}).items():
                # Inference may not know a size (no field is set): the runs at other sizes decide then.
                if index < len(dims) and dims[index].HasField("dim_value"):
                    raise ExportError(
                        f"the dynamic axis {axis} of {kind} {value.name} (axis {index}) is frozen at "
                        f"{dims[index].dim_value} in the written graph; compute sizes from the input's own "
                        "(torch.arange(x.shape[-1])) instead of from numbers"
                    )


def _check_types(model: ModelProto) -> None:
    """No float64: TensorRT's parser refuses it, and one such constant widens all that it touches."""
    for graph in graphs_of(model.graph):
        constants = {t.name: t.data_type for t in graph.initializer}
        values = {
            v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)
        }
        for name, kind in {**values, **constants}.items():
            if kind == TensorProto.DOUBLE:
                raise ExportError(
                    f"the tensor {name!r} is float64, which TensorRT refuses; make it float32 in the module "
                    "(numpy arrays and Python floats turned to tensors are float64)"
                )


def _check_words(model: ModelProto) -> None:
    """GridSample's modes were renamed in opset 20. The checker takes either word, runtimes do not."""
    right = (
        ("linear", "cubic", "nearest")
        if opset_of(model) >= RENAMED_OPSET
        else ("bilinear", "bicubic", "nearest")
    )
    nodes = [node for graph in graphs_of(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    for node in nodes:
        if node.domain in ("", "ai.onnx") and node.op_type == "GridSample":
            for attribute in node.attribute:
                if (
                    attribute.name == "mode"
                    and not attribute.ref_attr_name
                    and attribute.s.decode() not in right
                ):
                    raise ExportError(
                        f"GridSample {node.name!r} has mode {attribute.s.decode()!r}, which opset "
                        f"{opset_of(model)} does not know; expected {' or '.join(right)}"
                    )
