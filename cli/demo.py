"""``posewarp demo``: the whole journey on this machine, with the checkpoint that ships with posewarp."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from posewarp import models
from posewarp.cli.transfer import explain
from posewarp.export.to_onnx import to_onnx
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.metrics import psnr
from posewarp.runtime.errors import DataError
from posewarp.runtime.files import atomic_write
from posewarp.runtime.image import write_image
from posewarp.runtime.pipeline import PoseTransfer
from posewarp.runtime.session import Session
from posewarp.runtime.threads import available_cpus

CHECKPOINT = Path(models.__file__).parent / "demo" / "small.safetensors"
WARM_UP, RUNS = 10, 50

app = typer.Typer(add_completion=False)


@app.command("demo")
def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for model, pictures and keypoints.")
    ] = Path("demo-out"),
    index: Annotated[int, typer.Option(min=0, help="Which person of the held-out ones.")] = 0,
) -> None:
    """Export the demo checkpoint, re-pose a synthetic person it was not trained on, and measure."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DataError(f"{output} cannot be made: {exc.strerror}") from exc
    model = output / "small.onnx"
    console.print(f"exporting {CHECKPOINT.name}, some ten seconds ...")
    console.print(str(to_onnx(CHECKPOINT, model)), markup=False)

    with Session.open(model) as session:
        transfer = PoseTransfer(session)
        pair = SyntheticPeople(transfer.height, transfer.width, split="test")[index]
        inputs = (pair.source_image, pair.source_keypoints, pair.target_keypoints)
        generated = transfer(*inputs)
        fitted = transfer.fit(*inputs)
        median_ms, p90_ms = _latency_ms(lambda: transfer(*inputs))
        where = f"{session.backend.name} on {session.device}, {available_cpus()} threads"
        flow_name = session.contract.settings["flow"]

    write_image(output / "source.png", pair.source_image)
    write_image(output / "target.png", pair.target_image)
    write_image(output / "generated.png", generated)
    for name in ("source_keypoints", "target_keypoints"):
        with atomic_write(output / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(getattr(pair, name).tolist()) + "\n")
    write_image(output / "panel.png", explain(model, fitted, flow_name, truth=pair.target_image))

    console.print(
        f"person {index} of the held-out ones, against the ground truth (and for copying the source):"
    )
    for name, mask in (("picture", None), ("garment", pair.garment_mask)):
        ours, copied = (_psnr_db(image, pair.target_image, mask) for image in (generated, pair.source_image))
        console.print(f"  PSNR of the {name}: {ours:.2f} dB ({copied:.2f} dB)")
    console.print(
        f"latency of one picture, {where}: median {median_ms:.1f} ms, p90 {p90_ms:.1f} ms ({RUNS} runs)"
    )
    console.print(f"look at [bold]{output / 'panel.png'}[/bold]")


def _psnr_db(image: np.ndarray, target: np.ndarray, mask: np.ndarray | None) -> float:
    images = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in (image, target))
    return float(psnr(*images, None if mask is None else torch.from_numpy(mask)[None, None]))


def _latency_ms(run: Callable[[], object]) -> tuple[float, float]:
    times = []
    for _ in range(WARM_UP + RUNS):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return tuple(np.percentile(times[WARM_UP:], (50, 90)))
