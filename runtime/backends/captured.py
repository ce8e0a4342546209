"""What a native library prints on stdout is kept from there: stdout belongs to what a command itself has to say."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def captured_stdout(noise: tuple[str, ...]) -> Iterator[Callable[[], str]]:
    """Redirect file descriptor 1 while a block runs. It is the whole process's, so let the block be short.

    Args:
        noise: beginnings of lines that are dropped. The others are written to stdout at the end of a block that did
            not raise, since they may be other threads'.

    Yields: a function that tells what was printed till now, without the noise, in one line.
    """
    if os.name != "posix" or not _is_open(1):  # elsewhere, which C library's buffer to empty is not known
        yield lambda: "it printed why"
        return
    flush = ctypes.CDLL(None).fflush
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as file:

        def lines() -> list[str]:
            flush(None)
            text = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
            return [line for line in text.splitlines() if not line.startswith(noise)]

        if sys.stdout is not None:
            sys.stdout.flush()
        flush(None)
        kept = os.dup(1)
        try:
            os.dup2(file.fileno(), 1)
            yield lambda: " ".join(" ".join(lines()).split()) or "nothing"
            if rest := lines():
                os.write(kept, "".join(f"{line}\n" for line in rest).encode())
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
