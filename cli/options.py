"""What commands have in common: options, sizes as HEIGHTxWIDTH, and opening the model that is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from posewarp.runtime.errors import BackendError, ContractError
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import POSE_PART, SOURCE_PART, SplitSession

Order = Literal["openpose-18", "body-25", "coco-17"]

Model = Annotated[
    Path,
    typer.Argument(help="An .onnx or .mnn file, or an engine; of a model in two parts, either of them."),
]
SourceKeypoints = Annotated[Path, typer.Option(help="Keypoints of the person, in pixels of the picture.")]
Size = Annotated[
    Literal["network", "source"],
    typer.Option(help="Of what is written: the network's, or the picture's own."),
]
TargetFrame = Annotated[
    str | None,
    typer.Option(metavar="HEIGHTxWIDTH", help="Frame of the target poses, if it is not the picture's."),
]
SourceOrder = Annotated[
    Order | None,
    typer.Option(help="What the rows of the source keypoints are, if the file does not tell."),
]
TargetOrder = Annotated[Order | None, typer.Option(help="The same of the target poses.")]
SourceName = Annotated[str | None, typer.Option(help="Row of a csv of source keypoints.")]
Device = Annotated[
    Literal["cpu", "cuda", "auto"] | None,
    typer.Option(help="By default the CPU, and for an engine its GPU."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default all that are allowed.")]


def to_frame(text: str | None, option: str = "--target-frame") -> tuple[int, int] | None:
    """Height and width, from HEIGHTxWIDTH; anything else is misuse of ``option``."""
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise typer.BadParameter(f"{option} is {text!r}, expected HEIGHTxWIDTH such as 256x176")
    return int(height), int(width)


def to_parsing(parsing: str | None, masks: Path | None) -> str:
    """What the labels of parsing maps mean, by default ADGAN's.

    Raises: ContractError if it is said of no maps.
    """
    if parsing is not None and masks is None:
        raise ContractError(
            f"--parsing {parsing} says what the maps of --masks mean, but there is no --masks; give their folder"
        )
    return parsing or "adgan8"


def open_model(
    model: Path, *, device: str | None = None, threads: int | None = None, extra_outputs: Sequence[str] = ()
) -> Session | SplitSession:
    """Open a model, or both parts of one where either is named.

    Args:
        model: a file that a session opens; ``NAME.source.SUFFIX`` or ``NAME.pose.SUFFIX``, as ``posewarp split``
            names them, stands for both.
        device, threads, extra_outputs: as for ``Session.open``; of two parts the pose part gives the outputs.

    Raises: as ``Session.open`` and ``SplitSession.open``; BackendError if the other part is not there.
    """
    options = {"device": device, "threads": threads, "extra_outputs": extra_outputs}
    parts = _parts(model)
    if parts is None:
        return Session.open(model, **options)
    for path in parts:
        if not path.is_file():
            raise BackendError(
                f"{model} is named as a part of posewarp split, but {path} is not there; put both side by side, "
                "or give a whole model another name"
            )
    return SplitSession.open(*parts, **options)


def _parts(model: Path) -> tuple[Path, Path] | None:
    for part in (SOURCE_PART, POSE_PART):
        stem, found, rest = model.name.rpartition(f".{part}.")
        if found:
            source, pose = (model.with_name(f"{stem}.{name}.{rest}") for name in (SOURCE_PART, POSE_PART))
            return source, pose
    return None
