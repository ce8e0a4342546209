"""A session: an opened model that takes and gives arrays by name, whichever backend runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posewarp.runtime import backends
from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.errors import BackendError, ContractError
from posewarp.runtime.threads import available_cpus


class Session:
    """An opened model. Open one with ``Session.open``; it may be run from several threads.

    Attributes:
        path: the model file.
        contract: what the model takes and gives.
    """

    def __init__(
        self, path: Path, backend: backends.Backend, contract: Contract, extra_outputs: tuple[str, ...]
    ):
        self.path = path
        self.contract = contract
        self._backend: backends.Backend | None = backend
        self._returned = tuple(dict.fromkeys((*(spec.name for spec in contract.outputs), *extra_outputs)))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        threads: int | None = None,
        extra_outputs: Sequence[str] = (),
        contract: Contract | None = None,
        plugins: Sequence[str | os.PathLike[str]] | None = None,
    ) -> Session:
        """Open a model file.

        Args:
            path: an ``.onnx`` file.
            device: ``cpu``; ``cuda``, an error where CUDA does not work; or ``auto``, which takes CUDA where
                it works and else the CPU. ``session.device`` says which it was.
            threads: CPU threads; by default as many as the process may use (affinity mask, container quota).
            extra_outputs: internal tensors to return besides the outputs, such as ``flow``. They can keep a
                runtime from fusing around them, so a session that is timed asks for none.
            contract: instead of the one in the file's metadata. With neither, it is derived from the declared
                inputs and outputs, with ``io="custom"``.
            plugins: plugin libraries to use, and no others: on the CPU the one of the sampling core, which runs
                warps many times faster. By default the one that ``plugin_library.find`` finds, if any; ``()``
                is none. ``session.backend.name`` says what was taken. A CUDA session never takes it, since each
                warp would be copied to the CPU.

        Raises: BackendError if file, library or device are not there or fail; PluginError if a plugin library
            cannot be used; ContractError if the contract does not fit the file, or an extra output does not
            exist.
        """
        path = Path(path)
        if threads is None:
            threads = available_cpus()
        elif threads < 1:
            raise ContractError(f"threads is {threads}, expected at least 1", got=threads)
        backend = backends.open_model(path, device, threads, tuple(extra_outputs), plugins)
        try:
            if contract is None and METADATA_KEY in backend.metadata:
                contract = Contract.from_json(backend.metadata[METADATA_KEY])
            if contract is None:
                contract = Contract("custom", backend.inputs, backend.outputs)
            _check_fit(path, contract, backend)
        except ContractError:
            backend.close()
            raise
        return cls(path, backend, contract, tuple(extra_outputs))

    @property
    def backend(self) -> backends.Backend:
        """What runs the model.

        Raises: BackendError if the session is closed.
        """
        if self._backend is None:
            raise BackendError(f"the session of {self.path} is closed; open another")
        return self._backend

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``: what the model runs on."""
        return self.backend.device

    @property
    def metadata(self) -> dict[str, str]:
        """The flat strings that the file carries."""
        return dict(self.backend.metadata)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run the model.

        A model of ours whose batch is fixed, given a multiple of it, is run once for each part. A user's own
        network is not split, since its first axis need not be a batch.

        Args:
            feeds: an array for each input of the contract, by name.

        Returns: an array for each output and each extra output, by name; the caller owns them.
        Raises: ContractError if an input differs from the contract; BackendError if the run fails.
        """
        backend = self.backend
        parts = self._split(feeds)
        results = [backend.run(self.contract.prepare(part)) for part in parts]
        if len(results) == 1:
            return {name: results[0][name] for name in self._returned}
        return {name: np.concatenate([result[name] for result in results]) for name in self._returned}

    def _split(self, feeds: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        fixed = {spec.shape[0] for spec in self.contract.inputs if spec.shape}
        if self.contract.io == "custom" or len(fixed) != 1 or not isinstance(size := fixed.pop(), int):
            return [feeds]
        lengths = {getattr(value, "shape", ())[:1] for value in feeds.values()}
        if len(lengths) != 1 or not (length := lengths.pop()) or length[0] <= size or length[0] % size:
            return [feeds]  # for the contract to judge
        starts = range(0, length[0], size)
        return [{name: value[start : start + size] for name, value in feeds.items()} for start in starts]

    def close(self) -> None:
        """Give back what the backend holds; further runs are refused."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"{self._backend.name} on {self._backend.device}" if self._backend else "closed"
        return f"Session({str(self.path)!r}, {state}, io={self.contract.io!r})"


def _check_fit(path: Path, contract: Contract, backend: backends.Backend) -> None:
    """A contract may be narrower than what the file declares, but may not promise more."""
    for kind, promised, declared in (
        ("input", contract.inputs, backend.inputs),
        ("output", contract.outputs, backend.outputs),
    ):
        held = {spec.name: spec for spec in declared}
        unfed = set(held) - {spec.name for spec in promised} if kind == "input" else set()
        if unfed:
            raise ContractError(
                f"{path} takes input {', '.join(sorted(unfed))}, which its contract does not name"
            )
        for spec in promised:
            if spec.name not in held or not _fits(spec, held[spec.name]):
                raise ContractError(
                    f"the contract of {path} does not fit the file: it promises {kind} {spec}; "
                    f"the file has {', '.join(map(str, declared))}",
                    got=declared,
                    expected=spec,
                )


def _fits(promised: TensorSpec, declared: TensorSpec) -> bool:
    return (
        promised.dtype == declared.dtype
        and len(promised.shape) == len(declared.shape)
        and all(isinstance(d, str) or d == p for p, d in zip(promised.shape, declared.shape, strict=True))
    )
