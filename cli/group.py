"""The subcommands behind ``posewarp``. Each one's module is imported when it is called, so that --help stays quick."""

from __future__ import annotations

from importlib import import_module

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from posewarp.cli.main import COMMANDS
from posewarp.runtime import command


class _LazyGroup(TyperGroup):
    def list_commands(self, ctx: object) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: object, name: str) -> object:
        if name not in COMMANDS:
            return None
        with command.importing():
            module = import_module(COMMANDS[name][0])
        return typer.main.get_command(module.app)

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
