"""How far two spellings of one graph move the positions at which their warps sample, in pixels.

Two figures a warp. *Same flow*: what computes the grid is cut out of both graphs and fed the same values, rounded to
FP16 where a layer gives them; what differs then is the coordinate arithmetic alone, and should be nothing. *Own flow*:
both graphs run whole, so each flow's own error is part of it. On a GPU the second is run in the types that it has; the
first is always emulated.

A grid value g means the pixel (g + 1) / 2 * (W - 1) with align_corners, else ((g + 1) * W - 1) / 2, of the sampled
features: a difference counts (W - 1) / 2 or W / 2 times in x, and alike in y and z. Inside the frame is |g| <= 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from posewarp.export.graphs.coordinates import coordinate_slices
from posewarp.export.graphs.execution import open_model
from posewarp.export.graphs.graph import bodies, fresh_name, inline_functions
from posewarp.export.graphs.warps import Warp, find_warps
from posewarp.export.ladder.measures import distance
from posewarp.export.ladder.measures import p999 as p999_of
from posewarp.export.precision.emulation import emulate, is_mixed

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class WarpDrift:
    """Movement of one warp's positions, in pixels of what it samples; None where it could not be measured.

    Attributes:
        warp: name of the warp's result.
        same_flow_p999_px, same_flow_max_px: both graphs' coordinate arithmetic, fed the same FP16 values.
        own_flow_p999_px: each graph whole; the 99.9th percentile of the positions inside the frame.
        own_flow_max_px: the same, of all positions.
        note: why something was not measured.
    """

    warp: str
    same_flow_p999_px: float | None = None
    same_flow_max_px: float | None = None
    own_flow_p999_px: float | None = None
    own_flow_max_px: float | None = None
    note: str = ""


def coordinate_drift(
    reference: ModelProto,
    converted: ModelProto,
    feeds: Feeds | Sequence[Feeds],
    device: str = "cpu",
) -> list[WarpDrift]:
    """Measure every warp of ``reference`` in ``converted``; a mixed-precision graph is run emulated.

    Warps are matched by the name of their result, else, where both graphs have as many, by their order; a warp
    that the other graph spells as gathers, by the name of its grid.

    Args:
        reference: FP32, its warps GridSample or our node.
        converted: the same network, spelled or typed in another way.
        feeds: real inputs of both, by name: of one run, or of several.
        device: ``cuda`` to run ``converted`` there, not emulated.

    Returns: one entry a warp; none if the reference has no warp.
    Raises: BackendError if a graph does not run.
    """
    runs = [feeds] if isinstance(feeds, Mapping) else list(feeds)
    reference, typed = inline_functions(reference), inline_functions(converted)
    emulated = emulate(typed) if is_mixed(typed) else typed
    runnable = emulated if device == "cpu" else typed
    heads = {each.warp.output: each.heads for each in coordinate_slices(reference)}
    pairs = [
        _Pair(warp, partner, reference, emulated, heads[warp.output])
        for warp, partner in _matched(find_warps(reference), find_warps(typed))
    ]
    sized, sizes = _with_shapes(reference, [pair.warp.features for pair in pairs if pair.measurable])
    for feed in runs if sizes else ():
        values = tensors_of(sized, feed, {*sizes.values(), *(name for pair in pairs for name in pair.wanted)})
        grids = {pair.partner.grid for pair in pairs if pair.measurable}
        theirs = tensors_of(runnable, feed, grids, device)
        for pair in pairs:
            if pair.measurable:
                pair.measure(feed, values, theirs, values[sizes[pair.warp.features]])
    return [pair.drift() for pair in pairs]


class _Pair:
    """One warp in both graphs, and the differences found so far."""

    def __init__(
        self,
        warp: Warp,
        partner: Warp | None,
        reference: ModelProto,
        converted: ModelProto,
        heads: tuple[str, ...],
    ):
        self.warp, self.partner, self.note = warp, partner or warp, ""
        self._models = reference, converted
        self._same: list[np.ndarray] = []
        self._inside: list[np.ndarray] = []
        self._all: list[np.ndarray] = []
        self.wanted: list[str] = []  # of the reference's tensors
        made = _made(reference)
        if not {warp.grid, warp.features} <= made or self.partner.grid not in _made(converted):
            self.note = "its grid or features are made inside the body of an If, Loop or Scan"
            if partner is None:
                self.note = f"the other graph has no such warp, and no tensor {warp.grid!r}"
            return
        reached = _slice(reference, warp.grid, made & set(heads), at_sizes=True)[1].values()
        # What both slices are fed besides the inputs: what layers give, and sizes.
        self.stops = [name for name in reached if not _is_input(reference, name)]
        self.wanted = [warp.grid, *self.stops]
        theirs = _slice(converted, self.partner.grid, set(self.stops))[1].values()
        self.apart = [head for head in heads if head not in reached or head not in theirs]
        if self.apart:
            self.note = f"same flow not measured: the two grids do not both come from {self.apart[0]!r}"
        elif partner is None:
            self.note = f"the other graph has no such warp node, so its tensor {warp.grid!r} is compared"

    @property
    def measurable(self) -> bool:
        return bool(self.wanted)

    def measure(self, feed: Feeds, values: Feeds, theirs: Feeds, shape: np.ndarray) -> None:
        """Take the differences of one run.

        Args:
            feed: the run's inputs.
            values: tensors of the reference.
            theirs: grids of the other graph.
            shape: of the features, (N, C, [D,] H, W).
        """
        sizes = shape[:1:-1].astype(np.float64)  # x, y, z: W, H, D
        pixels = (sizes - 1) / 2 if self.warp.align_corners else sizes / 2
        expected = values[self.warp.grid]
        moved = distance(theirs[self.partner.grid], expected) * pixels
        self._all.append(moved.ravel())
        self._inside.append(moved[(np.abs(expected) <= 1).all(-1)].ravel())
        if self.apart:
            return
        held = {name: _to_half(values[name]) for name in self.stops}
        grids = [
            _run_slice(model, grid, held, feed)
            for model, grid in zip(self._models, (self.warp.grid, self.partner.grid), strict=True)
        ]
        self._same.append((distance(*grids) * pixels).ravel())

    def drift(self) -> WarpDrift:
        def p999(parts: list[np.ndarray]) -> float | None:
            return p999_of(np.concatenate(parts)) if sum(map(len, parts)) else None

        def largest(parts: list[np.ndarray]) -> float | None:
            return float(np.concatenate(parts).max(initial=0)) if parts else None

        return WarpDrift(
            self.warp.output,
            p999(self._same),
            largest(self._same),
            p999(self._inside),
            largest(self._all),
            self.note,
        )


def _matched(warps: list[Warp], others: list[Warp]) -> list[tuple[Warp, Warp | None]]:
    named = {warp.output: warp for warp in others}
    if not all(warp.output in named for warp in warps) and len(warps) == len(others):
        return list(zip(warps, others, strict=True))
    return [(warp, named.get(warp.output)) for warp in warps]


def _to_half(array: np.ndarray) -> np.ndarray:
    """Floats with the values that FP16 has, sizes as they are."""
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(array.dtype)


# Parts of a graph


def _is_input(model: ModelProto, name: str) -> bool:
    return any(value.name == name for value in model.graph.input)


def _made(model: ModelProto) -> set[str]:
    """Tensors of the main graph."""
    given = {value.name for value in model.graph.input}
    return given | {name for node in model.graph.node for name in node.output}


def _taken(node: NodeProto) -> list[str]:
    """What a node takes, from within its bodies too."""
    inner = (name for body in bodies(node) for each in body.node for name in _taken(each))
    return [name for name in (*node.input, *inner) if name]


def _slice(
    model: ModelProto, target: str, stops: set[str], at_sizes: bool = False
) -> tuple[list[NodeProto], dict[str, str]]:
    """The nodes that compute ``target``, and where the walk back ended: {tensor: the stop that it is}.

    It ends at ``stops``, or what is cast from the same tensor, at the model's inputs, and with ``at_sizes`` where
    sizes are read, so that a size needs no features.
    """
    makers = {name: node for node in model.graph.node for name in node.output}

    def root(name: str) -> str:
        while name in makers and makers[name].op_type == "Cast":
            name = makers[name].input[0]
        return name

    roots = {root(name): name for name in stops}
    kept, ends, seen, waiting = set(), {}, set(), [target]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        maker = makers.get(name)
        if root(name) in roots:
            ends[name] = roots[root(name)]
        elif _is_input(model, name) or (
            at_sizes and maker is not None and maker.op_type in ("Shape", "Size")
        ):
            ends[name] = name
        elif maker is not None:
            kept.update(maker.output)
            waiting.extend(_taken(maker))
    return [node for node in model.graph.node if kept & set(node.output)], ends


def _run_slice(model: ModelProto, target: str, held: Feeds, feed: Feeds) -> np.ndarray:
    """Compute ``target`` from tensors at which they are held, and from the inputs."""
    nodes, ends = _slice(model, target, set(held))
    values = {name: held[stop] if stop in held else feed[stop] for name, stop in ends.items()}
    if target in ends:
        return values[target]
    used = {name for node in nodes for name in _taken(node)}
    graph = helper.make_graph(
        nodes,
        "slice",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in values.items()
        ],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, None)],
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    part = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
    with open_model(part) as session:
        return session.run(values)[target]


def _with_shapes(model: ModelProto, tensors: list[str]) -> tuple[ModelProto, dict[str, str]]:
    """A model that knows the shapes of some of its tensors, and the names of these."""
    sized = ModelProto()
    sized.CopyFrom(model)
    taken = _made(model)
    shapes = {name: fresh_name(f"{name}_shape", taken) for name in tensors}
    sized.graph.node.extend(helper.make_node("Shape", [name], [shape]) for name, shape in shapes.items())
    return sized, shapes


def tensors_of(model: ModelProto, feed: Feeds, names: set[str], device: str = "cpu") -> dict[str, np.ndarray]:
    """Run a model, on the CPU one of FP32, for some of its tensors, by name; its inputs may be among them.

    Raises: BackendError if it does not run; ContractError if there is no such tensor.
    """
    given = {name: feed[name] for name in names if name in feed}
    extra = sorted(names - set(given))
    with open_model(model, extra_outputs=extra, device=device) as session:
        outputs = session.run(feed)
    return given | {name: outputs[name] for name in extra}
