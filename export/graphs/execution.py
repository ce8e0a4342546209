"""Models in memory, run in ONNX Runtime."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnx import ModelProto

from posewarp.export.graphs.graph import save_model
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import BackendError, ContractError
from posewarp.runtime.session import Session

_WORD = re.compile(r'GridSample.*mode "(\w+)" not supported, expect ([\w ,]+)')


@contextmanager
def open_model(
    model: ModelProto,
    *,
    called: str = "the model",
    extra_outputs: Sequence[str] = (),
    contract: Contract | None = None,
    device: str = "cpu",
) -> Iterator[Session]:
    """A session of a model that has no file; by a temporary one, of which no error speaks.

    Args:
        model: the model.
        called: what its user calls it, in errors.
        extra_outputs, contract, device: as for ``Session.open``.

    Raises: BackendError if ONNX Runtime refuses it; ContractError if it has no such tensor.
    """
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        with (
            errors_name(called, instead_of=str(path)),
            Session.open(path, device=device, extra_outputs=extra_outputs, contract=contract) as session,
        ):
            yield session


@contextmanager
def errors_name(called: str, *, instead_of: str | None = None) -> Iterator[None]:
    """Say in errors of a session what the user calls the model, and what to do about a mode word of another opset."""
    try:
        yield
    except (BackendError, ContractError) as exc:
        said = str(exc).replace(instead_of, called) if instead_of else str(exc)
        if word := _WORD.search(said):
            said = (
                f"{called}: a GridSample has the mode {word[1]!r}, and at its opset the words are {word[2].strip()}; "
                "posewarp lint names it, and export or fp16 with any --warp writes it anew"
            )
        if said == str(exc):
            raise
        raise type(exc)(said, got=exc.got, expected=exc.expected, fix=exc.fix) from exc
