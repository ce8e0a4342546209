"""A session: an opened model that takes and gives arrays by name, whichever backend runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from posewarp.runtime import backends, device_array
from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.engine_options import EngineOptions
from posewarp.runtime.errors import BackendError, ContractError
from posewarp.runtime.onnx_metadata import read_metadata
from posewarp.runtime.plugin_library import Place
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
        device: str | None = None,
        threads: int | None = None,
        extra_outputs: Sequence[str] = (),
        contract: Contract | str | os.PathLike[str] | None = None,
        plugins: Place | Sequence[Place] | None = None,
        engine: EngineOptions | None = None,
    ) -> Session:
        """Open a model file.

        Args:
            path: an ``.onnx`` file; or a plan of TensorRT, ``.engine`` or ``.plan``, which is trusted code: it
                holds kernels that run on the GPU, so open only what you built or were given by those you trust.
            device: ``cpu``; ``cuda``, an error where CUDA does not work; or ``auto``, which takes CUDA where
                it works and else the CPU. ``session.device`` says which it was. By default ``cpu``, and ``cuda``
                for a plan, which runs nowhere else.
            threads: CPU threads; by default as many as the process may use (affinity mask, container quota).
            extra_outputs: internal tensors to return besides the outputs, such as ``flow``. They can keep a
                runtime from fusing around them, so a session that is timed asks for none.
            contract: instead of the one in the file's metadata, or in a plan's side-car; or an ONNX file that has
                it, such as the one that a plan was built from. With neither, it is derived from the declared
                inputs and outputs, with ``io="custom"``.
            plugins: the plugin library to use, one or several, and no others: on the CPU the one of the sampling
                core, which runs warps many times faster, for a plan the TensorRT plugin. By default the one that
                ``plugin_library.find`` finds, if any; ``()`` is none. ``session.backend.name`` says what was
                taken. A CUDA session of an ONNX file never takes it, since each warp would be copied to the CPU.
            engine: how a plan is run; for nothing else.

        Raises: BackendError if file, library or device are not there or fail; EngineError if a plan is refused;
            PluginError if a plugin library cannot be used; ContractError if the contract does not fit the file,
            or an extra output does not exist.
        """
        path = Path(path)
        if threads is None:
            threads = available_cpus()
        elif threads < 1:
            raise ContractError(f"threads is {threads}, expected at least 1", got=threads)
        if contract is not None and not isinstance(contract, Contract):
            metadata = read_metadata(contract)
            contract = Contract.from_json(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None
        backend = backends.open_model(path, device, threads, tuple(extra_outputs), plugins, engine)
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

    def run(self, feeds: Mapping[str, Any], out: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run the model.

        A model whose batch is fixed, or bounded by a plan's profile, is run in parts where more is given. A user's
        own network is split only along an axis that it calls ``batch``, since its first axis need not be one.

        Args:
            feeds: an array for each input of the contract, by name. To a plan, also arrays that lie on its GPU
                (torch, cupy, pycuda ...), which are used where they are.
            out: of a plan: arrays on its GPU that outputs are written to, by name.

        Returns: an array for each output and each extra output, by name; the caller owns them. For a name in
            ``out`` it is the array given. All work is done when this returns.
        Raises: ContractError if an input differs from the contract; BackendError, or EngineError of a plan, if the
            run fails.
        """
        backend = self.backend
        if getattr(backend, "takes_device_arrays", False):
            feeds = {name: device_array.of(value) or value for name, value in feeds.items()}
            on_device = {name: self._as_output(name, value) for name, value in (out or {}).items()}
        elif out:
            raise ContractError(f"out= is for plans on a GPU, not for {backend.name}")
        else:
            on_device = {}
        parts = self._split(feeds)
        results = []
        for part, rows in parts:
            into = {name: value if rows is None else value[rows] for name, value in on_device.items()}
            arguments = (self.contract.prepare(part), *([into] if into else []))
            results.append(backend.run(*arguments))
        arrays: dict[str, Any] = dict(out or {})
        for name in self._returned:
            if name not in arrays:
                pieces = [result[name] for result in results]
                arrays[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return {name: arrays[name] for name in self._returned}

    def _as_output(self, name: str, value: Any) -> device_array.DeviceArray:
        array = device_array.of(value)
        if name not in self._returned or array is None or not array.writeable:
            raise ContractError(
                f"out has {name}, a {type(value).__name__}; expected writeable arrays on the device for "
                f"{', '.join(self._returned)}"
            )
        return array

    def _split(self, feeds: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], slice | None]]:
        """Parts of a batch, and which rows they are; one part with no rows where nothing is split."""
        whole: list[tuple[Mapping[str, Any], slice | None]] = [(feeds, None)]
        axes = {spec.shape[:1] for spec in (*self.contract.inputs, *self.contract.outputs)}
        lengths = {getattr(value, "shape", ())[:1] for value in feeds.values()}
        if len(axes) != 1 or len(lengths) != 1 or not (length := lengths.pop()) or not (axis := axes.pop()):
            return whole
        (batch,) = axis
        if self.contract.io == "custom" and batch != "batch":
            return whole
        # Of a plan's batch the rest may be smaller than the bound; a fixed one takes whole parts only.
        size = batch if isinstance(batch, int) else getattr(self.backend, "max_batch", None)
        if not size or length[0] <= size or (isinstance(batch, int) and length[0] % size):
            return whole  # for the contract to judge
        count = -(-length[0] // size)
        # Parts of one size, as nearly as can be: a last part of 1 would waste a run.
        edges = [part * length[0] // count for part in range(count + 1)]
        rows = [slice(*edge) for edge in pairwise(edges)]
        return [({name: value[part] for name, value in feeds.items()}, part) for part in rows]

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
