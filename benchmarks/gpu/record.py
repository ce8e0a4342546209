"""The one result file of benchmarks/gpu.sh, from what its steps have left so far; the standard library alone.

    python benchmarks/gpu/record.py WORK results/card-date.json

WORK holds machine.tsv (name, value), steps.tsv (name, exit code, seconds, limit) and steps/NAME: a log, and figures as
JSON, JSON lines or JUnit's XML.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

FORMAT = 1
PASSED, FAILED, NOT_MEASURED, NOT_RUN = "passed", "failed", "not measured", "not run"
_SKIP = "77"  # as in GNU Automake: there is nothing here to test
_TIMED_OUT = ("124", "137")  # timeout's own: it sent TERM, and after that KILL
_LINES, _FAILED_LINES = 5, 30


def record(work: Path) -> dict[str, Any]:
    """All that is known."""
    machine = dict(line.split("\t") for line in (work / "machine.tsv").read_text().splitlines())
    steps = [_step(work, *line.split("\t")) for line in (work / "steps.tsv").read_text().splitlines()]
    versions = next(
        (step["figures"].get("environment") for step in steps if step["name"] == "environment"), None
    )
    wheels = sorted(path.name for path in (work / "wheels").glob("*.whl"))
    return {"format": FORMAT, **machine, "versions": versions or {}, "wheels": wheels, "steps": steps}


def _step(work: Path, name: str, code: str, seconds: str, limit: str) -> dict[str, Any]:
    folder = work / "steps" / name
    lines = [
        _scrub(line, work)
        for line in (folder / "log").read_text(errors="replace").splitlines()
        if line.strip()
    ]
    last = lines[-1] if lines else ""
    figures: dict[str, Any] = {}
    state, reason = _state(code, int(seconds), int(limit), last)
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix in _READERS:
                figures[path.stem] = _READERS[path.suffix](_scrub(path.read_text(), work))
        except (ValueError, KeyError, ElementTree.ParseError) as exc:
            state, reason = FAILED, f"{path.name} cannot be read: {exc}"
    kept = lines[-(_FAILED_LINES if state == FAILED else _LINES) :]
    return {
        "name": name,
        "state": state,
        "reason": reason,
        "seconds": int(seconds),
        "limit_s": int(limit),
        "last_lines": kept,
        "figures": figures,
    }


def _state(code: str, seconds: int, limit: int, last: str) -> tuple[str, str]:
    if code == "0":
        return PASSED, ""
    if code == "skipped":
        return NOT_RUN, last
    if code == _SKIP:
        return NOT_MEASURED, last.removeprefix("not measured: ")
    if code in _TIMED_OUT and seconds >= limit:
        return FAILED, f"over its limit of {limit} s"
    return FAILED, f"exit code {code}: {last}"


def _scrub(text: str, work: Path) -> str:
    """Without the machine's own paths: a result is committed."""
    text = text.replace(str(work), "WORK").replace(f"{Path.cwd()}/", "").replace(str(Path.cwd()), ".")
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/(?:[^\s/\\\"'<>]+/)*", "", text)


def _json(text: str) -> Any:
    return json.loads(text, parse_constant=str)  # NaN and Infinity are no JSON


def _junit(text: str) -> dict[str, Any]:
    """Counts, and why tests were skipped."""
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    failed = [
        case.get("name")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skips = [case.find("skipped") for case in cases]
    skipped = [element.get("message") for element in skips if element is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": failed,
        "skipped": len(skipped),
        "skip_reasons": sorted(set(filter(None, skipped))),
    }


_READERS = {
    ".json": _json,
    ".jsonl": lambda text: [_json(line) for line in text.splitlines()],
    ".xml": _junit,
}


def main(work: str, target: str) -> None:
    """Write the result file, whole or not at all."""
    text = json.dumps(record(Path(work)), indent=1, allow_nan=False) + "\n"
    # Not files.atomic_write: this writes where the environment, and posewarp in it, could not be made.
    temporary = f"{target}.part"
    try:
        Path(temporary).write_text(text)
        os.replace(temporary, target)
    except OSError as exc:
        Path(temporary).unlink(missing_ok=True)
        sys.exit(f"{target} cannot be written: {exc.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
