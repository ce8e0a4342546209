"""``posewarp keypoints``: convert keypoint files between formats and frames, or find keypoints in pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from posewarp.cli.console import few_warnings, progress_bar
from posewarp.cli.options import Order, to_frame
from posewarp.runtime.draw import draw_skeleton
from posewarp.runtime.errors import DataError, PosewarpWarning
from posewarp.runtime.files import atomic_folder, check_folder, check_outputs
from posewarp.runtime.image import check_suffix, read_image, write_image
from posewarp.runtime.keypoint_conversion import Reframe, convert, read_entries
from posewarp.runtime.keypoint_writers import check_kind, is_folder, place_in, write_keypoints
from posewarp.runtime.keypoints import KEYPOINTS
from posewarp.runtime.pose_detection import PoseDetector
from posewarp.runtime.poses import natural_order

Kind = Literal["json", "openpose", "patn", "nted", "jsonl"]
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Convert keypoint files, or find keypoints in pictures."""


@app.command("convert")
def convert_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="OpenPose or COCO JSON, rows as JSON, text or .npy, PATN csv, JSONL; or a folder."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help=".json, .csv (PATN), .txt (NTED), .jsonl; or a folder of files."),
    ],
    kind: Annotated[
        Kind | None, typer.Option("--to", help="Format; by default the suffix's, in a folder plain JSON.")
    ] = None,
    order: Annotated[Order | None, typer.Option(help="What the rows are, if the file does not tell.")] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", "--image-id", help="Only this row of a csv, or picture of a COCO file."),
    ] = None,
    name_suffix: Annotated[
        str, typer.Option(help="Put behind each name, such as .jpg for a csv made from files.")
    ] = "",
    person: Annotated[
        int | None,
        typer.Option(min=1, help="Which one of several people; by default the largest and surest."),
    ] = None,
    from_size: Annotated[
        str | None,
        typer.Option(metavar="HEIGHTxWIDTH", help="Frame that the keypoints are in, to check them."),
    ] = None,
    to_size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Frame to scale them to, from --from-size.")
    ] = None,
    x_offset: Annotated[
        int,
        typer.Option(help="Added to x, the frame being cut or widened at both sides: -40 from 256 to 176."),
    ] = 0,
) -> None:
    """Keypoints from any format that posewarp reads to another, and from one frame to another."""
    kind = check_kind(output, kind)
    _check_paths({"--output": output}, [source])
    frames = Reframe(to_frame(from_size, "--from-size"), to_frame(to_size, "--to-size"), x_offset)
    with few_warnings():
        entries = read_entries(source, name=name, order=order)
        converted, summary = convert(entries, frames, person=person)
    write_keypoints(output, {each + name_suffix: [joints] for each, joints in converted.items()}, kind)
    print(f"wrote {output} ({kind}): {summary}")


