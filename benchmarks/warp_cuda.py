"""How fast the CUDA kernels are, beside PyTorch's grid_sample, cuDNN's sampler and a copy of as many bytes.

    make plugins && cmake --build build/plugins --target posewarp_checks
    python benchmarks/warp_cuda.py --json warp_cuda.json

Ours comes from the program posewarp_cuda_bench, which compares each result with the core on the host before it times
it; PyTorch is timed in this process, the same way (median of 20 batches of 50 launches between CUDA events), at the
same shapes, with attributes that cuDNN's sampler takes too (bilinear, zeros, align_corners). A copy of the bytes that
a warp must move (features and grid once in, output once out) is the limit that memory sets. Maps this small stay in
the GPU's cache, and so does the copy.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from posewarp.runtime import command
from posewarp.runtime.errors import PluginError
from posewarp.runtime.files import atomic_write

PROGRAM = Path("build/plugins/bin/posewarp_cuda_bench")
BATCHES, LAUNCHES = 20, 50
COLUMNS = ("fp32", "fp16", "fp16 HWC8", "PyTorch fp32", "PyTorch fp16", "cuDNN fp32")


def time_us(sample: Callable[[], object]) -> float:
    """Median time of one call on the current stream, microseconds; a first batch warms up."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(1 + BATCHES):
        start.record()
        for _ in range(LAUNCHES):
            sample()
        stop.record()
        stop.synchronize()
        times.append(1e3 * start.elapsed_time(stop) / LAUNCHES)
    return statistics.median(times[1:])


def time_pytorch(shape: tuple[int, int, int, int], smooth: bool) -> dict[str, float]:
    """PyTorch's columns for one shape, microseconds. Its FP16 takes an FP16 grid, so it moves less and errs more."""
    batch, _, height, width = shape
    features = torch.rand(shape, device="cuda")
    grid = 2.6 * torch.rand(batch, height, width, 2, device="cuda") - 1.3
    if smooth:
        identity = torch.tensor([[[1.0, 0, 0.05], [0, 1, -0.05]]], device="cuda").expand(batch, 2, 3)
        grid = torch.nn.functional.affine_grid(identity, shape, align_corners=True)

    def measure(features: torch.Tensor, grid: torch.Tensor, cudnn: bool) -> float:
        with torch.backends.cudnn.flags(enabled=cudnn):
            return time_us(lambda: torch.nn.functional.grid_sample(features, grid, align_corners=True))

    return {
        "PyTorch fp32": measure(features, grid, cudnn=False),
        "PyTorch fp16": measure(features.half(), grid.half(), cudnn=False),
        "cuDNN fp32": measure(features, grid, cudnn=True),
    }


def run_program(program: Path) -> list[dict] | None:
    """Rows of our own kernels; None where there is no GPU to run them.

    Raises: PluginError if the program is missing, or its validation failed.
    """
    if not program.exists():
        raise PluginError(
            f"no {program}; build it: make plugins && cmake --build build/plugins --target posewarp_checks"
        )
    done = subprocess.run([program, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise PluginError(f"{program} failed: {done.stdout} {done.stderr}")
    if done.stdout.startswith("not measured"):
        print(done.stdout, end="")
        return None
    return [json.loads(line) for line in done.stdout.splitlines()]


def warp_cuda(
    program: Annotated[Path, typer.Option(help="The built posewarp_cuda_bench.")] = PROGRAM,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Time the CUDA kernels beside PyTorch, cuDNN and a copy."""
    measured = run_program(program)
    if measured is None:
        return
    rows: dict[tuple, dict[str, float]] = {}
    for kernel in measured:
        row = rows.setdefault((tuple(kernel["shape"]), kernel["grid"]), {})
        row[kernel["kernel"]] = kernel["sample_us"]
        row[f"copy of {kernel['kernel']}"] = kernel["copy_us"]
    for (shape, grid), row in rows.items():
        row |= time_pytorch(shape, smooth=grid == "smooth")
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
    console = Console(width=150)
    console.print(
        ", ".join(machine.values()) + "; microseconds, in brackets times that of the copy", highlight=False
    )
    table = Table("shape", "grid", *COLUMNS)
    for (shape, grid), row in rows.items():
        table.add_row(
            "x".join(map(str, shape)),
            grid,
            *(
                f"{row[name]:.1f}"
                + (f" ({row[name] / row[f'copy of {name}']:.1f})" if f"copy of {name}" in row else "")
                for name in COLUMNS
            ),
        )
    console.print(table)
    if json_path is not None:
        report = {
            "machine": machine,
            "rows": [{"shape": shape, "grid": grid, **row} for (shape, grid), row in rows.items()],
        }
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")


app = typer.Typer(add_completion=False)
app.command()(warp_cuda)

if __name__ == "__main__":
    command.main(app)
