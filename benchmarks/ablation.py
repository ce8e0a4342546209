"""The paper's claim at small scale: what patch generation, patch transfer and warped skips are each worth.

    python benchmarks/ablation.py                    64x32, 800 steps each, two networks at a time on two CPU cores
    python benchmarks/ablation.py --device cuda      128x64, 8,000 steps each

Every network gets the same steps, pairs, settings and seed, and is scored on held-out synthetic people whose hues it
never saw: over the picture, on their patterned garments, and on the same garments in plain colours. Run the same
command again to go on after an interruption. Written: ablation-NAME.json and .csv, and a page with two figures.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from posewarp.benchmarks.ablating.pool import Run, train_side_by_side
from posewarp.benchmarks.ablating.scores import PlainTwins, Scores, batches, difference, score
from posewarp.benchmarks.ablating.variants import (
    BOTH,
    BUDGETS,
    COPY,
    GENERATION,
    VARIANTS,
    Budget,
    folder_name,
    network,
)
from posewarp.benchmarks.harness.machine import machine, surroundings
from posewarp.models import checkpoint
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.generator import Generator
from posewarp.models.training.config import TrainingConfig
from posewarp.models.training.run import CHECKPOINT_FILE
from posewarp.runtime import command
from posewarp.runtime.errors import BackendError, DataError
from posewarp.runtime.files import atomic_write
from posewarp.runtime.threads import available_cpus

FIGURE_PEOPLE = 6
# What the figures should show, in dB.
TEXTURED_GAIN_DB, COPY_GAIN_DB = 1.0, 6.0
COLUMNS = {
    "psnr_db": "PSNR\npicture",
    "textured_psnr_db": "on\ntextured",
    "plain_psnr_db": "on\nplain",
    "warped_source_psnr_db": "by flow\nalone",
    "ssim": "SSIM\n",
}


def train_variants(
    budget: Budget,
    training: TrainingConfig,
    output: Path,
    names: Sequence[str] = tuple(VARIANTS),
    *,
    device: str = "cpu",
    jobs: int = 2,
    workers: int = 0,
) -> dict[str, Generator]:
    """Train every variant, or take it up where it stopped.

    Args:
        budget, training: the same for all.
        output: a folder for each variant is made in it.
        names: of the variants.
        device: where to train.
        jobs: networks at a time; they share the CPUs.
        workers: processes that draw pairs, beside each.

    Returns: the generators with their averaged weights, in eval mode on the CPU, by name.
    Raises: DataError if a run fails; CheckpointError if a folder holds a run of other settings.
    """
    threads = max(1, available_cpus() // jobs)
    folders = {name: output / folder_name(name) for name in names}
    runs = [
        Run(folder, network(name, budget), training, device, threads, workers)
        for name, folder in folders.items()
    ]
    train_side_by_side(runs, jobs)
    return {name: checkpoint.load(folder / CHECKPOINT_FILE).generator for name, folder in folders.items()}


def measure(generators: Mapping[str, Generator], people: SyntheticPeople) -> list[dict[str, object]]:
    """Score all variants, and copying, on all pairs of a set.

    Returns: rows of plain JSON: ``name``, the means of COLUMNS, and of ``textured`` and ``plain`` the paired gain over
        patch generation alone with half the width of its 95 % interval over the pairs, ``..._gain_db``.
    """
    config = next(iter(generators.values())).config
    textured, plain = batches(people, config), batches(PlainTwins(people), config)
    scores = {
        name: score(generator, textured, plain)
        for name, generator in track([(COPY, None), *generators.items()], "scoring", transient=True)
    }
    return [_row(name, scores, generators.get(name)) for name in scores]


def _row(name: str, scores: Mapping[str, Scores], generator: Generator | None) -> dict[str, object]:
    own, reference = scores[name], scores[GENERATION]
    return {
        "name": name,
        "psnr_db": float(own.psnr.mean()),
        "textured_psnr_db": float(np.nanmean(own.textured)),
        "plain_psnr_db": float(np.nanmean(own.plain)),
        "warped_source_psnr_db": None if own.warped is None else float(np.nanmean(own.warped)),
        "ssim": float(own.ssim.mean()),
        "parameters": 0 if generator is None else sum(p.numel() for p in generator.parameters()),
        "textured_gain_db": difference(own.textured, reference.textured),
        "plain_gain_db": difference(own.plain, reference.plain),
    }


def claims(rows: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    """What the figures were expected to show, and what they do, in dB."""
    by_name = {row["name"]: row for row in rows}
    found = {
        f"{BOTH} over {GENERATION}, textured garments": (
            by_name[BOTH]["textured_gain_db"][0],
            TEXTURED_GAIN_DB,
        ),
        **{
            f"{name} over {COPY}, picture": (
                by_name[name]["psnr_db"] - by_name[COPY]["psnr_db"],
                COPY_GAIN_DB,
            )
            for name in (GENERATION, BOTH)
        },
    }
    return {
        claim: {"found_db": gain, "expected_db": least, "met": gain >= least}
        for claim, (gain, least) in found.items()
    }


def _cells(row: Mapping[str, object]) -> list[str]:
    """For people: one for each of HEADS."""
    texts = [
        "-" if row[name] is None else f"{row[name]:.4f}" if name == "ssim" else f"{row[name]:.2f}"
        for name in COLUMNS
    ]
    gains = ("{:+.2f} ± {:.2f}".format(*row[f"{kind}_gain_db"]) for kind in ("textured", "plain"))
    return [str(row["name"]), *texts, *gains, f"{row['parameters'] / 1e6:.2f}"]


WIDE = ("gain on\nplain", "weights\nM")  # on the page alone
HEADS = ["", *COLUMNS.values(), "gain on\ntextured", *WIDE]


def _table(rows: list[dict[str, object]], pairs: int) -> Table:
    """Without the last columns, so that 80 characters hold it."""
    heads = HEADS[: -len(WIDE)]
    table = Table(
        title=f"{pairs} held-out pairs, dB; gain: over {GENERATION}", box=None, padding=(0, 2, 0, 0)
    )
    for head in heads:
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row)[: len(heads)])
    return table


def _page(report: Mapping[str, object], figures: list[str]) -> str:
    """Markdown: how it was made, the table, the claims, the figures."""
    heads = [head.replace("\n", " ") for head in HEADS]
    lines = [
        "| " + " | ".join(cells) + " |"
        for cells in (heads, ["---"] * len(heads), *map(_cells, report["rows"]))
    ]
    expected = [
        f"- {claim}: {it['found_db']:+.2f} dB, expected at least {it['expected_db']:.0f}: "
        + ("met" if it["met"] else "**not met**")
        for claim, it in report["claims"].items()
    ]
    budget, on = report["budget"], report["machine"]
    return "\n".join(
        [
            f"# Ablation on {report['device']}",
            "",
            f"    {report['command']}",
            "",
            f"{budget['steps']} steps of {budget['batch_size']} pairs at {budget['height']}x{budget['width']} for each "
            f"network, seed {report['training']['seed']}, one run each; scored on {report['pairs']} held-out pairs. "
            f"{on['cpu']}, {on['cpus_allowed']} CPUs"
            + (f", {on['gpu']}." if report["device"] != "cpu" else "."),
            "",
            *lines,
            "",
            "PSNR in dB: over the picture, on the pixels of the patterned garments, on the same garments in plain "
            "colours, and of the source picture warped by the flow alone. Gain: over patch generation alone, paired, "
            "with the 95 % interval over the pairs, which does not contain the spread between training runs.",
            "Training uses terms that are not in the paper: an unmasked L1 and, unless its weight is 0, an L1 of the "
            f"warped source picture that fades out (weight {report['training']['warped_source_weight']:g}).",
            "",
            *expected,
            "",
            *(f"![{name}]({name})" for name in figures),
            "",
        ]
    )


def ablation(
    device: Annotated[Literal["cpu", "cuda"], typer.Option()] = "cpu",
    steps: Annotated[int | None, typer.Option(min=1, help="By default 800 on cpu, 8000 on cuda.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Networks trained at a time.")] = 2,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw pairs, beside each network.")] = 0,
    pairs: Annotated[int, typer.Option(min=FIGURE_PEOPLE, help="Held-out pairs that are scored.")] = 256,
    learning_rate: Annotated[float, typer.Option()] = 7e-4,
    adversarial_weight: Annotated[float, typer.Option(help="Eq. 4.")] = 0.02,
    warped_source_weight: Annotated[float, typer.Option(help="Not in the paper; fades out.")] = 2.0,
    l2_weight: Annotated[float, typer.Option(help="Unmasked squared error, not in the paper.")] = 0.0,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option()] = "bf16",
    seed: Annotated[int, typer.Option(min=0, help="Of weights and training pairs.")] = 0,
    fewest: Annotated[
        bool, typer.Option("--fewest", help="Only patch generation alone, and both: for longer budgets.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Of the files; by default the device.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="By default runs/ablation-NAME.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder for JSON and CSV.")] = Path("benchmarks/results"),
    docs: Annotated[Path, typer.Option(help="Folder for the page and its figures.")] = Path("docs/ablation"),
) -> None:
    """Train each variant with the same budget, and score them all."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("--device cuda was asked for, but torch sees no GPU here; use --device cpu")
    try:
        from posewarp.benchmarks.ablating.figures import inside_figure, people_figure
    except ImportError as exc:
        raise BackendError("the figures need matplotlib: pip install posewarp[bench]") from exc
    for folder in (results, docs):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise DataError(f"{folder} cannot be made: {exc.strerror}") from exc
    name = name or device
    budget = BUDGETS[device] if steps is None else replace(BUDGETS[device], steps=steps)
    training = TrainingConfig(
        steps=budget.steps,
        batch_size=budget.batch_size,
        learning_rate=learning_rate,
        adversarial_weight=adversarial_weight,
        masked_l1_weight=5.0,
        l1_weight=5.0,
        l2_weight=l2_weight,
        warped_source_weight=warped_source_weight,
        precision=precision,
        seed=seed,
    )
    generators = train_variants(
        budget,
        training,
        output or Path(f"runs/ablation-{name}"),
        (GENERATION, BOTH) if fewest else tuple(VARIANTS),
        device=device,
        jobs=jobs,
        workers=workers,
    )
    people = SyntheticPeople(budget.height, budget.width, seed=0, split="test", length=pairs)
    rows = measure(generators, people)
    report = {
        "command": shlex.join(["python", "benchmarks/ablation.py", *sys.argv[1:]]),
        "device": device,
        "budget": asdict(budget),
        "training": asdict(training),
        "pairs": pairs,
        "rows": rows,
        "claims": claims(rows),
        "machine": machine(),
        "surroundings": surroundings(),
    }
    Console().print(_table(rows, pairs))
    first = [people[i] for i in range(FIGURE_PEOPLE)]
    figures = {
        f"{name}-people.png": people_figure(generators, first),
        f"{name}-inside.png": inside_figure(generators[BOTH], first[0]),
    }
    for file, figure in figures.items():
        with atomic_write(docs / file) as temporary:
            figure.savefig(temporary, dpi=150)
    written = {
        results / f"ablation-{name}.json": json.dumps(report, indent=1) + "\n",
        results / f"ablation-{name}.csv": _csv(rows),
        docs / f"{name}.md": _page(report, list(figures)),
    }
    for path, text in written.items():
        with atomic_write(path) as temporary:
            temporary.write_text(text)
        print(f"wrote {path}")


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["name", *COLUMNS, "parameters"], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


app = typer.Typer(add_completion=False)
app.command()(ablation)

if __name__ == "__main__":
    command.main(app)
