"""``posewarp train``: train the generator on a data set, or on synthetic people."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from posewarp.cli.options import to_frame, to_parsing
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.pair import Pair
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.training.config import DECLINE_EPOCHS, TrainingConfig
from posewarp.models.training.processes import join, leave
from posewarp.models.training.run import train
from posewarp.runtime.errors import ContractError

DEFAULTS = TrainingConfig()
HELD_OUT = 64
SYNTHETIC_PAIRS = 100_000
app = typer.Typer(add_completion=False)


@app.command("train")
def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; an interrupted one goes on.")
    ],
    preset: Annotated[Literal["deepfashion", "market", "small"], typer.Option()] = "small",
    height: Annotated[int | None, typer.Option(help="Of the pictures; the preset's if left out.")] = None,
    width: Annotated[int | None, typer.Option(help="Of the pictures; the preset's if left out.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of a data set; synthetic people if left out.")
    ] = None,
    layout: Annotated[
        Literal["deepfashion", "market"] | None,
        typer.Option(help="Of --data; found by its files if left out."),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of parsing maps, of garments, for --data.")
    ] = None,
    parsing: Annotated[
        str | None, typer.Option(help="Which classes the maps of --masks have; adgan8 if left out.")
    ] = None,
    keypoint_frame: Annotated[
        str | None, typer.Option(help="Frame of --data's keypoints, such as 256x256; by default judged.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=2, help=f"Number of synthetic pairs; {SYNTHETIC_PAIRS} if left out.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Budget: the learning rate's shape is fitted into it. "
            f"Left out, the paper's: sqrt(pairs) + {DECLINE_EPOCHS} epochs.",
        ),
    ] = None,
    epoch_pairs: Annotated[
        int, typer.Option(min=0, help="Pairs of an epoch of the paper's budget; 0: all.")
    ] = DEFAULTS.epoch_pairs,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Of all processes together; better 8 or more for each: batch norm.")
    ] = DEFAULTS.batch_size,
    learning_rate: Annotated[float, typer.Option()] = DEFAULTS.learning_rate,
    discriminator_lr_ratio: Annotated[
        float, typer.Option(help="The discriminators' learning rate over the generator's.")
    ] = DEFAULTS.discriminator_lr_ratio,
    adversarial_weight: Annotated[
        float, typer.Option(help="Eq. 4; 0 trains without.")
    ] = DEFAULTS.adversarial_weight,
    adversarial_kind: Annotated[
        Literal["log", "lsgan"], typer.Option(help="Eq. 4, or squares in place of its logs.")
    ] = DEFAULTS.adversarial_kind,
    vgg: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="VGG19's weights for eq. 5 and 6: a file, or torchvision for its own loader. "
            "Left out, both are off.",
        ),
    ] = None,
    perceptual_weight: Annotated[
        float | None,
        typer.Option(help=f"Eq. 5; needs --vgg. {DEFAULTS.perceptual_weight:g} if left out."),
    ] = None,
    style_weight: Annotated[
        float | None,
        typer.Option(help=f"Eq. 6; needs --vgg. {DEFAULTS.style_weight:g} if left out."),
    ] = None,
    masked_l1_weight: Annotated[float, typer.Option(help="Eq. 7.")] = DEFAULTS.masked_l1_weight,
    l1_weight: Annotated[float, typer.Option(help="Unmasked L1, not in the paper.")] = DEFAULTS.l1_weight,
    l2_weight: Annotated[
        float, typer.Option(help="Unmasked squared error, not in the paper.")
    ] = DEFAULTS.l2_weight,
    warped_source_weight: Annotated[
        float, typer.Option(help="L1 of the warped source picture on the garment, fading; not in the paper.")
    ] = DEFAULTS.warped_source_weight,
    strict_paper: Annotated[
        bool, typer.Option("--strict-paper", help="The paper's terms alone; needs --vgg.")
    ] = False,
    ema_decay: Annotated[float, typer.Option()] = DEFAULTS.ema_decay,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="fp16 on a GPU only.")
    ] = DEFAULTS.precision,
    seed: Annotated[int, typer.Option(min=0)] = DEFAULTS.seed,
    patch_generation: Annotated[bool, typer.Option(help="Ablation switch.")] = True,
    patch_transfer: Annotated[bool, typer.Option(help="Ablation switch.")] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda; of cuda each process takes its own GPU.")] = "cpu",
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that make pairs beside each training process.")
    ] = 1,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of the log.")] = 50,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saves and sample grids.")] = 250,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the log for TensorBoard too.")
    ] = False,
    init_from: Annotated[Path | None, typer.Option(help="Checkpoint to fine-tune.")] = None,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Interrupt at this step.")] = None,
) -> None:
    """Train the generator. Run the same command again to go on where it stopped.

    Several processes, on GPUs or not: torchrun --nproc_per_node N -m posewarp.cli.main train ...
    """
    sizes = {name: value for name, value in (("height", height), ("width", width)) if value is not None}
    network = GeneratorConfig.preset(
        preset, patch_generation=patch_generation, patch_transfer=patch_transfer, **sizes
    )
    training = TrainingConfig(
        steps=steps,
        epoch_pairs=epoch_pairs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        discriminator_lr_ratio=discriminator_lr_ratio,
        adversarial_weight=adversarial_weight,
        adversarial_kind=adversarial_kind,
        perceptual_weight=DEFAULTS.perceptual_weight if perceptual_weight is None else perceptual_weight,
        style_weight=DEFAULTS.style_weight if style_weight is None else style_weight,
        masked_l1_weight=masked_l1_weight,
        l1_weight=l1_weight,
        l2_weight=l2_weight,
        warped_source_weight=warped_source_weight,
        vgg=vgg,
        strict_paper=strict_paper,
        ema_decay=ema_decay,
        precision=precision,
        seed=seed,
    )
    for option, weight in (("--perceptual-weight", perceptual_weight), ("--style-weight", style_weight)):
        if weight and vgg is None:
            raise ContractError(
                f"{option} {weight:g} needs VGG19's weights, and got none; give them by --vgg"
            )
    if data is None:
        _refuse_without_data(layout=layout, masks=masks, parsing=parsing, keypoint_frame=keypoint_frame)
        training_set, held_out, about = _synthetic(network, seed, pairs or SYNTHETIC_PAIRS)
    elif pairs is not None:
        raise ContractError("--pairs is the number of synthetic pairs, but --data was given; leave out one")
    else:
        training_set, held_out, about = _data_set(
            network,
            data,
            layout=layout,
            masks=masks,
            parsing=to_parsing(parsing, masks),
            keypoint_frame=to_frame(keypoint_frame, "--keypoint-frame"),
        )

    processes = join(device)
    training = training.resolved(len(training_set))
    begun = False

    def tell_start() -> None:
        nonlocal begun
        begun = True
        print(
            f"training {training.steps} steps on {len(training_set)} pairs; log, samples and saves in {output}"
        )
        if steps is None:
            print("that is the paper's budget; --steps fits its schedule into another one")
        sys.stdout.flush()

    try:
        result = train(
            output,
            network,
            training,
            training_set,
            held_out,
            device=device,
            workers=workers,
            log_every=log_every,
            save_every=save_every,
            stop_after=stop_after,
            init_from=init_from,
            tensorboard=tensorboard,
            data=about,
            metadata={"command": shlex.join(["posewarp", *sys.argv[1:]])},
            at_start=tell_start,
        )
    except (KeyboardInterrupt, SystemExit):
        if processes.is_main:
            print(f"\ninterrupted; the same command goes on from the last save in {output}", file=sys.stderr)
        raise
    finally:
        leave()
    if processes.is_main:
        if result is None:
            print(f"stopped at step {stop_after} of {training.steps}; the same command goes on")
        elif begun:
            print(f"wrote {result}")
        else:
            print(f"already finished: {result} is of step {training.steps} and stays as it is")
        print(json.dumps({"generator": asdict(network), "training": asdict(training)}))


Sets = tuple[
    Sequence[Pair], Sequence[Pair], str
]  # to train on, held out, and what they are, for the metadata


def _synthetic(network: GeneratorConfig, seed: int, pairs: int) -> Sets:
    size = {"height": network.height, "width": network.width}
    # Not the pairs that benchmarks/quality.py scores: those are the first of the test split.
    held_out = SyntheticPeople(**size, seed=seed + 1, split="test", length=HELD_OUT)
    return SyntheticPeople(**size, seed=seed, split="train", length=pairs), held_out, "synthetic people"


def _data_set(network: GeneratorConfig, root: Path, **options: Any) -> Sets:
    from posewarp.models.data.pairs import open_dataset

    options["size"] = network.height, network.width
    training_set, test = open_dataset(root, "train", **options), open_dataset(root, "test", **options)
    # Spread over the list, in which neighbours show the same person.
    held_out = [test[i] for i in np.linspace(0, len(test) - 1, min(HELD_OUT, len(test))).astype(int)]
    about = {
        "root": os.fspath(root),
        "layout": training_set.files.layout,
        "masks": options["masks"] and os.fspath(options["masks"]),
        "parsing": options["parsing"] if options["masks"] else None,
        "keypoint_frame": training_set.keypoint_frame,
        "train_pairs": len(training_set),
        "test_pairs": len(test),
    }
    return training_set, held_out, json.dumps(about)


def _refuse_without_data(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise ContractError(f"{option} belongs to a data set, but there is no --data; give its folder")
