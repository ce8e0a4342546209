"""How a command ends: 0 done, 1 failed, 2 misuse, 130 interrupted, 143 terminated; and what it says then."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from posewarp.runtime.errors import PosewarpError, PosewarpWarning


def main(app: Callable[[], object]) -> None:
    """Run a command. Errors of ours become one line on stderr, ``ClassName: message``, without a traceback.

    Args:
        app: parses ``sys.argv``, runs, and exits with 2 on misuse, as a Typer or Click application does.
    """
    try:
        # Unwind as for Ctrl-C: temporary files are removed and worker processes ended.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        warnings.showwarning = _one_line(warnings.showwarning)
        app()
    except PosewarpError as exc:
        # Quoted exceptions of other libraries may span lines.
        print(f"{type(exc).__name__}: {' '.join(str(exc).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def importing() -> Iterator[None]:
    """While modules are imported: Ctrl-C and SIGTERM end the process at once, silently, with the codes of ``main``.

    There is nothing to unwind yet, and an exception raised in the middle of an import does not arrive: extension
    modules turn it into an ImportError, and callbacks of the import system print it and go on.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as it is in a shell's background jobs
            signal.signal(number, lambda number, _: os._exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _one_line(show: Callable[..., None]) -> Callable[..., None]:
    """Warnings of ours as one line, without the place in our source; others as they were."""

    def show_warning(message: Warning | str, category: type[Warning], *place: object) -> None:
        if issubclass(category, PosewarpWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show(message, category, *place)

    return show_warning
