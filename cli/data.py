"""``posewarp data``: check a data set on disk, or write one of synthetic people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from posewarp.cli.console import progress_bar
from posewarp.cli.options import to_frame, to_parsing
from posewarp.models.data.check import Report, check
from posewarp.models.data.faults import KINDS
from posewarp.runtime.files import atomic_write, check_outputs

SHOWN = 3  # faults of each kind; --json has all
app = typer.Typer(add_completion=False, no_args_is_help=True)
Layout = Literal["deepfashion", "market"]


@app.callback()
def _root() -> None:
    """Data sets on disk: check one, or write one of synthetic people."""


@app.command("check")
def check_command(
    root: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    split: Annotated[Literal["train", "test", "both"], typer.Option()] = "both",
    layout: Annotated[Layout | None, typer.Option(help="If the file names do not tell.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of parsing maps.")] = None,
    parsing: Annotated[
        str | None,
        typer.Option(
            help="Of --masks: adgan8 (if left out), casd8, pise8, cihp20, lip20, or garment labels such as 3,4,5."
        ),
    ] = None,
    keypoint_frame: Annotated[
        str | None,
        typer.Option(metavar="HEIGHTxWIDTH", help="Frame of the keypoints, if the files do not tell."),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all faults here.")] = None,
) -> None:
    """Name every missing, broken or suspicious file of a data set. Exit code 1 if there is one."""
    check_outputs({"--json": json_path})
    with _progress() as progress:
        report = check(
            root,
            ("train", "test") if split == "both" else (split,),
            layout=layout,
            masks=masks,
            parsing=to_parsing(parsing, masks),
            keypoint_frame=to_frame(keypoint_frame, "--keypoint-frame"),
            progress=progress,
        )
    _print(report)
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(_as_json(root, report), indent=1) + "\n", "utf-8")
    if report.faults:
        raise typer.Exit(1)


@app.command("synthetic")
def synthetic_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    layout: Annotated[Layout, typer.Option()] = "deepfashion",
    train: Annotated[int, typer.Option(min=1, help="Pairs; each person makes two.")] = 1000,
    test: Annotated[int, typer.Option(min=1, help="Pairs; each person makes two.")] = 100,
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Of the pictures; the layout's by default.")
    ] = None,
    masks: Annotated[
        Literal["adgan8", "casd8", "pise8", "cihp20", "lip20"] | None,
        typer.Option(help="Parsing maps to write."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the people.")] = 0,
) -> None:
    """Write a data set of synthetic people, whole or not at all."""
    from posewarp.models.data.tree import write_tree  # brings OpenCV, which a check does not need

    with _progress() as progress:
        maps = write_tree(
            output,
            layout,
            train=train,
            test=test,
            size=to_frame(size, "--size"),
            masks=masks,
            seed=seed,
            progress=progress,
        )
    print(f"wrote {train} and {test} pairs to {output}" + (f", parsing maps to {maps}" if maps else ""))


def _print(report: Report) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for split, counts in report.counts.items():
        console.print(f"{report.layout}, {split}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    found = report.by_kind()
    for kind, faults in found.items():
        console.print(f"{kind}: {len(faults)} ({KINDS[kind]})")
        for fault in faults[:SHOWN]:
            console.print(f"  {fault}")
        if len(faults) > SHOWN:
            console.print(f"  and {len(faults) - SHOWN} more")
    if found:
        console.print(f"{_counted(len(report.faults), 'fault')} of {_counted(len(found), 'kind')}")
    else:
        console.print(f"no fault of {len(KINDS)} kinds")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _as_json(root: Path, report: Report) -> dict[str, object]:
    found = report.by_kind()
    return {
        "root": str(root),
        "layout": report.layout,
        "splits": report.counts,
        "fault_counts": {kind: len(faults) for kind, faults in found.items()},
        "faults": {kind: [asdict(fault) for fault in faults] for kind, faults in found.items()},
    }


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each thing that is counted, on stderr."""
    with progress_bar() as bars:
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield show
