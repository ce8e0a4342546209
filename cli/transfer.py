"""``posewarp transfer``: picture and keypoint files in, the picture in the new pose out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

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
from posewarp.runtime.draw import draw_skeleton, flow_to_colors, panel
from posewarp.runtime.errors import ContractError
from posewarp.runtime.files import check_outputs
from posewarp.runtime.image import check_suffix, read_image, write_image
from posewarp.runtime.keypoint_files import read_keypoints
from posewarp.runtime.pipeline import Fitted, PoseTransfer

app = typer.Typer(add_completion=False)


@app.command("transfer")
def command(
    model: Model,
    image: Annotated[Path, typer.Option(help="Picture of the person, any size.")],
    source_keypoints: SourceKeypoints,
    target_keypoints: Annotated[Path, typer.Option(help="Keypoints of the new pose.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write, .png or .jpg.")],
    panel_path: Annotated[
        Path | None,
        typer.Option("--panel", help="Write source, both skeletons, flow and result side by side."),
    ] = None,
    size: Size = "network",
    target_frame: TargetFrame = None,
    source_order: SourceOrder = None,
    target_order: TargetOrder = None,
    source_name: SourceName = None,
    target_name: Annotated[str | None, typer.Option(help="Row of a csv of target keypoints.")] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Re-pose the person of a picture."""
    frame = to_frame(target_frame)
    for path in (output, panel_path):
        if path is not None:
            check_suffix(path)
    read = (model, image, source_keypoints, target_keypoints)
    check_outputs({"--output": output, "--panel": panel_path}, read)
    picture = read_image(image)
    source = read_keypoints(source_keypoints, name=source_name, order=source_order)
    target = read_keypoints(target_keypoints, name=target_name, order=target_order)
    with open_model(model, device=device, threads=threads) as session:
        transfer = PoseTransfer(session)
        generated = transfer(picture, source, target, target_frame=frame, size=size)
        fitted = transfer.fit(picture, source, target, frame)
        flow_name = session.contract.settings.get("flow")
    pictures = {output: generated}
    if panel_path is not None:  # before anything is written, since not every model can give its flow
        pictures[panel_path] = explain(model, fitted, flow_name, device=device, threads=threads)
    for path, made in pictures.items():
        write_image(path, made)
        print(f"wrote {path}")


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
        model: the file, or either part.
        fitted: picture and keypoints in the network's frame.
        flow_name: the internal tensor of the flow; None leaves it out.
        device, threads: as for ``Session.open``.
        truth: the real picture in the target pose, uint8 (H, W, 3), if there is one.

    Returns: uint8 (h, w, 3): source, both skeletons, flow, result, truth.
    Raises: ContractError if the model has a flow and cannot give it, as files for MNN and engines.
    """
    extra = () if flow_name is None else (flow_name,)
    try:
        session = open_model(model, device=device, threads=threads, extra_outputs=extra)
    except ContractError as exc:
        raise ContractError(
            f"the panel shows the flow, but {exc}; make it with the ONNX file, or leave it out"
        ) from exc
    with session:
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
