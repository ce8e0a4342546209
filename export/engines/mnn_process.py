"""MNN's converter, and a run of what it wrote, each in a process of its own: both print, and both may crash.

Each child is this file run with -m. MNN's own command ``mnnconvert`` is not used: it installs a package and sends a
log of each conversion, with the machine's id, to its makers. The extension module that it wraps does neither.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from posewarp.runtime.errors import EngineError, PosewarpError
from posewarp.runtime.session import Session

_LAST_LINES = 4
_REFUSED = 3  # exit code of a child that printed a PosewarpError as its last line


def convert(onnx: Path, mnn: Path) -> None:
    """Write an MNN file from an ONNX file without local functions.

    Raises: EngineError, one line, naming the operators that MNN does not have.
    """
    if find_spec("MNN") is None:
        raise EngineError("MNN is not installed: pip install 'posewarp[mnn]'")
    said = _child("convert", onnx, mnn)
    unknown = re.search(r"Not Support: *(.+)", said)
    if unknown:
        names = sorted(set(unknown[1].replace("ONNX::", "").split()))
        raise EngineError(
            f"MNN has no operator {', '.join(names)}; write it as other standard operators", got=names
        )
    if not mnn.is_file():  # the converter says True even then
        raise EngineError(f"MNN's converter wrote no file; it last said: {_last(said)}")


def run(mnn: Path, feeds: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The outputs of an MNN file, which has its side-car, for several inputs.

    Raises: EngineError, one line, whatever ended the child.
    """
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        for index, each in enumerate(feeds):
            np.savez(Path(folder) / f"feeds{index}.npz", **each)
        _child("run", mnn, folder)
        results = []
        for index in range(len(feeds)):
            with np.load(Path(folder) / f"results{index}.npz") as arrays:
                results.append(dict(arrays))
    return results


def _child(*arguments: str | Path) -> str:
    """What a child printed."""
    done = subprocess.run(
        [sys.executable, "-m", "posewarp.export.engines.mnn_process", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "PYTHONSAFEPATH": "1"},  # no module of the folder that the user is in
    )
    if done.returncode == _REFUSED:
        raise EngineError(done.stdout.strip().splitlines()[-1])
    if done.returncode:
        ended = f"ended with code {done.returncode}"
        if done.returncode < 0:
            ended = f"was ended by {signal.Signals(-done.returncode).name}"
        raise EngineError(
            f"the process in which MNN should {arguments[0]} {ended}; it last said: {_last(done.stdout)}"
        )
    return done.stdout


def _last(said: str) -> str:
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_LINES:]) or "nothing"


def _serve(task: str, first: str, second: str) -> None:
    """Be the child."""
    if task == "convert":
        import _tools  # of MNN's distribution

        first, second = os.path.abspath(first), os.path.abspath(second)
        os.chdir(
            Path(second).parent
        )  # not the user's folder: for a while it keeps a hidden file where it runs
        words = {"-f": "ONNX", "--modelFile": first, "--MNNModel": second, "--bizCode": "posewarp"}
        _tools.mnnconvert(["mnnconvert", *(part for pair in words.items() for part in pair)])
        return
    with Session.open(first) as session:
        for index in range(len(list(Path(second).glob("feeds*.npz")))):
            with np.load(Path(second) / f"feeds{index}.npz") as feeds:
                np.savez(Path(second) / f"results{index}.npz", **session.run(dict(feeds)))


if __name__ == "__main__":
    try:
        _serve(*sys.argv[1:])
    except PosewarpError as exc:
        print(exc, flush=True)
        sys.exit(_REFUSED)
