"""Poses of one source through the two parts of ``posewarp split``, beside as many runs of the whole.

    python benchmarks/many_poses.py model.onnx --by source_image,source_keypoints
    python benchmarks/many_poses.py theirs.onnx --by source --data inputs.npz --poses 16 --json out.json

Every output is compared before anything is timed. Each round runs all poses through both, in turns as to which is
first, the features forgotten before; the gain is the ratio of medians with its paired 95 % interval, beside what
``posewarp split`` predicted before.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from posewarp.benchmarks.harness.machine import machine
from posewarp.benchmarks.harness.statistics import paired_ratio
from posewarp.export.ladder.sample_data import load_inputs
from posewarp.export.split import split
from posewarp.export.splitting.proof import compare
from posewarp.runtime import command
from posewarp.runtime.errors import ExportError
from posewarp.runtime.files import atomic_write, check_writable
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import SplitSession


def measure(
    model: Path, by: list[str], data: str | None = None, poses: int = 16, rounds: int = 20
) -> dict[str, object]:
    """Split a model, and time ``poses`` poses of one source.

    Returns: plain JSON: ``gain`` with ``low`` and ``high``, ``predicted_by_time``, ``predicted_by_operations``, the
        rounds' times and the machine.
    Raises: as ``split``; ParityError if an output of any pose differs; ExportError for a model that a CPU emulates.
    """
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        report = split(model, by, Path(folder) / "model.onnx", data=data)
        if report.times_ms is None:
            raise ExportError(f"{model} cannot be timed here: {report.notes[0]}")
        with Session.open(model) as whole, SplitSession.open(report.source, report.pose) as parts:
            samples = load_inputs(data, whole.contract, count=poses)
            shared = {name: samples[0][name] for name in by}
            feeds = [{**samples[i % len(samples)], **shared} for i in range(poses)]
            for each in feeds:
                compare(parts.run(each), whole.run(each), batch=1)
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
        "predicted_by_time": report.times_ms.times(poses),
        "predicted_by_operations": report.plan.operations.times(poses),
        "whole_ms": times[whole],
        "parts_ms": times[parts],
        "machine": machine(),
    }


app = typer.Typer(add_completion=False)


@app.command()
def _command(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    by: Annotated[str, typer.Option(help="Inputs that all poses share.")],
    data: Annotated[str | None, typer.Option(help="As for posewarp split.")] = None,
    poses: Annotated[int, typer.Option(min=1)] = 16,
    rounds: Annotated[int, typer.Option(min=4)] = 20,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here too.")] = None,
) -> None:
    """Time poses of one source in two parts, beside the whole."""
    if json_path:
        check_writable(json_path, ExportError)
    result = measure(model, by.split(","), data, poses, rounds)
    inside = result["low"] <= result["predicted_by_time"] <= result["high"]
    print(
        f"{result['model']}: {poses} poses of one source {result['gain']:.2f}x "
        f"({result['low']:.2f} to {result['high']:.2f}, paired 95 %)\n"
        f"  predicted by time {result['predicted_by_time']:.2f}x: {'inside' if inside else 'outside'}; "
        f"by operations {result['predicted_by_operations']:.2f}x"
    )
    if json_path:
        with atomic_write(json_path, ExportError) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    command.main(app)
