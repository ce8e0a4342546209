"""How good the pictures are: PSNR, PSNR on the garment and SSIM on held-out synthetic people.

    python benchmarks/quality.py full=models/demo/small.safetensors --json quality.json

Copying the source picture is always the first row: it is what a network that learned nothing would score.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.generator import Generator
from posewarp.models.metrics import psnr
from posewarp.models.training.batches import Batch
from posewarp.runtime import command
from posewarp.runtime.errors import ContractError
from posewarp.runtime.files import atomic_write

BATCH_SIZE = 16


@torch.no_grad()
def measure(
    generator: Generator | None, people: SyntheticPeople, pairs: int, config: GeneratorConfig
) -> dict:
    """Score a generator, or copying the source where it is None.

    Pictures are rounded to 8 bits first, as a user would store them.

    Args:
        generator: in eval mode.
        people: the pairs.
        pairs: how many of them, from the first.
        config: gives the heat maps.

    Returns: means over the pairs: ``psnr_db``, ``garment_psnr_db`` (pixels of the target's garment mask), ``ssim``
        (Gaussian window, sigma 1.5, levels 0..255), and ``pairs``.
    """
    scores: dict[str, list[Tensor]] = {"psnr_db": [], "garment_psnr_db": [], "ssim": []}
    for start in range(0, pairs, BATCH_SIZE):
        batch = Batch.from_pairs([people[i] for i in range(start, min(start + BATCH_SIZE, pairs))], config)
        if generator is None:
            output = batch.source
        else:
            output = generator(batch.source, batch.source_heatmaps, batch.target_heatmaps)
        generated, target = (((x + 1) * 127.5).round().clamp(0, 255) for x in (output, batch.target))
        scores["psnr_db"].append(psnr(generated, target))
        scores["garment_psnr_db"].append(psnr(generated, target, batch.mask))
        ssim = structural_similarity_index_measure(
            generated, target, sigma=1.5, data_range=255.0, reduction="none"
        )
        scores["ssim"].append(ssim.double())
    means = {name: float(torch.cat(values).nanmean()) for name, values in scores.items()}
    return {**means, "pairs": pairs}


def quality(
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="NAME=CHECKPOINT...", help="Networks to score.")
    ],
    pairs: Annotated[int, typer.Option(min=1, help="Held-out pairs.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic people.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Score checkpoints on held-out synthetic people, beside copying the source picture."""
    named = dict(entry.split("=", 1) if "=" in entry else (Path(entry).stem, entry) for entry in checkpoints)
    loaded = {name: checkpoint.load(Path(path)) for name, path in named.items()}
    configs = [item.config for item in loaded.values()]
    if len({(config.height, config.width) for config in configs}) != 1:
        raise ContractError("the checkpoints were made for different sizes; score them in separate runs")
    people = SyntheticPeople(configs[0].height, configs[0].width, seed=seed, split="test", length=pairs)

    rows = {"copy the source": measure(None, people, pairs, configs[0])}
    for name, item in track(loaded.items(), "scoring", transient=True):
        rows[name] = measure(item.generator, people, pairs, item.config)
    table = Table("", "PSNR dB", "garment PSNR dB", "SSIM", title=f"{pairs} held-out pairs, seed {seed}")
    for name, row in rows.items():
        table.add_row(name, f"{row['psnr_db']:.2f}", f"{row['garment_psnr_db']:.2f}", f"{row['ssim']:.4f}")
    Console().print(table)
    if json_path is not None:
        report = {
            "seed": seed,
            "split": "test",
            "size": [configs[0].height, configs[0].width],
            "sha256": {name: item.sha256 for name, item in loaded.items()},
            "rows": rows,
        }
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")


app = typer.Typer(add_completion=False)
app.command()(quality)

if __name__ == "__main__":
    command.main(app)
