"""A build in a process of its own: its memory is given back, and its crash is one error line.

The child (this file run with -m) reads one request as JSON from stdin and writes events as JSON lines; what
libraries print goes to stderr. It ends when its stdin ends, so that it does not outlive its parent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from posewarp.export.engines.builder import build
from posewarp.export.engines.request import NAMES, BuildRequest
from posewarp.runtime.errors import EngineError

_LAST_LINES = 4


def build_in_child(request: BuildRequest, tell: Callable[[str, Any], None] | None = None) -> dict[str, Any]:
    """Run ``engine_builder.build`` in a child process.

    Args:
        tell: called with each event; see ``engine_builder.build``.

    Returns: what ``build`` returned.
    Raises: EngineError, one line, whatever ended the child; OSError if the plan could not be written. Whatever is
        raised, the child is gone.
    """
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "posewarp.export.engines.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "PYTHONSAFEPATH": "1"},  # no module of the folder that the user is in
        )
        try:
            _send(child, request)
            for line in child.stdout:
                kind, value = json.loads(line)
                if kind == "result":
                    return value
                if kind == "error":
                    raise EngineError(value)
                if kind == "oserror":
                    raise OSError(*value)
                if kind == "log":
                    lines.append(value)
                if tell:
                    tell(kind, value)
            code = child.wait()
            stderr.seek(0)
            lines.extend(line.strip() for line in stderr if line.strip())
        finally:
            child.kill()
            child.stdin.close()
            child.stdout.close()
            child.wait()
    raise EngineError(_post_mortem(request, code, lines))


def _send(child: subprocess.Popen, request: BuildRequest) -> None:
    try:
        child.stdin.write(json.dumps(asdict(request)) + "\n")
        child.stdin.flush()
    except BrokenPipeError:
        pass  # it ended before it read; how, is told by its exit code


def _post_mortem(request: BuildRequest, code: int, lines: deque[str]) -> str:
    ended = f"ended with code {code}"
    if code < 0:
        ended = f"was ended by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            ended += ", as the system does when memory runs out"
    said = " | ".join(lines) or "nothing"
    return f"the process that built with {NAMES[request.backend]} {ended}; it last said: {said}"


def _serve() -> None:
    """Be the child."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print on stdout
    request = BuildRequest(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(kind: str, value: Any) -> None:
        print(json.dumps([kind, value]), file=events, flush=True)

    try:
        tell("result", build(request, tell))
    except EngineError as exc:
        tell("error", str(exc))
    except OSError as exc:
        tell("oserror", [exc.errno, exc.strerror])
    except Exception as exc:  # a library's binding may raise anything
        tell("error", f"{NAMES[request.backend]} failed: {type(exc).__name__}: {exc}")
    finally:
        events.close()
        os._exit(0)  # not through the libraries' destructors, some of which crash


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    _serve()
