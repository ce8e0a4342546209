"""What a terminal shows of a build."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn


@contextmanager
def display() -> Iterator[Callable[[str, Any], None]]:
    """Show the builder's phases on a terminal while it builds."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def tell(kind: str, value: Any) -> None:
            if kind == "phase":
                name, _, steps = value
                tasks[name] = progress.add_task(name, total=steps)
            elif kind == "step":
                progress.advance(tasks[value[0]])
            elif kind == "done":
                progress.remove_task(tasks.pop(value))

        yield tell
