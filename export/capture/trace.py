"""From a torch module to a plain ONNX model: torch.export, torch's ONNX exporter, and tidying after it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from onnx import ModelProto, inliner
from torch.export import Dim

from posewarp.export.capture.dynamic_axes import SymbolicGrids, check_dynamic
from posewarp.export.capture.prepare import TensorModule
from posewarp.export.graphs.warps import graphs_of, opset_of
from posewarp.export.spec import ExportSpec
from posewarp.runtime.errors import ExportError

# Where frames of a traceback are not the user's code.
_NOT_THE_USERS = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parents[1]))
# What TensorModule puts before the names of a module's weights.
_WRAPPED = "module."


def capture(spec: ExportSpec, module: TensorModule, opset: int) -> tuple[ModelProto, dict[str, int]]:
    """Export a module.

    Args:
        spec: names, example inputs and dynamic axes.
        module: in eval mode, on the CPU, norms folded.
        opset: version of the standard operators.

    Returns: the model, with the spec's names on inputs, outputs, intermediates and dynamic axes, its warps
        standard GridSample nodes; and the smallest size of each dynamic axis that has one.
    Raises: ExportError if torch cannot export it, or a dynamic axis became a constant.
    """
    axes = tuple(dict.fromkeys(spec.dynamic_axes.get(name, {}), Dim.AUTO) for name in spec.input_names)
    with _quiet():
        try:
            with SymbolicGrids(), torch.no_grad():
                # Fresh tensors: of views, torch.export would take the strides for conditions.
                inputs = tuple(value.clone() for value in spec.at_sizes({}))
                program = torch.export.export(module, inputs, dynamic_shapes=(axes,), strict=False)
            minima = check_dynamic(spec, program)
            model = torch.onnx.export(
                program,
                opset_version=opset,
                input_names=list(spec.input_names),
                output_names=[*spec.output_names, *spec.intermediates],
                verbose=False,
            ).model_proto
        except ExportError:
            raise
        except Exception as exc:  # tracing runs the user's code; the exporter has many classes of its own
            raise ExportError(f"torch cannot export the module: {_cause(exc)}") from exc
    if opset_of(model) != opset:
        raise ExportError(
            f"torch's exporter wrote opset {opset_of(model)} instead of {opset}, in which some operator of "
            f"this module has no form; use --opset {opset_of(model)}"
        )
    return _tidy(spec, model), minima


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch warns, logs and prints of its own working.

    Nothing of the user's code is lost: it ran before, as the reference, with all that it says.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        sink = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _cause(exc: Exception) -> str:
    """The first line of the exception at the bottom of the chain, and where in the user's code it was."""
    places = [
        f" ({Path(frame.filename).name}:{frame.lineno}: {frame.line})"
        for frame in traceback.extract_tb(exc.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    while exc.__cause__ is not None:
        exc = exc.__cause__
    lines = [line for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0] if lines else ''}{places[-1] if places else ''}"


def _tidy(spec: ExportSpec, model: ModelProto) -> ModelProto:
    """One graph, the spec's names on its axes, and nothing of the machine that it was traced on."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = model.graph
    symbols: dict[str, str] = {}
    for value in (*graph.input, *graph.output):
        for index, dim in enumerate(value.type.tensor_type.shape.dim):
            axis = spec.dynamic_axes.get(value.name, {}).get(index)
            if axis and not dim.HasField("dim_param"):
                raise ExportError(
                    f"the dynamic axis {axis} of {value.name} (axis {index}) is frozen at {dim.dim_value}: "
                    "the module makes that size whatever its inputs are. Let it follow them, or leave it out "
                    "of dynamic_axes"
                )
            if axis and value.name in spec.input_names:
                symbols[dim.dim_param] = axis
            if dim.HasField("dim_param"):
                dim.dim_param = axis or re.sub(r"\bs\d+\b", lambda m: symbols.get(m[0], m[0]), dim.dim_param)
    kept = [value for value in graph.output if value.name not in spec.intermediates]
    del graph.output[:]
    graph.output.extend(kept)
    for part in graphs_of(graph):
        for value in part.initializer:
            value.name = value.name.removeprefix(_WRAPPED)
        for node in part.node:
            node.input[:] = [name.removeprefix(_WRAPPED) for name in node.input]
        # Stack traces name files of this machine.
        for item in (model, part, *part.node, *part.input, *part.output, *part.initializer):
            del item.metadata_props[:]
            item.doc_string = ""
    return model
