"""Models in memory, run in ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnx import ModelProto

from posewarp.export.graphs.graph import save_model
from posewarp.runtime.contract import Contract
from posewarp.runtime.session import Session


@contextmanager
def open_model(
    model: ModelProto, *, extra_outputs: Sequence[str] = (), contract: Contract | None = None
) -> Iterator[Session]:
    """A session of a model that has no file; by a temporary one.

    Raises: BackendError if ONNX Runtime refuses it; ContractError if it has no such tensor.
    """
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        with Session.open(path, extra_outputs=extra_outputs, contract=contract) as session:
            yield session
