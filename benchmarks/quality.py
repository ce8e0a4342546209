"""How good generated pictures are, of checkpoints, deployed files or folders: SSIM, PSNR, LPIPS, FID, Inception Score.

    python benchmarks/quality.py full=models/demo/small.safetensors model.onnx model.fp16.onnx --json quality.json
    python benchmarks/quality.py model.onnx --data fashion_data --lpips-weights alexnet-owt-7be5be79.pth
    python benchmarks/quality.py ours=results/ --ground-truth test/ --list pairs.csv --published deepfashion

Without --data or --ground-truth it is on held-out synthetic people. Where there are source pictures, copying them is
the first row: what a network that learned nothing would score. What each column means: docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import track

from posewarp.benchmarks.scoring import data as sources
from posewarp.benchmarks.scoring.folders import Pictures, Resize
from posewarp.benchmarks.scoring.generators import (
    Generate,
    Opened,
    copy_source,
    of_folder,
    open_generator,
)
from posewarp.benchmarks.scoring.inception import load_inception
from posewarp.benchmarks.scoring.measures import DEFINITIONS
from posewarp.benchmarks.scoring.perceptual import load_lpips
from posewarp.benchmarks.scoring.published import DATA_SETS, FRAMES, SOURCE
from posewarp.benchmarks.scoring.published import published as published_rows
from posewarp.benchmarks.scoring.report import Row, mark_random, network_settings, notes, table, write
from posewarp.benchmarks.scoring.score import Networks, score
from posewarp.cli.options import to_frame
from posewarp.runtime import command
from posewarp.runtime.errors import ContractError, DataError
from posewarp.runtime.files import check_outputs

BATCH_SIZE = 16
SYNTHETIC_PAIRS = 256


def quality(
    entries: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PATH...",
            help="Checkpoints, .onnx, .engine or .mnn files; with --ground-truth or --data, folders of pictures.",
        ),
    ],
    pairs: Annotated[
        int | None, typer.Option(min=1, help="How many pairs; 256 synthetic ones, else all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic people.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="A DeepFashion or Market-1501 tree: its test pairs.")
    ] = None,
    layout: Annotated[Literal["deepfashion", "market"] | None, typer.Option(help="Of --data.")] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Folder of the true pictures, for folders.")
    ] = None,
    pair_list: Annotated[
        Path | None, typer.Option("--list", help="Pairs of folders: from,to a line, or one name a line.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Scale pictures on disk to this size.")
    ] = None,
    resize_filter: Annotated[
        Literal["nearest", "bilinear", "bicubic", "lanczos"],
        typer.Option("--filter", help="Of --size, for folders."),
    ] = "bicubic",
    masks: Annotated[
        Path | None, typer.Option(help="Garment masks: parsing maps of --data, black and white for folders.")
    ] = None,
    parsing: Annotated[
        str | None, typer.Option(help="What the maps' labels mean, for --data; adgan8 if left out.")
    ] = None,
    lpips_weights: Annotated[
        str | None, typer.Option(metavar="PATH|torchvision", help="AlexNet's: measure LPIPS.")
    ] = None,
    inception_weights: Annotated[
        str | None, typer.Option(metavar="PATH|torch-fidelity", help="InceptionV3's: measure IS, and FID.")
    ] = None,
    random_weights: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="Random ones instead, for tests; comparable with nothing else."),
    ] = None,
    fid_reference: Annotated[
        Path | None, typer.Option(help="Folder or list of pictures; 'train' with --data.")
    ] = None,
    fid_statistics: Annotated[
        Path | None, typer.Option(help=".npz of the reference: read, or written where it is not there.")
    ] = None,
    splits: Annotated[int, typer.Option(min=1, help="Of the Inception Score.")] = 10,
    published: Annotated[
        Literal["auto", "deepfashion", "market", "none"],
        typer.Option(help="Published rows beside; auto: those of --data."),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1)] = BATCH_SIZE,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Of checkpoints, .onnx and weights.")
    ] = "cpu",
    trust: Annotated[bool, typer.Option("--trust", help="Unpickle checkpoints of any class.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write figures and settings here too.")
    ] = None,
) -> None:
    """Score generated pictures against their ground truth."""
    named = _named(entries)
    check_outputs(
        {"--json": json_path, "--fid-statistics": None if fid_reference is None else fid_statistics},
        [*named.values(), pair_list, lpips_weights, inception_weights, fid_reference],
    )
    if data is not None and ground_truth is not None:
        raise DataError("--data and --ground-truth both say what is true; give one")
    for option, given, place, there in (
        ("--list", pair_list, "--ground-truth", ground_truth),
        ("--layout", layout, "--data", data),
        ("--masks", masks, "--data or --ground-truth", data or ground_truth),
        ("--parsing", parsing, "--masks of --data", masks and data),
    ):
        if given is not None and there is None:
            raise DataError(f"{option} belongs to {place}, which is not given")
    resize = None if size is None else Resize(*to_frame(size, "--size"), resize_filter)
    folders = {name: Pictures(path) for name, path in named.items() if path.is_dir()}
    if random_weights is not None and "random" not in (lpips_weights, inception_weights):
        lpips_weights, inception_weights = lpips_weights or "random", inception_weights or "random"
    if inception_weights is None and (fid_reference or fid_statistics):
        raise DataError("FID needs the weights of InceptionV3: give --inception-weights")
    if inception_weights is not None and data is None and ground_truth is None:
        _check_splits(splits, pairs or SYNTHETIC_PAIRS)
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(open_generator(path, device=device, trust=trust))
            for name, path in named.items()
            if name not in folders
        }
        material = _material(
            opened, folders, resize, data, layout, ground_truth, pair_list, masks, parsing, seed, pairs
        )
        if inception_weights is not None:
            _check_splits(splits, len(material.targets))
        height, width = material.targets[0].target_image.shape[:2]
        _check_published(published, height, width)
        lpips = None if lpips_weights is None else load_lpips(_weights(lpips_weights, random_weights))
        inception = (
            None if inception_weights is None else load_inception(_weights(inception_weights, random_weights))
        )
        networks = Networks(lpips, inception, splits=splits).to(device)
        if fid_reference is not None or fid_statistics is not None:
            reference = sources.reference_statistics(
                inception, fid_reference, fid_statistics, material, None if data is None else (data, layout),
                batch_size, _progress("reference pictures"),
            )  # fmt: skip
            networks = replace(networks, reference=reference)
        _check_reference(networks, height, width)
        data_set = material.data_set if published == "auto" else published
        generators: dict[str, Generate] = {} if ground_truth else {"copy the source": copy_source}
        for name in named:
            if name in folders:
                generators[name] = of_folder(folders[name], material.names, material.resize)
            else:
                generators[name] = opened[name].generate
        rows = {
            name: score(
                generate, material.targets, networks, batch_size=batch_size, market=data_set == "market",
                progress=_progress(name),
            )
            for name, generate in generators.items()
        }  # fmt: skip
    about = {
        name: {"kind": "pictures", "formats": folders[name].formats}
        if name in folders
        else {"kind": opened[name].kind, "sha256": opened[name].sha256}
        for name in named
    }
    settings = {"batch_size": batch_size, "device": device}
    _report(material, rows, about, networks, data_set, settings, json_path)


def _material(
    opened: Mapping[str, Opened],
    folders: Mapping[str, Pictures],
    resize: Resize | None,
    data: Path | None,
    layout: str | None,
    ground_truth: Path | None,
    pair_list: Path | None,
    masks: Path | None,
    parsing: str,
    seed: int,
    pairs: int | None,
) -> sources.Material:
    """What is scored: pairs of a folder of true pictures, of a data set, or synthetic ones.

    Raises: DataError if it cannot be had, or does not suit networks or folders.
    """
    if ground_truth is not None:
        if opened:
            raise DataError(f"{next(iter(opened))} needs source pictures and keypoints; give --data instead")
        return sources.truth_folder(ground_truth, list(folders.values()), pair_list, masks, resize, pairs)
    if data is not None:
        return sources.data_tree(data, layout, _one_size(opened, resize), masks, parsing, pairs)
    if folders:
        raise DataError(f"{next(iter(folders))} is a folder; give --ground-truth or --data")
    return sources.synthetic(_one_size(opened, resize), seed, pairs or SYNTHETIC_PAIRS)


def _check_splits(splits: int, pictures: int) -> None:
    """Raises: ContractError if there are too few pictures for the Inception Score."""
    if pictures < splits:
        raise ContractError(
            f"the Inception Score in {splits} splits needs at least {splits} pictures, got {pictures}; "
            "lower --splits, or give more pictures"
        )


def _check_published(data_set: str, height: int, width: int) -> None:
    """Raises: ContractError if published rows are asked for beside pictures of another frame."""
    frame = FRAMES.get(data_set, (height, width))
    if frame != (height, width):
        raise ContractError(
            f"--published {data_set}: its figures are of {frame[0]}x{frame[1]} pictures, those to be scored are "
            f"{height}x{width}; leave it out, or scale them by --size"
        )


def _check_reference(networks: Networks, height: int, width: int) -> None:
    """Raises: DataError if FID's reference pictures are of another size."""
    size = f"{height}x{width}"
    if networks.reference and networks.reference.about.get("size", size) != size:
        raise DataError(
            f"FID's reference pictures are {networks.reference.about['size']}, those to be scored "
            f"{size}; scale them alike, by --size"
        )


