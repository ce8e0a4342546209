"""How many pairs a second a data set gives, through the loader that training uses.

    python benchmarks/loader.py ROOT --size 128x64 --workers 2
    python benchmarks/loader.py ROOT --masks ROOT/semantic_merge3 --json loader.json

Measured twice: with every picture read from disk and decoded each time, and with what was decoded kept, as training
does. Each round takes a new part of shuffled epochs, after the workers have started; the fastest round is the one that
least was taken from by others. Files may come from the system's page cache: a first run after mounting is slower.
"""

from __future__ import annotations

import json
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer

from posewarp.benchmarks.harness.machine import machine, surroundings
from posewarp.cli.options import to_frame, to_parsing
from posewarp.models.data.pairs import CACHE_MIB, PairDataset, open_dataset
from posewarp.models.training.batches import ResumableSampler, SharedBatches, load_batches
from posewarp.runtime import command
from posewarp.runtime.files import atomic_write, check_outputs

WARM_UP_BATCHES = 8


def measure(dataset: PairDataset, workers: int, batch_size: int, pairs: int, rounds: int) -> list[float]:
    """Pairs a second of each round, each of about ``pairs`` pairs."""
    batches = load_batches(
        dataset, SharedBatches(ResumableSampler(len(dataset), seed=0), batch_size), workers
    )
    loader, count = iter(batches), max(pairs // batch_size, 1)
    for _ in islice(loader, WARM_UP_BATCHES):
        pass
    rates = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in islice(loader, count):
            pass
        rates.append(count * batch_size / (time.perf_counter() - started))
    return rates


app = typer.Typer(add_completion=False)


@app.command()
def _command(
    root: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    split: Annotated[Literal["train", "test"], typer.Option()] = "train",
    size: Annotated[str | None, typer.Option(metavar="HEIGHTxWIDTH", help="The layout's by default.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of parsing maps.")] = None,
    parsing: Annotated[str | None, typer.Option(help="What their labels mean; adgan8 if left out.")] = None,
    workers: Annotated[int, typer.Option(min=0)] = 2,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    pairs: Annotated[int, typer.Option(min=1, help="Of a round.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here too.")] = None,
) -> None:
    """Measure how many pairs a second a data set gives."""
    check_outputs({"--json": json_path})
    shape, parsing = to_frame(size, "--size"), to_parsing(parsing, masks)
    result: dict[str, object] = {
        "machine": machine(),
        **surroundings(),
        "workers": workers,
        "batch": batch_size,
    }
    for name, cache_mib in (("every picture decoded", 0.0), ("decoded pictures kept", CACHE_MIB)):
        dataset = open_dataset(root, split, size=shape, masks=masks, parsing=parsing, cache_mib=cache_mib)
        rates = measure(dataset, workers, batch_size, pairs, rounds)
        result |= {"pairs": len(dataset), "height": dataset.size[0], "width": dataset.size[1]}
        result[name.replace(" ", "_") + "_pairs_per_s"] = [round(rate, 1) for rate in rates]
        print(
            f"{dataset.size[0]}x{dataset.size[1]}, {workers} workers, {name}: {max(rates):.0f} pairs/s at best, "
            f"{statistics.median(rates):.0f} in the middle, of {rounds} rounds"
        )
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    command.main(app)
