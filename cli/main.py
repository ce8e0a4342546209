"""The ``posewarp`` command. Each subcommand's module is imported when it is called, so that --help stays quick."""

from __future__ import annotations

from importlib import import_module

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from posewarp.runtime import command

# name: (module that holds its ``app``, one line for --help), in the order of the journey.
COMMANDS = {
    "train": ("posewarp.cli.train", "Train the generator on synthetic people."),
    "export": ("posewarp.export.to_onnx", "Checkpoint or module to ONNX, proven against PyTorch."),
    "lint": ("posewarp.export.lint", "What of a model will fail, or move pixels, at a runtime."),
    "fp16": ("posewarp.export.to_fp16", "FP32 ONNX to FP16 or BF16, sampling coordinates in FP32."),
    "split": ("posewarp.export.split", "Cut in two: one picture's part once, the pose's each time."),
    "parity": ("posewarp.export.parity", "Two models on the same inputs: outputs, and pixels at every warp."),
    "build": ("posewarp.export.to_engine", "TensorRT or TensorRT-RTX engine, checked, with its side-car."),
    "adopt": ("posewarp.export.adopt", "Side-car for an engine that trtexec built."),
    "inspect": ("posewarp.cli.inspect_model", "Print a model's contract, opset, types, warps and metadata."),
    "transfer": ("posewarp.cli.transfer", "Re-pose the person of a picture."),
    "animate": ("posewarp.cli.animate", "Re-pose the person of a picture into a video."),
    "demo": ("posewarp.cli.demo", "The whole journey with the checkpoint that ships here."),
}


class _LazyGroup(TyperGroup):
    def list_commands(self, ctx: object) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: object, name: str) -> object:
        return typer.main.get_command(import_module(COMMANDS[name][0]).app) if name in COMMANDS else None

    def format_help(self, ctx: object, formatter: object) -> None:
        table = Table.grid(padding=(0, 3))
        for name, (_, line) in COMMANDS.items():
            table.add_row(f"  [bold]{name}[/bold]", line)
        console = Console()
        console.print(
            "Usage: posewarp COMMAND [OPTIONS] ...", "", "Commands:", table, "", sep="\n", highlight=False
        )
        console.print("posewarp COMMAND --help says more.", highlight=False)


app = typer.Typer(cls=_LazyGroup, add_completion=False, no_args_is_help=True)


@app.callback()
def _root() -> None:
    """From a training checkpoint of a warping network to production, proven at each step."""


def main() -> None:
    command.main(app)
