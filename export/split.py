"""One picture, many poses: an ONNX graph cut by what depends on some inputs alone."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from onnx import ModelProto

from posewarp.export.engines.graph import onnx_sha256
from posewarp.export.graphs.graph import MAX_BYTES, inline_functions, load_model, node_id, save_model
from posewarp.export.graphs.inlining import OURS, key_of
from posewarp.export.graphs.warps import find_warps
from posewarp.export.ladder.sample_data import describe, fixed_batch, load_inputs, read_contract
from posewarp.export.precision.emulation import emulate, is_mixed
from posewarp.export.splitting.measure import Gain, count_operations, measure_shapes, time_parts
from posewarp.export.splitting.parts import Cut, cut, make_parts
from posewarp.export.splitting.proof import Difference, prove
from posewarp.export.splitting.sides import Shapes
from posewarp.runtime import command
from posewarp.runtime.contract import Contract, TensorSpec
from posewarp.runtime.errors import ExportError
from posewarp.runtime.files import atomic_write, check_writable
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import SplitSession

__all__ = ["Plan", "SplitReport", "split"]

BATCHES = (1, 3)
# fp16 measures ranges on two runs and judges on two.
SAVED_SAMPLES = 4
POSES = (2, 4, 16, 64)


@dataclass(frozen=True)
class Plan:
    """Where a model is to be cut, and what that saves.

    Attributes:
        by: the inputs that are the source.
        features: what is kept of a source: the cut.
        features_mib: its size, for one source.
        kept_inputs: inputs among ``by`` that the pose part takes again, since they are smaller than what is made of
            them, or it needs them itself.
        source_outputs: results of the whole model that depend on the source alone.
        made_again: how many nodes of the source the pose part runs again: casts, upsamplings and the like.
        operations: multiplications and additions of one run.
    """

    by: tuple[str, ...]
    features: tuple[TensorSpec, ...]
    features_mib: float
    kept_inputs: tuple[str, ...]
    source_outputs: tuple[str, ...]
    made_again: int
    operations: Gain

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def __str__(self) -> str:
        gains = ", ".join(f"{poses}: {self.operations.times(poses):.2f}x" for poses in POSES)
        lines = [
            f"saved per further pose: {self.operations.saved:.1%} of {self.operations.whole / 1e9:.3g} GFLOP; "
            f"poses of one source, by operations: {gains}",
            f"features of a source: {self.features_mib:.2f} MiB",
            *(f"  {spec}" for spec in self.features),
        ]
        if self.kept_inputs:
            lines.append(f"the pose part also takes {', '.join(self.kept_inputs)}")
        if self.source_outputs:
            lines.append(f"the source part alone gives {', '.join(self.source_outputs)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class SplitReport:
    """What was written, and how near it is to the whole.

    Attributes:
        source, pose: the files.
        plan: see ``Plan``.
        parity: of each output.
        batches: at which that was proved.
        times_ms: measured on this machine; None for a file that a CPU does not run as it is.
        data: what inputs these figures come from.
        saved: inputs of the parts that were recorded.
        notes: what a user should know besides.
        seconds: that it all took.
    """

    source: str
    pose: str
    plan: Plan
    parity: tuple[Difference, ...]
    batches: tuple[int, ...]
    times_ms: Gain | None
    data: str
    saved: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> str:
        predicted = {"by_operations": {n: self.plan.operations.times(n) for n in POSES}}
        if self.times_ms:
            predicted["by_time"] = {n: self.times_ms.times(n) for n in POSES}
        return json.dumps({**asdict(self), "predicted_gain": predicted}, indent=1) + "\n"

    def __str__(self) -> str:
        lines = [
            f"{self.source}\n{self.pose}: {self.seconds:.0f} s",
            *(
                f"  {each.output}: differs from the whole by {each.max_abs:.2g} (limit {each.limit:.2g}), "
                f"batch {' and '.join(map(str, self.batches))}, {self.data}"
                for each in self.parity
            ),
        ]
        if self.times_ms:
            times, gains = self.times_ms, ", ".join(f"{n}: {self.times_ms.times(n):.2f}x" for n in POSES)
            lines.append(
                f"  here: whole {times.whole:.1f} ms, source {times.source:.1f}, pose {times.pose:.1f}; "
                f"predicted for poses of one source: {gains}"
            )
            if not times.source:
                lines.append("  the source part's time is lost in noise: measure on a quieter machine")
        return "\n".join(
            [*lines, *(f"  {path}" for path in self.saved), *(f"  {note}" for note in self.notes)]
        )


def split(
    model_path: str | Path,
    by: Sequence[str],
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    save_features: bool = False,
    plan_only: bool = False,
    tell: Callable[[Plan], None] | None = None,
) -> SplitReport | Plan:
    """Cut a model by what depends on some inputs alone, and prove both parts against the whole.

    Args:
        model_path: an ONNX file, of ours or any other, FP32 or mixed, whatever the spelling of its warps.
        by: names of the inputs that many runs have in common.
        output: ``model.onnx``, for ``model.source.onnx`` and ``model.pose.onnx``, replaced if they exist; by default
            beside the model and named after it.
        data: inputs (see sample_data.py); by default the synthetic people, for our contracts only.
        save_features: write inputs of both parts beside them, ``model.source.npz`` and ``model.pose.npz``, for
            commands that want data of a part (``posewarp fp16 model.pose.onnx --data model.pose.npz``).
        plan_only: write nothing, and return the plan.
        tell: called with the plan before anything is written.

    Returns: the report.
    Raises: ExportError if nothing worth keeping depends on these inputs alone, or the model cannot be read, run or
        cut; ParityError if the parts differ from the whole. Then nothing is written.
    """
    started = time.perf_counter()
    path = Path(model_path)
    stem = Path(output) if output is not None else path
    if stem.suffix != ".onnx":
        raise ExportError(f"{stem} is no name for an ONNX file; let it end in .onnx")
    source_path, pose_path = (stem.with_suffix(f".{part}.onnx") for part in ("source", "pose"))
    saved = tuple(p.with_suffix(".npz") for p in (source_path, pose_path)) if save_features else ()
    if not plan_only:
        for written in (source_path, pose_path, *saved):
            check_writable(written, ExportError)
    model = load_model(path)
    contract = read_contract(model)
    _check_inputs(path, contract, by)
    fixed = fixed_batch(contract)
    batches = BATCHES if fixed is None else (fixed,)
    runs = [load_inputs(data, contract, batch=batch)[0] for batch in batches]
    where, plan = _plan(model, by, runs)
    if tell:
        tell(plan)
    if plan_only:
        return plan
    parts = make_parts(where, contract, onnx_sha256(path))
    mixed = is_mixed(where.model)
    runs_here = not mixed and not _lacks_body(model)
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        files = [Path(folder) / f"{name}.onnx" for name in ("whole", "source", "pose")]
        for part, file in zip((model, *parts), files, strict=True):
            save_model(part if runs_here else emulate(part), file)
        with Session.open(files[0]) as whole, SplitSession.open(*files[1:]) as both:
            parity = prove(whole, both, runs)
            times = time_parts(whole, both.source, both.pose, runs[0]) if runs_here else None
            if save_features:
                recorded = _record(both, load_inputs(data, contract, count=SAVED_SAMPLES))
    _write(parts, (source_path, pose_path))
    for file, arrays in zip(saved, recorded if save_features else (), strict=True):
        with atomic_write(file, ExportError) as temporary:
            np.savez(temporary, **arrays)
    return SplitReport(
        source=str(source_path),
        pose=str(pose_path),
        plan=plan,
        parity=parity,
        batches=batches,
        times_ms=times,
        data=describe(data),
        saved=tuple(map(str, saved)),
        notes=() if runs_here else (_why_emulated(mixed),),
        seconds=time.perf_counter() - started,
    )


def _check_inputs(path: Path, contract: Contract, by: Sequence[str]) -> None:
    names = [spec.name for spec in contract.inputs]
    unknown = [name for name in by if name not in names]
    if unknown or not by:
        raise ExportError(
            f"{path} has no input {', '.join(unknown) or 'of no name'}; its inputs are {', '.join(names)}",
            got=tuple(by),
            expected=names,
        )
    if set(by) == set(names):
        raise ExportError(
            f"all inputs of {path} are named, {', '.join(names)}; leave out those that differ from run to run"
        )


def _plan(model: ModelProto, by: Sequence[str], runs: list[dict[str, np.ndarray]]) -> tuple[Cut, Plan]:
    flat = inline_functions(model)
    runnable = emulate(flat)
    one, *three = (measure_shapes(runnable, feeds) for feeds in runs)
    shapes = Shapes.of(flat, one, three[0] if three else {})
    where = cut(flat, shapes, by)
    operations = count_operations(where.model, runnable, one, runs[0])
    run = [node for node in where.model.graph.node if where.depends[node.output[0]]]
    whole = sum(operations[node_id(node)] for node in run)
    source = sum(operations[node_id(node)] for node in run if where.is_source(node))
    return where, Plan(
        by=tuple(by),
        features=tuple(where.spec(name) for name in where.features),
        features_mib=sum(shapes.bytes_of(name) for name in where.features) / 2**20,
        kept_inputs=where.kept,
        source_outputs=where.own,
        made_again=len(where.again),
        operations=Gain(whole, source, whole - source),
    )


def _lacks_body(model: ModelProto) -> bool:
    """Whether a warp is our node without its body, which ONNX Runtime runs only with a plugin."""
    spelled = any(warp.spelling == "mixed" for warp in find_warps(model))
    return spelled and OURS not in {key_of(function) for function in model.functions}


def _why_emulated(mixed: bool) -> str:
    if mixed:
        return "proved by emulation in FP32 that rounds as FP16 does (see docs/parity.md); not timed: a CPU has no FP16"
    return "proved with the warps as GridSample, since ONNX Runtime has no plugin node; not timed"


def _record(parts: SplitSession, runs: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Inputs of the source and of the pose part, samples along the first axis."""
    specs = (*parts.source.contract.inputs, *parts.pose.contract.inputs)
    stacked = {spec.name for spec in specs if spec.shape} - parts.shared
    recorded: list[list[dict[str, np.ndarray]]] = [[], []]
    for feeds in runs:
        taken = {spec.name: feeds[spec.name] for spec in parts.source.contract.inputs}
        features = parts.source.run(taken)
        recorded[0].append(taken)
        recorded[1].append(
            {spec.name: features.get(spec.name, feeds.get(spec.name)) for spec in parts.pose.contract.inputs}
        )
    return [
        {
            name: np.concatenate([one[name] for one in each]) if name in stacked else each[0][name]
            for name in each[0]
        }
        for each in recorded
    ]


