"""Short runs of ``posewarp train`` on this card in FP32, BF16 and FP16, whose losses must stay beside FP32's.

    python -m posewarp.benchmarks.gpu.training FOLDER --json training.json

Each trains the paper's network (256x176, batches of 8, synthetic people) from the same weights on the same pairs, in a
process of its own, all three at once: their speed says nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from posewarp.runtime import command
from posewarp.runtime.errors import BackendError, ParityError
from posewarp.runtime.files import atomic_write

PRECISIONS = ("fp32", "bf16", "fp16")
STEPS, LOG_EVERY = 40, 10
# Of the generator's mean L1 over the last 10 steps; adversarial training amplifies rounding.
RTOL = 0.1


def train(folder: Path, precision: str, preset: str = "deepfashion", device: str = "cuda") -> dict[str, Any]:
    """One run.

    Returns: the last line of its log with losses.
    Raises: BackendError with the end of what it said if it fails.
    """
    options = (
        f"--preset {preset} --steps {STEPS} --pairs 400 --batch-size 8 --workers 4 --log-every {LOG_EVERY}"
    )
    arguments = ["train", "-o", str(folder), "--device", device, "--precision", precision, *options.split()]
    done = subprocess.run(
        [sys.executable, "-m", "posewarp.cli.main", *arguments], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise BackendError(f"training in {precision} failed: {(done.stderr.strip() or done.stdout)[-500:]}")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "l1" in line][-1]


def training(
    folder: Annotated[Path, typer.Argument(help="For the runs.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Train in each precision, and hold the losses beside FP32's."""
    with ThreadPoolExecutor() as pool:
        lines = pool.map(lambda precision: train(folder / precision, precision), PRECISIONS)
        found = dict(zip(PRECISIONS, lines, strict=True))
    print(*found.items(), sep="\n")
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
    right = found["fp32"]["l1"]
    for precision, line in found.items():
        if not abs(line["l1"] - right) <= RTOL * right:
            raise ParityError(
                f"L1 of {precision} is {line['l1']:.4f}, of fp32 {right:.4f} (limit {RTOL:.0%})"
            )


app = typer.Typer(add_completion=False)
app.command()(training)

if __name__ == "__main__":
    command.main(app)
