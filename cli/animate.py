"""``posewarp animate``: one picture and a sequence of poses in, a video or a folder of frames out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from posewarp.cli.transfer import Order, to_frame
from posewarp.runtime.errors import DataError, PosewarpWarning
from posewarp.runtime.image import read_image
from posewarp.runtime.keypoint_files import read_keypoints
from posewarp.runtime.pipeline import PoseTransfer
from posewarp.runtime.poses import Poses
from posewarp.runtime.session import Session
from posewarp.runtime.video import animate, open_output

app = typer.Typer(add_completion=False)


@app.command("animate")
def command(
    model: Annotated[Path, typer.Argument(help="The .onnx file that posewarp export wrote, or an engine.")],
    source: Annotated[Path, typer.Option(help="Picture of the person, any size.")],
    source_keypoints: Annotated[
        Path, typer.Option(help="Keypoints of the person, in pixels of the picture.")
    ],
    poses: Annotated[
        Path,
        typer.Option(help="Folder of keypoint files, one a frame; or a JSONL file, one frame a line."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Video to write, .mp4; or a folder for numbered PNGs.")
    ],
    fps: Annotated[float, typer.Option(help="Frames per second of the video.")] = 25,
    size: Annotated[
        Literal["network", "source"], typer.Option(help="Of the frames: the network's, or the picture's own.")
    ] = "network",
    batch_size: Annotated[int, typer.Option(min=1, help="Frames that the model is given at once.")] = 1,
    skip_empty: Annotated[
        bool, typer.Option("--skip-empty", help="Leave out poses without a visible keypoint.")
    ] = False,
    target_frame: Annotated[
        str | None,
        typer.Option(metavar="HEIGHTxWIDTH", help="Frame of the poses, if it is not the picture's."),
    ] = None,
    source_order: Annotated[
        Order | None,
        typer.Option(help="What the rows of the source keypoints are, if the file does not tell."),
    ] = None,
    target_order: Annotated[Order | None, typer.Option(help="The same of the poses.")] = None,
    source_name: Annotated[str | None, typer.Option(help="Row of a csv of source keypoints.")] = None,
    device: Annotated[
        Literal["cpu", "cuda", "auto"] | None,
        typer.Option(help="By default the CPU, and for an engine its GPU."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default all that are allowed.")
    ] = None,
) -> None:
    """Re-pose the person of a picture into each pose of a sequence."""
    frame = None if target_frame is None else to_frame(target_frame)
    picture = read_image(source)
    keypoints = read_keypoints(source_keypoints, name=source_name, order=source_order)
    sequence = Poses(poses, order=target_order, skip_empty=skip_empty)
    written = 0
    with (
        _few_warnings(),
        open_output(output, fps=fps) as write,
        Session.open(model, device=device, threads=threads) as session,
        _progress() as progress,
    ):
        frames = animate(
            PoseTransfer(session),
            picture,
            keypoints,
            sequence,
            target_frame=frame,
            size=size,
            batch_size=batch_size,
        )
        task = progress.add_task("frames", total=sequence.total)
        for written, generated in enumerate(frames, 1):
            write(generated)
            progress.update(task, completed=written + sequence.skipped)
        if not written:
            raise DataError(f"none of the {sequence.skipped} poses of {poses} has a visible keypoint")
    skipped = f", {sequence.skipped} poses without a visible keypoint left out" if sequence.skipped else ""
    print(f"wrote {output}: {written} frames{skipped}")


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def _few_warnings() -> Iterator[None]:
    """Show the first warning of ours and count the rest, since what one frame has thousands may have."""
    with warnings.catch_warnings():
        # Neither does Python then keep each text to know it again.
        warnings.simplefilter("always", PosewarpWarning)
        show, count = warnings.showwarning, 0

        def show_first(message: Warning | str, category: type[Warning], *place: object) -> None:
            nonlocal count
            count += issubclass(category, PosewarpWarning)
            if count < 2 or not issubclass(category, PosewarpWarning):
                show(message, category, *place)

        warnings.showwarning = show_first
        try:
            yield
        finally:
            if count > 1:
                show(f"{count - 1} more warnings, not shown", PosewarpWarning, "", 0)
