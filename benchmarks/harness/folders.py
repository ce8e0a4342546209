"""The folder that a benchmark writes into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from posewarp.runtime.errors import DataError


@contextmanager
def output_folder(path: Path) -> Iterator[None]:
    """Make a folder, and those that it is in; what was made is taken away again if the work fails and left it empty.

    Raises: DataError if it cannot be made.
    """
    try:
        made = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DataError(f"{path} cannot be made: {exc.strerror}") from exc
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something lies in it
            for each in made:
                each.rmdir()
        raise
