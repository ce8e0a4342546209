"""The range of every tensor on real inputs, measured in ONNX Runtime in FP32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from posewarp.export.graphs.execution import open_model
from posewarp.export.graphs.graph import Index, bodies, fresh_name, tensor_types

# A statistic: the operator that makes it of absolute values and joins a loop's iterations, and its value of nothing.
_STATISTICS = {
    "maximum": ("ReduceMax", 0.0),
    "minimum": ("ReduceMin", np.inf),
    "elements": ("ReduceSum", 0.0),
}


@dataclass(frozen=True)
class Range:
    """Of one tensor, over all runs.

    Attributes:
        maximum, minimum: of its absolute values.
        elements: how many a run makes of it, over all iterations of a loop; in the largest run.
    """

    maximum: float
    minimum: float
    elements: float


def measure_ranges(model: ModelProto, runs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Range]:
    """Run a flat FP32 model, and reduce each float tensor where it is made: no tensor outlives its use.

    Tensors inside If, Loop and Scan are measured too; one of a branch that was never taken has no elements.

    Args:
        model: see ``graph.inline_functions``.
        runs: inputs by name, one mapping a run.

    Returns: a range for each float input, and for each float that a node makes.
    Raises: BackendError if ONNX Runtime cannot run the model.
    """
    probe = ModelProto()
    probe.CopyFrom(model)
    found = _Probe(probe).add()
    measured: dict[str, list[float]] = {}
    with open_model(probe, extra_outputs=list(found)) as session:
        for feeds in runs:
            results = session.run(feeds)
            for name in found:
                measured.setdefault(name, []).append(float(results[name]))
    joined: dict[str, dict[str, float]] = {}
    for name, (tensor, statistic) in found.items():
        joined.setdefault(tensor, {})[statistic] = (min if statistic == "minimum" else max)(measured[name])
    return {tensor: Range(**values) for tensor, values in joined.items()}


class _Probe:
    """Adds statistics to a model, in place."""

    def __init__(self, model: ModelProto):
        index = Index(model)
        types = tensor_types(model)
        self.model = model
        self.floats = {name for name, kind in types.items() if kind.elem_type == TensorProto.FLOAT}
        self.floats -= set(index.constants)
        self.taken = {*types, *index.makers, *index.takers, *index.constants}

    def add(self) -> dict[str, tuple[str, str]]:
        """Returns: the tensor and statistic that each new tensor of the main graph holds."""
        del self.model.graph.value_info[:]
        return self._observe(self.model.graph, [value.name for value in self.model.graph.input])

    def _observe(self, graph: GraphProto, inputs: Iterable[str] = ()) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        nodes = []
        for name in inputs:
            nodes += self._reduce(name, found)
        for node in graph.node:
            nodes.append(node)
            nodes += self._bring_out(graph, node, found)
            for name in node.output:
                nodes += self._reduce(name, found)
        del graph.node[:]
        graph.node.extend(nodes)
        return found

    def _reduce(self, tensor: str, found: dict[str, tuple[str, str]]) -> list[NodeProto]:
        if tensor not in self.floats:
            return []
        absolute, count = self._fresh(tensor, "absolute"), self._fresh(tensor, "count")
        names = {statistic: self._fresh(tensor, statistic) for statistic in _STATISTICS}
        found.update({name: (tensor, statistic) for statistic, name in names.items()})
        return [
            helper.make_node("Abs", [tensor], [absolute]),
            helper.make_node("ReduceMax", [absolute], [names["maximum"]], keepdims=0),
            helper.make_node("ReduceMin", [absolute], [names["minimum"]], keepdims=0),
            helper.make_node("Size", [tensor], [count]),
            helper.make_node("Cast", [count], [names["elements"]], to=TensorProto.FLOAT),
        ]

    def _bring_out(
        self, graph: GraphProto, node: NodeProto, found: dict[str, tuple[str, str]]
    ) -> list[NodeProto]:
        """Hand the statistics of a node's bodies on, as further results of it."""
        graphs = bodies(node)
        observed = [self._observe(body) for body in graphs]
        nodes = []
        for inner, (tensor, statistic) in [item for each in observed for item in each.items()]:
            operator, nothing = _STATISTICS[statistic]
            for body, own in zip(graphs, observed, strict=True):
                given = inner
                if inner not in own:  # the other branch of an If
                    given = self._constant(body, tensor, nothing)
                body.output.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, []))
            outer = self._fresh(tensor, statistic)
            node.output.append(outer)
            if node.op_type != "If":  # one value for each iteration, of which there may be none
                joined, outer = self._fresh(tensor, "joined"), self._fresh(tensor, statistic)
                start = self._constant(graph, tensor, [nothing])
                nodes += [
                    helper.make_node("Concat", [start, node.output[-1]], [joined], axis=0),
                    helper.make_node(operator, [joined], [outer], keepdims=0),
                ]
                for attribute in node.attribute:
                    if attribute.name in ("scan_output_axes", "scan_output_directions"):
                        attribute.ints.append(0)
            found[outer] = tensor, statistic
        return nodes

    def _constant(self, graph: GraphProto, tensor: str, value: float | list[float]) -> str:
        name = self._fresh(tensor, "nothing")
        graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
        return name

    def _fresh(self, tensor: str, what: str) -> str:
        return fresh_name(f"{tensor}_{what}", self.taken)
