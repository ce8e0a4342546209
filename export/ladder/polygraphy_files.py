"""Inputs and outputs of runs in Polygraphy's JSON, so that ``polygraphy run`` takes and gives the same files.

Polygraphy is imported when such a file is read or written, and only then.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from posewarp.runtime.errors import DataError
from posewarp.runtime.files import atomic_write

Arrays = Mapping[str, np.ndarray]


def read_inputs(path: str | Path) -> list[dict[str, np.ndarray]]:
    """Read what ``polygraphy run --save-inputs`` or ``save_inputs`` wrote: one set of arrays an iteration.

    Raises: DataError if Polygraphy is not there, or the file is missing or something else.
    """
    feeds = _load(path)
    if not isinstance(feeds, list) or not feeds or not all(_are_arrays(each) for each in feeds):
        raise DataError(f"{path} holds no inputs of Polygraphy's, a list of arrays by input name")
    return [dict(each) for each in feeds]


def save_inputs(path: str | Path, feeds: Sequence[Arrays]) -> None:
    """Write inputs for ``polygraphy run --load-inputs``, one set an iteration.

    Raises: DataError if Polygraphy is not there or the file cannot be written.
    """
    _save(path, [dict(each) for each in feeds])


def read_outputs(path: str | Path) -> list[dict[str, np.ndarray]]:
    """Read the outputs of the first runner that ``polygraphy run --save-outputs`` wrote, one set an iteration.

    Raises: DataError if Polygraphy is not there, or the file is missing or something else.
    """
    results = _load(path)
    iterations = results[0][1] if hasattr(results, "lst") and len(results) else None
    if not iterations:
        raise DataError(f"{path} holds no outputs of Polygraphy's (polygraphy run --save-outputs)")
    return [{name: np.asarray(array) for name, array in each.items()} for each in iterations]


def save_outputs(path: str | Path, runner: str, outputs: Sequence[Arrays]) -> None:
    """Write outputs for ``polygraphy run --load-outputs``.

    Args:
        path: of the file.
        runner: what Polygraphy calls them in its report.
        outputs: one set an iteration, of the same inputs in the same order.

    Raises: DataError if Polygraphy is not there or the file cannot be written.
    """
    _polygraphy()
    from polygraphy.comparator import IterationResult, RunResults

    results = RunResults()
    results.append((runner, [IterationResult(dict(each), runner_name=runner) for each in outputs]))
    _save(path, results)


def _are_arrays(feed: object) -> bool:
    return isinstance(feed, Mapping) and all(isinstance(array, np.ndarray) for array in feed.values())


def _load(path: str | Path) -> object:
    polygraphy = _polygraphy()
    try:
        text = Path(path).read_text()
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path} is not a text file") from exc
    try:
        return polygraphy.from_json(text)
    except Exception as exc:  # damaged base64, unknown classes, arrays that do not parse
        raise DataError(f"{path} is not Polygraphy's JSON: {type(exc).__name__} {exc}") from exc


def _save(path: str | Path, value: object) -> None:
    polygraphy = _polygraphy()
    with atomic_write(path) as temporary:
        temporary.write_text(polygraphy.to_json(value))


def _polygraphy() -> ModuleType:
    # On its first import it prints a hint about colours.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            import polygraphy.comparator
            import polygraphy.json as polygraphy
        except ImportError as exc:
            raise DataError("Polygraphy's files need Polygraphy; pip install polygraphy") from exc
    return polygraphy
