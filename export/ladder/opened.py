"""Models opened to be compared, with errors that speak of what the user gave and not of our temporary files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from onnx import ModelProto

from posewarp.export.graphs import execution
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import BackendError, ContractError
from posewarp.runtime.session import Session

_TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r"/posewarp-\w+/model\.onnx")
_WORD = re.compile(r'GridSample.*mode "(\w+)" not supported, expect ([\w ,]+)')


@contextmanager
def open_model(
    model: ModelProto,
    *,
    called: str = "the model",
    extra_outputs: Sequence[str] = (),
    contract: Contract | None = None,
) -> Iterator[Session]:
    """As ``execution.open_model``, with errors that call the model what the user does.

    Raises: BackendError if ONNX Runtime refuses it; ContractError if it has no such tensor.
    """
    with (
        errors_name(called),
        execution.open_model(model, extra_outputs=extra_outputs, contract=contract) as session,
    ):
        yield session


@contextmanager
def errors_name(called: str) -> Iterator[None]:
    """Say in errors of opening a model what the user calls it, and what to do about a mode word of another opset."""
    try:
        yield
    except (BackendError, ContractError) as exc:
        said = _TEMPORARY.sub(lambda _: called, str(exc))
        word = _WORD.search(said)
        if word:
            said = (
                f"{called}: a GridSample has the mode {word[1]!r}, and at its opset the words are {word[2].strip()}; "
                "posewarp lint names it, and export or fp16 with any --warp writes it anew"
            )
        if said == str(exc):
            raise
        raise type(exc)(said, got=exc.got, expected=exc.expected, fix=exc.fix) from exc
