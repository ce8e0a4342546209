"""The whole ladder, from PyTorch to everything here that can run a network: do the pixels stay the same?

    python benchmarks/parity.py                                     the demo model
    python benchmarks/parity.py mine.safetensors
    python benchmarks/parity.py mine.onnx mine.fp16.onnx mine.engine --data inputs.npz

Each rung runs the same held-out inputs, at batches 1, 3 and 8 and at two sizes, and is compared with PyTorch in FP32
(see docs/parity.md). Written into the output folder: parity.json, every row, and parity.html, with pictures of the
differences. One of our checkpoints is measured in both contracts: pictures at its own size, as it is exported by
default, and tensors at any size.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from posewarp.benchmarks.harness.folders import output_folder
from posewarp.benchmarks.harness.machine import machine, surroundings
from posewarp.benchmarks.harness.networks import MADE, Network, find_networks
from posewarp.benchmarks.ladder import report
from posewarp.benchmarks.ladder.measure import measure, steps_of
from posewarp.benchmarks.ladder.rows import Run
from posewarp.benchmarks.ladder.rungs import Rung, rungs_of
from posewarp.export.ladder import sample_data
from posewarp.export.to_onnx import to_onnx
from posewarp.runtime import command
from posewarp.runtime.errors import ParityError
from posewarp.runtime.files import atomic_write, check_writable


def parity(
    files: Sequence[str] = (),
    *,
    data: str | None = None,
    batches: Sequence[int] | None = None,
    sizes: Sequence[Mapping[str, int]] | None = None,
    choose: Callable[..., Sequence[Rung]] = rungs_of,
    tell: Callable[[str], None] = lambda text: None,
) -> Run:
    """Measure every rung of every network.

    Args:
        files: names of ``MADE``, checkpoints, ``file.py:function``, ONNX files, engines; those of one name up to the
            first dot are one network. By default demo.
        data: inputs (see sample_data.py).
        batches, sizes: see ``steps_of``.
        choose: the rungs of a network, as ``rungs_of``, which gives all.
        tell: called with what goes on.

    Returns: the rows, and pictures of the differences. A rung that fails or cannot run is a row.
    Raises: DataError if there are no such files or inputs; ExportError and CheckpointError if there is nothing to
        compare with.
    """
    started = time.perf_counter()
    run = Run(machine(), surroundings(), sample_data.describe(data))
    with tempfile.TemporaryDirectory(prefix="posewarp-") as name:
        folder = Path(name)
        tell("exporting")
        for network in find_networks(files or ["demo"], folder, data):
            for place, each in enumerate((network, *_in_tensors(network, folder, data))):
                within = folder / f"{network.name}-{place}"
                within.mkdir()
                steps, notes = steps_of(each.contract, data, batches, sizes)
                run.notes += notes
                rungs = choose(each, [step.feeds for step in steps], within, data)
                measure(each, rungs, steps, run, within, tell)
    run.seconds = time.perf_counter() - started
    return run


def _in_tensors(network: Network, folder: Path, data: str | None) -> list[Network]:
    """A checkpoint that was exported here in its other contract too, at any height and width."""
    if not network.torch or ".py:" in network.torch or network.onnx.parent != folder:
        return []
    within = folder / f"{network.name}.tensors"
    within.mkdir()
    path = (
        within / f"{Path(network.torch).name.partition('.')[0]}.onnx"
    )  # the name that makes them one network
    to_onnx(network.torch, path, io="tensors", dynamic_size=True)
    (found,) = find_networks([network.torch, str(path)], within, data)
    return [dataclasses.replace(found, name=network.name)]


def _sizes(texts: Sequence[str] | None) -> list[dict[str, int]] | None:
    """``height=160,width=96``, for each."""
    sizes = []
    for text in texts or ():
        pairs = [part.partition("=") for part in text.split(",")]
        if not all(axis and size.isdecimal() and int(size) for axis, _, size in pairs):
            raise typer.BadParameter(
                f"--size {text}: expected axes with their sizes, such as height=160,width=96"
            )
        sizes.append({axis: int(size) for axis, _, size in pairs})
    return sizes or None


app = typer.Typer(add_completion=False)


@app.command("parity")
def _command(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE...]",
            help=f"{', '.join(MADE)}; checkpoints, file.py:function, ONNX files, engines. Those of one name up "
            "to the first dot are one network. By default demo.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for parity.json and parity.html.")
    ] = Path("parity-out"),
    data: Annotated[
        str | None,
        typer.Option(help="synthetic (our contracts' default), random, .npz, Polygraphy .json, or a folder."),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Repeatable; 1, 3 and 8 by default.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=N,...", help="Of dynamic axes, such as height=160,width=96; repeatable."),
    ] = None,
) -> None:
    """Compare everything that can run a network here with PyTorch; exit with 1 if a row is beyond its limit."""
    sizes = _sizes(size)
    json_path, page = output / "parity.json", output / "parity.html"
    with output_folder(output), Console(stderr=True).status("exporting") as status:
        check_writable(json_path)
        run = parity(files or (), data=data, batches=batch_size, sizes=sizes, tell=status.update)
    console = Console()
    report.print_report(run, console if console.width >= report.WIDTH else Console(width=report.WIDTH))
    for path, text in (
        (json_path, json.dumps(run.to_dict(), indent=1, allow_nan=False) + "\n"),
        (page, report.to_html(run)),
    ):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    console.print(f"written: {json_path}, {page}", highlight=False, markup=False, soft_wrap=True)
    if failed := run.of_status("failed"):
        raise ParityError("; ".join(f"{row.label}: {row.failures[0]}" for row in failed))
    if not run.of_status("passed"):
        raise ParityError("nothing was executed, so nothing has passed")


if __name__ == "__main__":
    command.main(app)
