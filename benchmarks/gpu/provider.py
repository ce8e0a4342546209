"""The exported files on this card by ONNX Runtime's CUDA provider, against PyTorch's FP32.

    python -m posewarp.benchmarks.gpu.provider FOLDER --json provider.json

FOLDER is what benchmarks/gpu/networks.py made. The FP32 and the mixed FP16 file must pass; the one with nothing kept in
FP32 is measured beside them, whatever it gives. Where the provider is not, the last line says "not measured", exit
code 77.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from posewarp.benchmarks.gpu.engines import BATCHES, NOT_MEASURED
from posewarp.benchmarks.gpu.networks import FP16, HALF, NETWORKS
from posewarp.export.ladder.measures import LIBRARIES_ATOL, TOLERANCES
from posewarp.export.parity import parity
from posewarp.runtime import command
from posewarp.runtime.errors import BackendError, ParityError
from posewarp.runtime.files import atomic_write
from posewarp.runtime.session import Session
from posewarp.runtime.threads import available_cpus

FILES = {"fp32": ".onnx", "fp16": FP16, "all fp16": HALF}
MUST_PASS = ("fp32", "fp16")


def measure(folder: Path, name: str, kind: str) -> dict[str, Any]:
    """One file: its outputs against PyTorch's, and its positions against the FP32 file's.

    Returns: ``status``, the worst of all outputs and batches (``max_abs``, ``psnr_db``), and of all warps the 99.9th
        percentile inside the frame (``own_flow_p999_px``).
    """
    onnx, file = folder / f"{name}.onnx", folder / f"{name}{FILES[kind]}"
    dtype, batches = (kind, BATCHES) if kind in MUST_PASS else ("fp16", BATCHES[:2])
    options = {
        "dtype": dtype,
        "device": "cuda",
        "tolerance": {"atol": LIBRARIES_ATOL} if dtype == "fp32" else None,
    }
    against_torch = parity(folder / f"{name}.safetensors", file, batches=batches, **options)
    positions = parity(onnx, file, batches=(1,), **options)
    print(against_torch, positions, sep="\n")
    measured = [output for case in against_torch.cases for output in case.outputs]
    moved = max(warp.own_flow_p999_px for warp in positions.warps)
    limit = TOLERANCES[dtype].own_flow_px
    return {
        "status": against_torch.status if moved <= limit else f"positions move by {moved:.3g} px",
        "max_abs": max(output.max_abs for output in measured),
        "psnr_db": min(output.psnr_db for output in measured),
        "own_flow_p999_px": moved,
    }


def provider(
    folder: Annotated[Path, typer.Argument(help="With the networks' files.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Compare the files of both networks; exit 1 if one that must pass does not, 77 if there is no CUDA provider."""
    try:
        Session.open(folder / f"{NETWORKS[0]}.onnx", device="cuda").close()
    except BackendError as exc:
        print(f"not measured: {exc}")
        raise SystemExit(NOT_MEASURED) from exc
    tasks = [(folder, name, kind) for name in NETWORKS for kind in FILES]
    # At once, since PyTorch, the reference, is on the CPU; the demo's are soon done.
    share = max(1, available_cpus() // len(FILES))
    with ProcessPoolExecutor(len(tasks), get_context("spawn"), torch.set_num_threads, (share,)) as pool:
        measured = list(pool.map(measure, *zip(*tasks, strict=True)))
    found: dict[str, dict[str, Any]] = {name: {} for name in NETWORKS}
    for (_, name, kind), figures in zip(tasks, measured, strict=True):
        found[name][kind] = figures
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
    bad = [
        f"{name} {kind}: {figures['status']}"
        for name, kinds in found.items()
        for kind, figures in kinds.items()
        if kind in MUST_PASS and figures["status"] != "passed"
    ]
    if bad:
        raise ParityError("; ".join(bad))


app = typer.Typer(add_completion=False)
app.command()(provider)

if __name__ == "__main__":
    command.main(app)
