"""What a cut is chosen and judged by: shapes, operations, times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
from onnx import ModelProto, helper

from posewarp.export.graphs.execution import open_model
from posewarp.export.graphs.graph import Index, fresh_name, node_id, tensor_types
from posewarp.export.graphs.inlining import nodes_of
from posewarp.export.precision.ranges import Range, measure_ranges
from posewarp.export.precision.report import PRODUCTS, product_flops
from posewarp.export.splitting.cut import VIEWS
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import SplitSession

Feeds = Mapping[str, np.ndarray]

# A run varies by some 5 % on a shared machine, and a gain of 1.3 is to be known to 0.01: short runs are timed often.
_FEWEST_ROUNDS, _MOST_ROUNDS, _SECONDS = 9, 50, 4.0
# Behind another session's run one of 7 ms takes 12 % longer, the next 3 %, 2 %, 1 %: so many are not counted, then so
# many are. Of long runs one each will do.
_RUNS, _SPAN_MS = 4, 30.0


@dataclass(frozen=True)
class Gain:
    """What is saved where one source serves many poses.

    Attributes:
        whole, source, pose: cost of one run of each, in one unit: operations, or milliseconds.
    """

    whole: float
    source: float
    pose: float

    @property
    def saved(self) -> float:
        """Share of the whole that a further pose of a known source does not cost."""
        return 1 - self.pose / self.whole

    def times(self, poses: int) -> float:
        """How many times faster ``poses`` poses of one source are than as many whole runs."""
        return poses * self.whole / (self.source + poses * self.pose)


def measure_shapes(model: ModelProto, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Run a flat model once, for the shape of every tensor of its main graph.

    Raises: BackendError if ONNX Runtime cannot run it.
    """
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.value_info[:]
    index, types = Index(model), tensor_types(model)
    taken = {*index.makers, *index.takers, *index.constants, *types}
    names = [name for node in model.graph.node for name in node.output if name and name in types]
    probes = {fresh_name(f"{name}_measured", taken): name for name in names}
    probe.graph.node.extend(helper.make_node("Shape", [name], [shape]) for shape, name in probes.items())
    with open_model(probe, extra_outputs=list(probes)) as session:
        results = session.run(feeds)
    measured = {name: tuple(int(size) for size in results[shape]) for shape, name in probes.items()}
    return {**{name: array.shape for name, array in feeds.items()}, **measured}


def count_operations(
    flat: ModelProto, runnable: ModelProto, shapes: Mapping[str, tuple[int, ...]], feeds: Feeds
) -> dict[str, float]:
    """Multiplications and additions of each node of a flat model's main graph, by its id.

    Of Conv, ConvTranspose, Gemm and MatMul both are counted; of others one for each value that they give, of views
    none.

    Args:
        flat: the model.
        runnable: what ONNX Runtime runs in its place, with the same names (see ``emulation.emulate``).
        shapes: of its tensors in a run on ``feeds``.
        feeds: one sample.
    """
    sizes = {name: Range(0, 0, float(np.prod(shape))) for name, shape in shapes.items()}
    ranges = {**sizes, **measure_ranges(runnable, [feeds])}
    index, types = Index(flat), tensor_types(flat)

    def operations(node: object) -> float:
        if node.op_type in VIEWS:
            return 0.0
        if node.op_type in PRODUCTS:
            return product_flops(node, index, ranges, types)
        return sum(ranges[name].elements for name in node.output if name in ranges)

    return {node_id(node): sum(map(operations, nodes_of([node]))) for node in flat.graph.node}


def time_parts(whole: Session, source: Session, pose: Session, feeds: Feeds) -> Gain:
    """Milliseconds of each on one sample, as ``SplitSession`` runs them: medians, in turns.

    The source part's are those that the first pose of a source takes longer than a further one. Run by itself it takes
    less, for its features are not laid in memory that no cache holds yet: 2.2 ms for 2.9, of a first-order-motion
    network.
    """
    parts = SplitSession(source, pose)  # not closed: the sessions are the caller's

    def run_ms(session: Session | SplitSession, new_source: bool = False) -> float:
        if new_source:
            parts.cache.clear()
        started = time.perf_counter()
        session.run(feeds)
        return 1e3 * (time.perf_counter() - started)

    rounds: list[list[float]] = []
    ended = time.perf_counter() + _SECONDS
    while len(rounds) < _FEWEST_ROUNDS or (len(rounds) < _MOST_ROUNDS and time.perf_counter() < ended):
        times = []
        for session in (whole, parts):
            _repeat(partial(run_ms, session))
            times.append(_repeat(partial(run_ms, session)))
        times.append(_repeat(partial(run_ms, parts, new_source=True)))
        rounds.append([median(each) for each in times])
    every, further, first = np.array(rounds).T
    # The pace of a machine drifts, by 10 % in seconds: each round is measured by its own runs of the whole.
    shares = (max(np.median((first - further) / every), 0), np.median(further / every))
    return Gain(*(float(np.median(every) * share) for share in (1, *shares)))


def _repeat(run: Callable[[], float]) -> list[float]:
    """Milliseconds of a few runs, one behind the other."""
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _SPAN_MS:
        times.append(run())
    return times