def _write(parts: tuple[ModelProto, ModelProto], paths: tuple[Path, Path]) -> None:
    """Both files, or neither; both are whole before either gets its name, so that older ones stay till then."""
    for part, path in zip(parts, paths, strict=True):
        if part.ByteSize() > MAX_BYTES:
            raise ExportError(f"{path} would be larger than 2 GiB, which one ONNX file cannot be")
    with atomic_write(paths[0], ExportError) as source, atomic_write(paths[1], ExportError) as pose:
        onnx.save(parts[0], source)
        onnx.save(parts[1], pose)


app = typer.Typer(add_completion=False)


@app.command("split")
def _command(
    model: Annotated[Path, typer.Argument(help="An ONNX file, from posewarp export or fp16, or any other.")],
    by: Annotated[
        str, typer.Option(help="Inputs that many runs share, such as source_image,source_keypoints.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="NAME.onnx, for NAME.source.onnx and NAME.pose.onnx; by default the model's.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Inputs for the proof: synthetic (default for our contracts), a folder of pictures and keypoints, "
            ".npz, Polygraphy's .json, or random."
        ),
    ] = None,
    save_features: Annotated[
        bool,
        typer.Option("--save-features", help="Write inputs of both parts too, as .npz for --data of fp16."),
    ] = False,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only say where the cut would be and what it saves.")
    ] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None,
) -> None:
    """Cut a model in two: what depends on some inputs alone is run once for many runs of the rest."""
    if json_path:
        check_writable(json_path, ExportError)
    names = [name.strip() for name in by.split(",") if name.strip()]
    report = split(
        model,
        names,
        output,
        data=data,
        save_features=save_features,
        plan_only=plan_only,
        tell=lambda plan: print(plan, flush=True),
    )
    if isinstance(report, SplitReport):
        print(report)
    if json_path:
        with atomic_write(json_path, ExportError) as temporary:
            temporary.write_text(report.to_json())


if __name__ == "__main__":
    command.main(app)
