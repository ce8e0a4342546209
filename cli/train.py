"""``posewarp train``: train the generator on synthetic people."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.training.config import TrainingConfig
from posewarp.models.training.run import train
from posewarp.runtime.errors import BackendError

DEFAULTS = TrainingConfig()
app = typer.Typer(add_completion=False)


@app.command("train")
def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; an interrupted one goes on.")
    ],
    preset: Annotated[Literal["deepfashion", "market", "small"], typer.Option()] = "small",
    steps: Annotated[
        int, typer.Option(min=1, help="Budget; the learning rate falls to zero at its end.")
    ] = DEFAULTS.steps,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Better 8 or more: batch norm.")
    ] = DEFAULTS.batch_size,
    learning_rate: Annotated[float, typer.Option()] = DEFAULTS.learning_rate,
    adversarial_weight: Annotated[
        float, typer.Option(help="Eq. 4; 0 trains without.")
    ] = DEFAULTS.adversarial_weight,
    masked_l1_weight: Annotated[float, typer.Option(help="Eq. 7.")] = DEFAULTS.masked_l1_weight,
    l1_weight: Annotated[float, typer.Option(help="Unmasked L1, not in the paper.")] = DEFAULTS.l1_weight,
    l2_weight: Annotated[
        float, typer.Option(help="Unmasked squared error, not in the paper.")
    ] = DEFAULTS.l2_weight,
    warped_source_weight: Annotated[
        float, typer.Option(help="L1 of the warped source picture on the garment, fading; not in the paper.")
    ] = DEFAULTS.warped_source_weight,
    ema_decay: Annotated[float, typer.Option()] = DEFAULTS.ema_decay,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option()] = DEFAULTS.precision,
    seed: Annotated[int, typer.Option()] = DEFAULTS.seed,
    patch_generation: Annotated[bool, typer.Option(help="Ablation switch.")] = True,
    patch_transfer: Annotated[bool, typer.Option(help="Ablation switch.")] = True,
    pairs: Annotated[int, typer.Option(min=2, help="Size of the training set.")] = 100_000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that render pairs.")] = 1,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saves and sample grids.")] = 250,
    init_from: Annotated[Path | None, typer.Option(help="Checkpoint to fine-tune.")] = None,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Interrupt at this step.")] = None,
) -> None:
    """Train on synthetic people. Run the same command again to go on where it stopped."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError("--device cuda was asked for, but torch sees no GPU here; use --device cpu")
    network = GeneratorConfig.preset(preset, patch_generation=patch_generation, patch_transfer=patch_transfer)
    training = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        adversarial_weight=adversarial_weight,
        masked_l1_weight=masked_l1_weight,
        l1_weight=l1_weight,
        l2_weight=l2_weight,
        warped_source_weight=warped_source_weight,
        ema_decay=ema_decay,
        precision=precision,
        seed=seed,
    )
    size = {"height": network.height, "width": network.width, "seed": seed}
    print(f"training {steps} steps; log, samples and saves in {output}", flush=True)
    try:
        result = train(
            output,
            network,
            training,
            SyntheticPeople(**size, split="train", length=pairs),
            # Not the pairs that benchmarks/quality.py scores: those are the first of the test split.
            SyntheticPeople(**{**size, "seed": seed + 1}, split="test", length=64),
            device=device,
            workers=workers,
            save_every=save_every,
            stop_after=stop_after,
            init_from=init_from,
            metadata={"command": shlex.join(["posewarp", *sys.argv[1:]]), "data": "synthetic people"},
        )
    except (KeyboardInterrupt, SystemExit):
        print(f"\ninterrupted; the same command goes on from the last save in {output}", file=sys.stderr)
        raise
    done = (
        f"wrote {result}" if result else f"stopped at step {stop_after} of {steps}; the same command goes on"
    )
    print(done)
    print(json.dumps({"generator": asdict(network), "training": asdict(training)}))
