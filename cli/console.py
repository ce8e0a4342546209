"""What commands over many pictures show on stderr: a bar, and few of their many warnings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from posewarp.runtime.errors import PosewarpWarning


def progress_bar() -> Progress:
    """A bar that vanishes when it is done; none where stderr is no terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def few_warnings() -> Iterator[None]:
    """Show the first warning of ours and count the rest, since what one frame has thousands may have."""
    with warnings.catch_warnings():
        # Neither does Python then keep each text to know it again.
        warnings.simplefilter("always", PosewarpWarning)
        show, count = warnings.showwarning, 0

        def show_first(message: Warning | str, category: type[Warning], *place: object) -> None:
            nonlocal count
            count += issubclass(category, PosewarpWarning)
            if count < 2 or not issubclass(category, PosewarpWarning):
                show(message, category, *place)

        warnings.showwarning = show_first
        try:
            yield
        finally:
            if count > 1:
                show(f"{count - 1} more warnings, not shown", PosewarpWarning, "", 0)
