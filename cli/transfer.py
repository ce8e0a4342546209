"""``posewarp transfer``: picture and keypoint files in, the picture in the new pose out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from posewarp.runtime.draw import draw_skeleton, flow_to_colors, panel
from posewarp.runtime.files import check_writable
from posewarp.runtime.image import check_suffix, read_image, write_image
from posewarp.runtime.keypoint_files import read_keypoints
from posewarp.runtime.pipeline import Fitted, PoseTransfer
from posewarp.runtime.session import Session

Order = Literal["openpose-18", "body-25", "coco-17"]

app = typer.Typer(add_completion=False)


@app.command("transfer")
def command(
    model: Annotated[Path, typer.Argument(help="The .onnx file that posewarp export wrote.")],
    image: Annotated[Path, typer.Option(help="Picture of the person, any size.")],
    source_keypoints: Annotated[
        Path, typer.Option(help="Keypoints of the person, in pixels of the picture.")
    ],
    target_keypoints: Annotated[Path, typer.Option(help="Keypoints of the new pose.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write, .png or .jpg.")],
    panel_path: Annotated[
        Path | None,
        typer.Option("--panel", help="Write source, both skeletons, flow and result side by side."),
    ] = None,
    size: Annotated[
        Literal["network", "source"], typer.Option(help="Of the result: the network's, or the picture's own.")
    ] = "network",
    target_frame: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH", help="Frame of the target keypoints, if it is not the picture's."
        ),
    ] = None,
    source_order: Annotated[
        Order | None,
        typer.Option(help="What the rows of the source keypoints are, if the file does not tell."),
    ] = None,
    target_order: Annotated[Order | None, typer.Option(help="The same of the target keypoints.")] = None,
    source_name: Annotated[str | None, typer.Option(help="Row of a csv of source keypoints.")] = None,
    target_name: Annotated[str | None, typer.Option(help="Row of a csv of target keypoints.")] = None,
    device: Annotated[
        Literal["cpu", "cuda", "auto"] | None,
        typer.Option(help="By default the CPU, and for an engine its GPU."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default all that are allowed.")
    ] = None,
) -> None:
    """Re-pose the person of a picture."""
    frame = None if target_frame is None else to_frame(target_frame)
    for path in (output, panel_path):
        if path is not None:
            check_suffix(path)
            check_writable(path)
    picture = read_image(image)
    source = read_keypoints(source_keypoints, name=source_name, order=source_order)
    target = read_keypoints(target_keypoints, name=target_name, order=target_order)
    with Session.open(model, device=device, threads=threads) as session:
        transfer = PoseTransfer(session)
        generated = transfer(picture, source, target, target_frame=frame, size=size)
        fitted = transfer.fit(picture, source, target, frame)
        flow_name = session.contract.settings.get("flow")
    write_image(output, generated)
    print(f"wrote {output}")
    if panel_path is not None:
        write_image(panel_path, explain(model, fitted, flow_name, device=device, threads=threads))
        print(f"wrote {panel_path}")


def explain(
    model: Path,
    fitted: Fitted,
    flow_name: str | None,
    *,
    device: str | None = None,
    threads: int | None = None,
    truth: np.ndarray | None = None,
) -> np.ndarray:
    """A panel of one transfer, from a session of its own that also returns the flow.

    Args:
        model: the .onnx file.
        fitted: picture and keypoints in the network's frame.
        flow_name: the internal tensor of the flow; None leaves it out.
        device, threads: as for ``Session.open``.
        truth: the real picture in the target pose, uint8 (H, W, 3), if there is one.

    Returns: uint8 (h, w, 3): source, both skeletons, flow, result, truth.
    """
    extra = () if flow_name is None else (flow_name,)
    with Session.open(model, device=device, threads=threads, extra_outputs=extra) as session:
        outputs = PoseTransfer(session).run([fitted])
    blank = np.zeros_like(fitted.image)
    pictures = [
        ("source", draw_skeleton(fitted.image, fitted.source_keypoints)),
        ("target pose", draw_skeleton(blank, fitted.target_keypoints)),
    ]
    if flow_name is not None:
        flow = outputs[flow_name][0]  # (2, h, w)
        longest = float(np.hypot(*flow).max())
        # One cell of the flow is shown as one block of pixels of the picture.
        colors = np.kron(flow_to_colors(flow), np.ones((4, 4, 1), np.uint8))
        pictures.append((f"flow, to {4 * longest:.0f} px", colors))
    pictures.append(("generated", outputs["generated"][0]))
    if truth is not None:
        pictures.append(("truth", truth))
    return panel(pictures)


def to_frame(text: str) -> tuple[int, int]:
    """Height and width, from HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise typer.BadParameter(f"--target-frame is {text!r}, expected HEIGHTxWIDTH such as 256x176")
    return int(height), int(width)
