"""Where a model shall run, such as ``tensorrt-10.3`` or ``onnxruntime``, and which versions a rule of lint means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from posewarp.runtime.errors import ExportError

RUNTIMES = ("tensorrt", "rtx", "onnxruntime", "openvino")
_TARGET = re.compile(rf"({'|'.join(RUNTIMES)})(?:-(\d+(?:\.\d+)*))?")
_CONDITION = re.compile(rf"({'|'.join(RUNTIMES)}|any)(?:(<|>=)(\d+(?:\.\d+)*))?")


@dataclass(frozen=True)
class Target:
    """A runtime, and its version as far as it is known.

    A short version stands for all that begin with it: 10.14 for 10.14.0, 10.14.1 and so on, none for every one.
    """

    runtime: str
    version: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``tensorrt-10.3`` and the like.

        Raises: ExportError if it names no target.
        """
        match = _TARGET.fullmatch(text)
        if match is None:
            raise ExportError(
                f"no target {text!r}; expected {', '.join(RUNTIMES)}, with or without a version: tensorrt-10.3"
            )
        return cls(match[1], _numbers(match[2]))

    def meets(self, condition: str) -> bool:
        """Whether any version that the target stands for is meant by ``tensorrt<11.2``, ``rtx`` or ``any``."""
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise ValueError(f"{condition!r} is no condition")
        runtime, relation, limit = match[1], match[2], _numbers(match[3])
        if runtime not in ("any", self.runtime):
            return False
        if relation == "<":
            return self.version < limit
        if relation == ">=":
            return (*self.version, float("inf")) >= limit
        return True


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(map(int, text.split("."))) if text else ()
