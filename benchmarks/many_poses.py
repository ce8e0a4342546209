"""Poses of one source through the two parts of ``posewarp split``, beside as many runs of the whole.

    python benchmarks/many_poses.py model.onnx --by source_image,source_keypoints
    python benchmarks/many_poses.py theirs.onnx --by source --data inputs.npz --poses 16 --json out.json
    python benchmarks/many_poses.py model.onnx --by source_image,source_keypoints --backend cpu

Every output is compared before anything is timed. Each round runs all poses through both, in turns as to which is
first, the features forgotten before; the gain is the ratio of medians with its paired 95 % interval, beside what was
predicted before: by ``posewarp split``, or with ``--backend cpu``, where the whole and both parts are built for CPUs
first, in the same way from single runs of what was built.
"""

from __future__ import annotations

import json
import tempfile
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from posewarp.benchmarks.harness.machine import machine
from posewarp.benchmarks.harness.statistics import paired_ratio
from posewarp.export.graphs.convolutions import use_winograd
from posewarp.export.graphs.graph import inline_functions, load_model
from posewarp.export.graphs.narrow import widen_narrow
from posewarp.export.ladder.sample_data import load_inputs
from posewarp.export.split import split
from posewarp.export.splitting.measure import time_parts
from posewarp.export.splitting.proof import compare
from posewarp.export.to_cpu import SUFFIX, to_cpu
from posewarp.runtime import command
from posewarp.runtime.errors import ExportError
from posewarp.runtime.files import atomic_write, check_writable
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import SplitSession


class Backend(str, Enum):
    """What a model and its parts are built for before they are run."""

    CPU = "cpu"


def measure(
    model: Path,
    by: list[str],
    data: str | None = None,
    poses: int = 16,
    rounds: int = 20,
    backend: Backend | None = None,
) -> dict[str, object]:
    """Split a model, and time ``poses`` poses of one source.

    Returns: plain JSON: ``gain`` with ``low`` and ``high``, ``predicted_by_time``, ``predicted_by_operations``, the
        rounds' times, ``files`` with what was made of the whole, the source and the pose part, and the machine.
    Raises: as ``split`` and ``to_cpu``; ParityError if an output of any pose differs; ExportError for a model that a
        CPU emulates.
    """
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        report = split(model, by, Path(folder) / "model.onnx", data=data, save_features=backend is not None)
        if report.times_ms is None:
            raise ExportError(f"{model} cannot be timed here: {report.notes[0]}")
        files = [str(model), report.source, report.pose]
        if backend:
            files = [_built(file, folder, of) for file, of in zip(files, (data, *report.saved), strict=True)]
        with Session.open(files[0]) as whole, SplitSession.open(*files[1:]) as parts:
            samples = load_inputs(data, whole.contract, count=poses)
            shared = {name: samples[0][name] for name in by}
            feeds = [{**samples[i % len(samples)], **shared} for i in range(poses)]
            for each in feeds:
                compare(parts.run(each), whole.run(each), batch=1)
            predicted = time_parts(whole, parts.source, parts.pose, feeds[0]) if backend else report.times_ms
            times: dict[Session | SplitSession, list[float]] = {whole: [], parts: []}
            for turn in range(rounds):
                for session in (whole, parts) if turn % 2 else (parts, whole):
                    parts.cache.clear()
                    started = time.perf_counter()
                    for each in feeds:
                        session.run(each)
                    times[session].append(1e3 * (time.perf_counter() - started))
    gain = paired_ratio(times[whole], times[parts])
    return {
        "model": model.name,
        "poses": poses,
        "gain": gain.value,
        "low": gain.low,
        "high": gain.high,
        "predicted_by_time": predicted.times(poses),
        "predicted_by_operations": report.plan.operations.times(poses),
        "whole_ms": times[whole],
        "parts_ms": times[parts],
        "files": [Path(file).name for file in files],
        "machine": machine(),
    }


def _built(file: str, folder: str, data: str | None) -> str:
    """The file for CPUs in the folder, or the one given if no convolution of it has a faster form."""
    flat = inline_functions(load_model(file))
    if not any(rewrite(flat)[1] for rewrite in (use_winograd, widen_narrow)):
        return file
    return to_cpu(file, Path(folder) / Path(file).with_suffix(SUFFIX).name, data=data).path


app = typer.Typer(add_completion=False)


@app.command()
def _command(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    by: Annotated[str, typer.Option(help="Inputs that all poses share.")],
    data: Annotated[str | None, typer.Option(help="As for posewarp split.")] = None,
    poses: Annotated[int, typer.Option(min=1)] = 16,
    rounds: Annotated[int, typer.Option(min=4)] = 20,
    backend: Annotated[
        Backend | None, typer.Option(help="Build the model and its parts first, as posewarp build does.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here too.")] = None,
) -> None:
    """Time poses of one source in two parts, beside the whole."""
    if json_path:
        check_writable(json_path, ExportError)
    result = measure(model, by.split(","), data, poses, rounds, backend)
    inside = result["low"] <= result["predicted_by_time"] <= result["high"]
    print(
        f"{result['model']}: {poses} poses of one source {result['gain']:.2f}x "
        f"({result['low']:.2f} to {result['high']:.2f}, paired 95 %)\n"
        f"  predicted by time {result['predicted_by_time']:.2f}x: {'inside' if inside else 'outside'}; "
        f"by operations {result['predicted_by_operations']:.2f}x\n"
        f"  run: {', '.join(result['files'])}"
    )
    if json_path:
        with atomic_write(json_path, ExportError) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    command.main(app)