def _report(
    material: sources.Material,
    rows: Mapping[str, Row],
    about: Mapping[str, Mapping[str, object]],
    networks: Networks,
    data_set: str | None,
    settings: Mapping[str, object],
    json_path: Path | None,
) -> None:
    """Print the table and its notes, and write the JSON report, if asked for."""
    height, width = material.targets[0].target_image.shape[:2]
    rows = {name: mark_random(row, networks) for name, row in rows.items()}
    beside = published_rows(data_set) if data_set in DATA_SETS else {}
    title = f"{len(material.targets)} pairs of {height}x{width}, {material.settings['kind']}"
    console = Console()
    console.print(table(title, rows, beside))
    for note in notes(networks, about, beside):
        console.print(note)
    if json_path is None:
        return
    report = {
        "size": [height, width],
        "pairs": len(material.targets),
        "data": material.settings,
        "generators": about,
        "sha256": {name: told["sha256"] for name, told in about.items() if "sha256" in told},
        "rows": rows,
        "published": {"source": SOURCE, "data_set": data_set, "rows": beside},
        "settings": {**network_settings(networks), **settings},
        "definitions": {
            name: text for name, text in DEFINITIONS.items() if any(name in row for row in rows.values())
        },
    }
    write(json_path, report)


def _named(entries: Sequence[str]) -> dict[str, Path]:
    """Files and folders by the names that their rows bear.

    Raises: ContractError for two of one name.
    """
    named: dict[str, Path] = {}
    for entry in entries:
        name, found, path = entry.partition("=")
        if not found or Path(entry).exists():
            name, path = Path(entry).name, entry
        if name in named:
            raise ContractError(f"two rows are called {name}; name them: NAME={path}")
        named[name] = Path(path)
    return named


def _weights(given: str, seed: int | None) -> str | int:
    return (seed or 0) if given == "random" else given


def _one_size(opened: Mapping[str, Opened], resize: Resize | None) -> tuple[int, int] | None:
    """The size that all networks are made for; without any, the one asked for.

    Raises: ContractError if they differ.
    """
    sizes = {each.size for each in opened.values()}
    if resize is not None:
        sizes.add((resize.height, resize.width))
    if len(sizes) > 1:
        listed = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise ContractError(f"made for different sizes, {listed}: score them in separate runs")
    return next(iter(sizes), None)


def _progress(name: str) -> Callable[[Sequence[int]], Iterable[int]]:
    console = Console(stderr=True)
    return lambda starts: track(
        starts, name, transient=True, console=console, disable=not console.is_terminal
    )


app = typer.Typer(add_completion=False)
app.command()(quality)

if __name__ == "__main__":
    command.main(app)
