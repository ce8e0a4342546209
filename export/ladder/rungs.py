"""The rungs of the ladder, each of which turns inputs into outputs: torch FP32, ONNX FP32, ONNX FP16 emulated, engine.

An ONNX file with FP16 or BF16 in it runs emulated (see emulation.py), since ONNX Runtime's CPU provider does not round
as an engine does; on a GPU ONNX Runtime's CUDA provider runs it as it is. Outputs that Polygraphy recorded elsewhere,
of an engine on a machine with a GPU, are a rung too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from onnx import ModelProto

from posewarp.export.engines.profiles import Profile
from posewarp.export.graphs.convolutions import CONV, CONV_RELU
from posewarp.export.graphs.execution import errors_name, open_model
from posewarp.export.graphs.graph import load_model
from posewarp.export.graphs.inlining import DOMAIN, OURS, key_of
from posewarp.export.graphs.warps import find_warps, rewrite_warps
from posewarp.export.ladder import polygraphy_files
from posewarp.export.ladder.sample_data import read_contract
from posewarp.export.precision.emulation import check_rounding, emulate, half_type
from posewarp.runtime import plugin_library, sidecar
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import BackendError, DataError, EngineError, ParityError
from posewarp.runtime.session import Session

Arrays = Mapping[str, np.ndarray]

_ENGINES = (".engine", ".plan")
_MNN = ".mnn"
_CHECKPOINTS = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Rung:
    """Something that was opened to be compared.

    Attributes:
        name: what it is, such as ``ONNX FP16 emulated``, and of which file.
        dtype: ``fp32``, ``fp16`` or ``bf16``: what its coarsest tensors are; ``winograd``: FP32 that rounds more;
            None if that is not known.
        run: outputs of inputs, by name.
        contract: what it takes and gives; None where only the other rung tells.
        model: the graph as its file has it; None for what is no graph.
        profile: of an engine, where its side-car tells.
        device: ``cpu`` or ``cuda``.
    """

    name: str
    dtype: str | None
    run: Callable[[Arrays], Arrays]
    contract: Contract | None = None
    model: ModelProto | None = None
    profile: Profile | None = None
    device: str = "cpu"


class NotExecuted(Exception):
    """A rung that this machine cannot run: its name, and why."""

    def __init__(self, name: str, reason: str):
        super().__init__(reason)
        self.name = name


def is_torch(path: str) -> bool:
    """Whether a rung is a checkpoint, or a function that makes an ExportSpec (``file.py:function``)."""
    return Path(path).suffix in _CHECKPOINTS or ".py:" in path


def is_engine(path: str) -> bool:
    """Whether a rung is a plan of TensorRT."""
    return Path(path).suffix in _ENGINES


def is_mnn(path: str) -> bool:
    """Whether a rung is a file for MNN."""
    return Path(path).suffix == _MNN


def is_recorded(path: str) -> bool:
    """Whether a rung is a file of outputs that Polygraphy recorded."""
    return Path(path).suffix == ".json"


@contextmanager
def open_rung(
    path: str, contract: Contract | None = None, device: str = "cpu", **options: object
) -> Iterator[Rung]:
    """Open what a path names; what it holds is given back at the end.

    Args:
        path: ``.onnx``; a checkpoint of our generator, or ``file.py:function`` for an ExportSpec of one's own;
            ``.mnn``; ``.engine`` or ``.plan``; ``.json`` of outputs that Polygraphy recorded.
        contract: of the other rung, for those that do not tell.
        device: ``cpu``, or ``cuda`` for ONNX files on ONNX Runtime's CUDA provider.
        options: for a checkpoint: ``weights``, ``trust``, ``config``, ``key`` (see ``checkpoint.load``).

    Raises: NotExecuted if it is an engine or for CUDA and cannot run here, or for MNN where that is not installed;
        PosewarpErrors of what opens it.
    """
    if is_torch(path):
        yield _torch(path, contract, options)
    elif Path(path).suffix == ".onnx":
        with _onnx(path) if device == "cpu" else _onnx_on(device, path) as rung:
            yield rung
    elif is_engine(path):
        with _engine(path, contract) as rung:
            yield rung
    elif is_mnn(path):
        with _mnn(path) as rung:
            yield rung
    elif is_recorded(path):
        recorded = iter(polygraphy_files.read_outputs(path))
        yield Rung(f"recorded outputs {path}", None, lambda feeds: _next(recorded, path))
    else:
        known = (".onnx", *_CHECKPOINTS, "file.py:function", _MNN, *_ENGINES, ".json (Polygraphy's outputs)")
        raise ParityError(f"{path} is nothing that can be compared; expected {', '.join(known)}")


@contextmanager
def _onnx(path: str) -> Iterator[Rung]:
    model = load_model(path)
    dtype, contract = half_type(model), read_contract(model)
    name = f"ONNX {dtype.upper()}"
    bodies = {key_of(function) for function in model.functions}
    if dtype != "fp32":
        check_rounding()
        opened, name = open_model(emulate(model), called=path, contract=contract), f"{name} emulated"
    elif OURS not in bodies and any(warp.spelling == "mixed" for warp in find_warps(model)):
        opened = open_model(rewrite_warps(model, "portable"), called=path, contract=contract)
    else:
        with errors_name(path):
            opened = Session.open(path)
    if dtype == "fp32" and bodies & {(DOMAIN, CONV), (DOMAIN, CONV_RELU)} and plugin_library.find("cpu"):
        # Its graph would be run by the functions' bodies, and tell of another file than the one that was opened.
        name, dtype, model = f"{name} Winograd", "winograd", None
    with opened as session:
        yield Rung(f"{name} {path}", dtype, session.run, contract, model)


@contextmanager
def _onnx_on(device: str, path: str) -> Iterator[Rung]:
    """In the types that the file has."""
    model = load_model(path)
    dtype, contract = half_type(model), read_contract(model)
    name = f"ONNX {dtype.upper()} on {device.upper()} {path}"
    try:
        with errors_name(path):
            session = Session.open(path, device=device)
    except BackendError as exc:
        raise NotExecuted(name, f"it cannot be run here: {exc}") from exc
    with session:
        yield Rung(name, dtype, session.run, contract, model, device=device)


@contextmanager
def _engine(path: str, contract: Contract | None) -> Iterator[Rung]:
    name = f"engine {path}"
    if Path(path).is_dir():
        raise EngineError(f"{path} is a folder; expected the file of an engine, as posewarp build writes it")
    if not Path(path).is_file():
        raise EngineError(f"{path} does not exist")
    sidecar.read_header(path)  # the file's own fault, before what this machine lacks
    try:
        session = Session.open(path, device="cuda", contract=contract)
    except (BackendError, EngineError) as exc:
        raise NotExecuted(name, f"it cannot be run here: {exc}") from exc
    told = sidecar.read(path)
    counts = told.precision if told else {}
    dtype = ("fp16" if counts["half"] else "fp32") if counts.get("all") else None
    profile = told.profiles[0] if told and told.profiles else None
    with session:
        yield Rung(name, dtype, session.run, session.contract, profile=profile)


@contextmanager
def _mnn(path: str) -> Iterator[Rung]:
    """By the contract that its side-car holds, which may be narrower than the ONNX file's."""
    if find_spec("MNN") is None:
        raise NotExecuted(f"MNN {path}", "MNN is not installed: pip install posewarp[mnn]")
    with Session.open(path) as session:
        yield Rung(f"MNN {path}", "winograd", session.run, session.contract)


