"""The networks that the later steps run: each one's checkpoint, ONNX file and file in mixed precision, made once.

    python -m posewarp.benchmarks.gpu.networks FOLDER

FOLDER receives, for ``demo`` and ``deepfashion``, NAME.safetensors, NAME.onnx, NAME.fp16.onnx, and NAME.half.onnx: the
same with nothing kept in FP32, to show what that costs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from posewarp.benchmarks.harness.networks import find_networks
from posewarp.export.graphs.graph import inline_functions, load_model, save_model
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.precision.half import convert
from posewarp.export.to_fp16 import to_fp16
from posewarp.runtime import command

NETWORKS = ("demo", "deepfashion")
FP16, HALF = ".fp16.onnx", ".half.onnx"


def networks(folder: Annotated[Path, typer.Argument(help="For the files.")]) -> None:
    """Export both networks, and convert them to FP16."""
    folder.mkdir(parents=True, exist_ok=True)
    for network in find_networks(NETWORKS, folder):
        checkpoint = folder / f"{network.name}.safetensors"
        if Path(network.torch) != checkpoint:
            shutil.copyfile(network.torch, checkpoint)
        print(to_fp16(network.onnx, network.onnx.with_suffix(FP16)))
        plain = inline_functions(rewrite_warps(load_model(network.onnx), "gridsample"))
        save_model(convert(plain, {}), network.onnx.with_suffix(HALF))


app = typer.Typer(add_completion=False)
app.command()(networks)

if __name__ == "__main__":
    command.main(app)