@app.command("detect")
def detect_command(
    source: Annotated[Path, typer.Argument(help="A picture, or a folder of them (and its folders).")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="As for convert: .json, .csv, .txt, .jsonl, or a folder of files."
        ),
    ],
    model: Annotated[Path | None, typer.Option(help="RTMPose's or RTMO's .onnx file.")] = None,
    detector: Annotated[
        Path | None,
        typer.Option(help="YOLOX's .onnx file; without one RTMPose takes the picture as one person."),
    ] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Use rtmlib's own models, fetched from the internet at first use."),
    ] = False,
    people: Annotated[
        Literal["largest", "all"], typer.Option(help="Of several; all of them go into OpenPose's JSON.")
    ] = "largest",
    min_score: Annotated[float, typer.Option(help="Joints with a lower score are missing.")] = 0.3,
    kind: Annotated[
        Kind | None, typer.Option("--to", help="Format; by default the suffix's, in a folder plain JSON.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Write the pictures with skeletons drawn: .png or .jpg, or a folder.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the models run.")] = "cpu",
) -> None:
    """Find the keypoints of the people in pictures, by rtmlib."""
    if download == (model is not None) or (download and detector is not None):
        raise typer.BadParameter("give --model (and perhaps --detector), or --download instead")
    if people == "all":
        kind = kind or "openpose"
    kind = check_kind(output, kind)
    if people == "all" and kind != "openpose":
        raise typer.BadParameter(f"--people all: {kind} holds one person of a picture; use --to openpose")
    pictures = _pictures(source)
    if overlay is not None and not is_folder(overlay):
        check_suffix(overlay)
        if source.is_dir():
            raise DataError(f"--overlay {overlay} is one picture; for the folder {source} name a folder")
    _check_paths({"--output": output, "--overlay": overlay}, pictures.values())
    if not source.exists():
        raise DataError(f"{source} does not exist; expected a picture, or a folder of them")
    detect = (
        PoseDetector.download(device=device)
        if download
        else PoseDetector.open(model, detector, device=device)
    )
    found: dict[str, list[np.ndarray]] = {}
    unreadable: list[DataError] = []
    with _overlays(overlay) as draw, progress_bar() as progress, few_warnings():
        for name, path in progress.track(pictures.items(), description="pictures"):
            try:
                try:
                    image = read_image(path)
                except DataError as exc:
                    unreadable.append(exc)
                    raise
                seen = [each.round(3) for each in detect(image, min_score=min_score)]
                if not seen:
                    raise DataError(f"nobody was found in {path}")
            except DataError as exc:
                if len(pictures) == 1:
                    raise
                warnings.warn(f"{exc}; it is left out", PosewarpWarning, stacklevel=1)
                continue
            found[name] = seen if people == "all" else seen[:1]
            draw(name, image, found[name])
        if len(unreadable) == len(pictures):
            raise DataError(
                f"none of the {len(pictures)} pictures of {source} can be read; the first: {unreadable[0]}"
            )
        if not found:
            raise DataError(f"nobody was found in any of the {len(pictures)} pictures of {source}")
        write_keypoints(output, found, kind)
    print(f"wrote {output} ({kind}): {_describe(found, len(pictures))}")


def _pictures(source: Path) -> dict[str, Path]:
    """Pictures by their names, in natural order; those of a folder are named by their way from there."""
    if not source.is_dir():
        return {source.name: source}
    paths = [each for each in source.rglob("*") if each.suffix.lower() in PICTURES and each.name[0] != "."]
    if not paths:
        raise DataError(f"{source} has no pictures in it: no {', '.join(PICTURES)}")
    return {each.relative_to(source).as_posix(): each for each in sorted(paths, key=natural_order)}


def _check_paths(outputs: dict[str, Path | None], inputs: Iterable[Path]) -> None:
    """Fail before the work, if what it gives could not be written."""
    folders = [path for path in outputs.values() if path is not None and is_folder(path)]
    for folder in folders:
        check_folder(folder)
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DataError(f"--output and --overlay are one folder, {folders[0]}; name two")
    check_outputs({name: path for name, path in outputs.items() if path not in folders}, inputs)


@contextmanager
def _overlays(path: Path | None) -> Iterator[Callable[[str, np.ndarray, list[np.ndarray]], None]]:
    """Gives a function that draws people on a picture and writes it; a folder is whole or not at all."""
    with atomic_folder(path) if path is not None and is_folder(path) else nullcontext() as folder:

        def draw(name: str, image: np.ndarray, people: list[np.ndarray]) -> None:
            for joints in people if path is not None else ():
                image = draw_skeleton(image, joints[:, :2])
            if path is not None:
                write_image(path if folder is None else place_in(folder, name, ".png"), image)

        yield draw


def _describe(found: dict[str, list[np.ndarray]], pictures: int) -> str:
    people = [joints for each in found.values() for joints in each]
    missing = sum(int(np.isnan(joints[:, 0]).sum()) for joints in people)
    text = f"{len(people)} {'people' if len(people) > 1 else 'person'}, {missing} of {len(people) * KEYPOINTS} joints"
    left_out = pictures - len(found)
    return f"{text} missing" + (f", {left_out} picture{'s' * (left_out > 1)} left out" if left_out else "")