def _torch(path: str, contract: Contract | None, options: Mapping[str, object]) -> Rung:
    import torch

    from posewarp.export.capture.prepare import TensorModule, detached_copy
    from posewarp.export.generator_spec import checkpoint_spec
    from posewarp.export.spec import load_spec

    if ".py:" in path:
        spec = load_spec(path)
    elif contract is None or contract.io not in ("image", "tensors"):
        raise ParityError(
            f"the model that {path} is compared with has no contract of posewarp's generator; for a network of "
            "your own name the function that makes its ExportSpec: file.py:function"
        )
    else:
        spec = checkpoint_spec(path, io=contract.io, **options)
    names = (*spec.output_names, *spec.intermediates)
    module = TensorModule(detached_copy(spec.module), len(names))

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        missing = [name for name in spec.input_names if name not in feeds]
        if missing:
            raise ParityError(f"{path} takes {', '.join(spec.input_names)}, but there is no {missing[0]}")
        # Clones, since a module may write into its inputs.
        inputs = [torch.from_numpy(np.array(feeds[name])) for name in spec.input_names]
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # else products may be rounded to TF32 or BF16
        try:
            with torch.no_grad():
                outputs = module(*inputs)
        finally:
            torch.set_float32_matmul_precision(precision)
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    return Rung(f"torch FP32 {path}", "fp32", run)


def _next(recorded: Iterator[dict[str, np.ndarray]], path: str) -> dict[str, np.ndarray]:
    outputs = next(recorded, None)
    if outputs is None:
        raise DataError(f"{path} holds outputs of fewer runs than there are inputs")
    return outputs
