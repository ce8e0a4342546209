"""The table and the JSON of a quality run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from rich.table import Table

from posewarp.benchmarks.harness.machine import surroundings
from posewarp.benchmarks.scoring.score import Networks
from posewarp.benchmarks.scoring.weights import sha256_of
from posewarp.runtime.files import atomic_write

Row = Mapping[str, "float | int | None"]

# Title and digits of each column, in the table's order.
COLUMNS = {
    "psnr_db": ("PSNR dB", 2),
    "garment_psnr_db": ("garment PSNR dB", 2),
    "ssim": ("SSIM", 4),
    "ssim_patn_padded": ("ssim_patn_padded", 4),
    "ssim_176": ("ssim_176", 4),
    "ssim_patn": ("ssim_patn", 4),
    "mask_ssim": ("mask SSIM", 4),
    "garment_ssim": ("garment SSIM", 4),
    "lpips": ("LPIPS", 4),
    "fid": ("FID", 3),
    "inception_score": ("IS", 4),
}
RANDOM = "_random_weights"  # ends names of figures that compare with nothing outside their run
_PACKAGES = ("scikit-image", "scipy", "lpips", "torch-fidelity", "torchvision", "pillow")


def mark_random(row: Row, networks: Networks) -> dict[str, float | int | None]:
    """The row, with figures of random networks under names of their own."""
    return {f"{name}{RANDOM}" if _is_random(name, networks) else name: value for name, value in row.items()}


def table(title: str, rows: Mapping[str, Row], published: Mapping[str, Row]) -> Table:
    """Rows that were measured, and below a line published ones, in the columns that are theirs."""
    columns = [
        (name, heading, digits)
        for base, (heading, digits) in COLUMNS.items()
        for name, heading in ((base, heading), (f"{base}{RANDOM}", f"{heading} (random weights)"))
        if any(name in row for row in rows.values())
    ]
    shown = Table("", *(heading for _, heading, _ in columns), title=title)
    for name, row in rows.items():
        shown.add_row(name, *_cells(row, columns))
    if published:
        shown.add_section()
    for name, row in published.items():
        shown.add_row(f"{name} (published)", *_cells(row, columns), style="dim")
    return shown


def notes(
    networks: Networks, about: Mapping[str, Mapping[str, object]], published: Mapping[str, Row]
) -> Iterator[str]:
    """What must be said below the table."""
    yield from (f"{name}: {told['kind']}" for name, told in about.items())
    random = [name for name in ("lpips", "inception_score", "fid") if _is_random(name, networks)]
    if random:
        yield f"{', '.join(random)}: of networks with random weights; they compare within this run alone"
    if published:
        yield "published: Table 1 of the paper; not measured here, resizing and file format not known"


def network_settings(networks: Networks) -> dict[str, object]:
    """What LPIPS, FID and IS depend on."""
    settings: dict[str, object] = {}
    if networks.lpips is not None:
        settings["lpips"] = {
            "network": "AlexNet, linear layers 0.1",
            "weights": networks.lpips.source,
            "weights_sha256": sha256_of(networks.lpips),
            "range": "[-1, 1]",
        }
    if networks.inception is not None:
        settings["inception"] = {
            "network": "InceptionV3 of TensorFlow 2015, by torch-fidelity; scaled to 299x299 as TensorFlow 1 does",
            "weights": networks.inception.source,
            "weights_sha256": networks.inception.sha256,
            "splits": networks.splits,
        }
    if networks.reference is not None:
        settings["fid_reference"] = dict(networks.reference.about)
    return settings


def write(path: Path, report: Mapping[str, object]) -> None:
    """Write a report with commit and versions; what is not finite becomes null.

    Raises: DataError if it cannot be written.
    """
    told = surroundings()
    told["versions"] = {**told["versions"], **_versions()}
    text = json.dumps(_finite({**report, **told}), indent=1, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n")


def _is_random(name: str, networks: Networks) -> bool:
    if name.startswith("lpips"):
        return networks.lpips is not None and networks.lpips.source.startswith("random")
    if name.startswith(("fid", "inception_score")):
        return networks.inception is not None and networks.inception.source.startswith("random")
    return False


def _cells(row: Row, columns: list[tuple[str, str, int]]) -> list[str]:
    figures = [(row.get(name), digits) for name, _, digits in columns]
    return ["-" if figure is None else f"{figure:.{digits}f}" for figure, digits in figures]


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
