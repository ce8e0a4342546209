"""Which tensors to hand from the source part to the pose part: the fewest bytes, by a minimum cut.

A tensor that the pose part needs is handed over, or made again there of others. Layers are never run again; what
only moves or maps values (a cast, an upsampling, heat maps of keypoints) is, if that is smaller.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable

from onnx import ModelProto

from posewarp.export.graphs.graph import node_id
from posewarp.export.graphs.inlining import STANDARD
from posewarp.export.splitting.sides import SOURCE, Shapes, is_tensor, taken_by

VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_CHEAP = (
    *VIEWS,
    "Abs", "Add", "And", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Cos", "DepthToSpace",
    "Div", "Equal", "Exp", "Expand", "Floor", "Gather", "Greater", "GreaterOrEqual", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "PRelu", "Reciprocal", "Relu",
    "Resize", "Round", "Sigmoid", "Sign", "Sin", "Slice", "SpaceToDepth", "Split", "Sqrt", "Sub", "Tanh", "Tile",
    "Transpose", "Upsample", "Where",
)  # fmt: skip
# A byte that is made again in every run costs this much of one that is kept: memory is what the cache is bounded
# by, and a pass over a map is small beside any layer.
_REMADE = 1 / 8
# What each tensor costs besides, in bytes: of many small ones the one that they come from is the better feature.
_HANDED = 4096
# A tensor in which samples do not lie one behind the other serves one batch only: the last choice.
_UNSTACKED = 1000


def choose_features(
    model: ModelProto, depends: dict[str, frozenset[str]], shapes: Shapes, outputs: Iterable[str]
) -> tuple[list[str], set[str]]:
    """Cut between what depends on the source alone and the rest.

    Args:
        model: flat.
        depends: see ``sides.dependence``.
        shapes: of its tensors.
        outputs: the results that the pose part gives.

    Returns: the tensors that the pose part is handed, the source's own inputs among them, in the graph's order; and
        ids of the nodes of the source that the pose part runs again.
    """
    source = frozenset({SOURCE})
    nodes = [node for node in model.graph.node if depends[node.output[0]] == source]
    rest = [node for node in model.graph.node if depends[node.output[0]] - source]
    needed = {name for node in rest for name in taken_by(node)} | set(outputs)
    needed = {name for name in needed if depends.get(name) == source}

    network = _Network()
    names = [value.name for value in model.graph.input if depends[value.name] == source]
    makers = dict.fromkeys(names, network.source)
    for node in nodes:
        key = ("node", node_id(node))
        makers.update((name, key) for name in node.output if name)
        cheap = node.op_type in _CHEAP and node.domain in STANDARD
        taken = [name for name in taken_by(node) if depends.get(name) == source]
        size = sum(shapes.bytes_of(name) for name in node.output if is_tensor(shapes, name))
        cost = (0 if node.op_type in VIEWS else _REMADE * size) if cheap else math.inf
        network.add(network.source, key, cost)
        for name in taken:
            network.add(("tensor", name), key, math.inf)
    for name, maker in makers.items():
        network.add(maker, ("tensor", name), _cost(name, shapes, is_input=maker == network.source))
    for name in needed:
        network.add(("tensor", name), network.sink, math.inf)
    late = network.late_side()
    again = {name for kind, name in late - {network.sink} if kind == "node"}
    features = [name for name, maker in makers.items() if ("tensor", name) in late and maker not in late]
    return features, again


def _cost(name: str, shapes: Shapes, is_input: bool) -> float:
    if not is_tensor(shapes, name):
        return math.inf
    if is_input:  # every run is given it anyway
        return _HANDED + _REMADE * shapes.bytes_of(name)
    stacked = shapes.is_stack(name) or shapes.is_shared(name)
    return _HANDED + shapes.bytes_of(name) * (1 if stacked else _UNSTACKED)


class _Network:
    """A flow network (Ford and Fulkerson); the cut nearest to the sink runs the least again."""

    source, sink = ("", "source"), ("", "sink")

    def __init__(self) -> None:
        self.residual: dict[tuple, dict[tuple, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, start: tuple, end: tuple, capacity: float) -> None:
        self.residual[start][end] += capacity
        self.residual[end][start] += 0

    def late_side(self) -> set[tuple]:
        """Vertices on the sink's side of the minimum cut."""
        while path := self._path():
            room = min(self.residual[a][b] for a, b in path)
            if math.isinf(room):
                raise ValueError("no finite cut")
            for a, b in path:
                self.residual[a][b] -= room
                self.residual[b][a] += room
        late, waiting = {self.sink}, [self.sink]
        while waiting:
            end = waiting.pop()
            for start in list(self.residual[end]):
                if start not in late and self.residual[start][end] > 0:
                    late.add(start)
                    waiting.append(start)
        return late

    def _path(self) -> list[tuple[tuple, tuple]]:
        """The shortest way with room on it (Edmonds and Karp); empty if there is none."""
        came: dict[tuple, tuple] = {self.source: self.source}
        waiting = deque([self.source])
        while waiting:
            start = waiting.popleft()
            for end, room in self.residual[start].items():
                if room > 0 and end not in came:
                    came[end] = start
                    waiting.append(end)
        if self.sink not in came:
            return []
        path, end = [], self.sink
        while end != self.source:
            path.append((came[end], end))
            end = came[end]
        return path
