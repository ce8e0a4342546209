"""``posewarp animate``: one picture and a sequence of poses in, a video or a folder of frames out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posewarp.cli.console import few_warnings, progress_bar
from posewarp.cli.options import (
    Device,
    Model,
    Size,
    SourceKeypoints,
    SourceName,
    SourceOrder,
    TargetFrame,
    TargetOrder,
    Threads,
    open_model,
    to_frame,
)
from posewarp.runtime.errors import DataError
from posewarp.runtime.image import read_image
from posewarp.runtime.keypoint_files import read_keypoints
from posewarp.runtime.pipeline import PoseTransfer
from posewarp.runtime.poses import Poses
from posewarp.runtime.video import animate, open_output

app = typer.Typer(add_completion=False)


@app.command("animate")
def command(
    model: Model,
    source: Annotated[Path, typer.Option(help="Picture of the person, any size.")],
    source_keypoints: SourceKeypoints,
    poses: Annotated[
        Path,
        typer.Option(help="Folder of keypoint files, one a frame; or a JSONL file, one frame a line."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Video to write, .mp4; or a folder for numbered PNGs.")
    ],
    fps: Annotated[float, typer.Option(help="Frames per second of the video.")] = 25,
    size: Size = "network",
    batch_size: Annotated[int, typer.Option(min=1, help="Frames that the model is given at once.")] = 1,
    skip_empty: Annotated[
        bool, typer.Option("--skip-empty", help="Leave out poses without a visible keypoint.")
    ] = False,
    target_frame: TargetFrame = None,
    source_order: SourceOrder = None,
    target_order: TargetOrder = None,
    source_name: SourceName = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Re-pose the person of a picture into each pose of a sequence."""
    frame = to_frame(target_frame)
    picture = read_image(source)
    keypoints = read_keypoints(source_keypoints, name=source_name, order=source_order)
    sequence = Poses(poses, order=target_order, skip_empty=skip_empty)
    written = 0
    with (
        few_warnings(),
        open_output(output, fps=fps) as write,
        open_model(model, device=device, threads=threads) as session,
        progress_bar() as progress,
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
