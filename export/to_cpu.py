"""ONNX file to ONNX file whose convolutions are spelled as a CPU is fastest, proven before it gets its name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from onnx import TensorProto

from posewarp.export.engines.gate import compare_with_onnx, parity_lines, refuse_tensorrt_options
from posewarp.export.engines.graph import check_contract, contract_of
from posewarp.export.engines.profiles import Shapes, make_profiles
from posewarp.export.graphs.convolutions import count_winograd, use_winograd
from posewarp.export.graphs.execution import open_model
from posewarp.export.graphs.graph import inline_functions, load_model, save_model, tensor_types
from posewarp.export.graphs.inlining import all_nodes
from posewarp.export.graphs.narrow import widen_narrow
from posewarp.export.ladder.cases import make_cases
from posewarp.export.ladder.sample_data import describe
from posewarp.runtime import plugin_library
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import EngineError, ExportError
from posewarp.runtime.files import check_outputs
from posewarp.runtime.session import Session

SUFFIX = ".cpu.onnx"
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TURNS = 5


@dataclass(frozen=True)
class CpuReport:
    """A file that was written.

    Attributes:
        path: the file.
        winograd: how many convolutions are spelled for Winograd's filtering.
        narrow: how many had few outputs, and were written as ones of many.
        of: how many convolutions there are.
        onnx_ms, cpu_ms: of a run of the first inputs, the median of five, both files in turns; both with the plugin
            library, on as many threads as a session takes.
        parity: the rung that was measured, as in a side-car.
        notes: what a user should know besides.
        seconds: that it all took.
    """

    path: str
    winograd: int
    narrow: int
    of: int
    onnx_ms: float
    cpu_ms: float
    parity: Mapping[str, Any]
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"{self.path}: of {self.of} convolutions {self.winograd} by Winograd's filtering, {self.narrow} of few "
            f"outputs as ones of many, built in {self.seconds:.1f} s",
            *parity_lines(self.parity),
            f"  a run takes {self.cpu_ms:.4g} ms here, of the ONNX file {self.onnx_ms:.4g} ms",
        ]
        if self.cpu_ms >= self.onnx_ms:
            lines.append("  it is not faster here: run the ONNX file")
        return "\n".join((*lines, *(f"  {note}" for note in self.notes)))


def to_cpu(
    onnx_path: str | Path,
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    precision: str | None = None,
    profiles: Shapes | None = None,
    contract: Contract | None = None,
    force: bool = False,
    **tensorrt: Any,
) -> CpuReport:
    """Write an ONNX file for CPUs, and compare it with the one that it was made from.

    Winograd's filtering needs libposewarp_cpu.so; without it those convolutions are computed as in the other file, no
    faster. A failure leaves an older file as it was.

    Args:
        onnx_path: the model, in FP32.
        output: the file, by default ``model.cpu.onnx``.
        data: inputs to compare with, see ``sample_data``; by default synthetic people where the contract is ours.
        precision: ``fp32`` or None.
        profiles: the sizes of dynamic axes to compare at; by default from the contract. Any other can be run too.
        contract: instead of the one in the file's metadata.
        force: has no effect: it is built each time.
        tensorrt: options of ``to_engine`` that this has not; an error if one is set.

    Raises: EngineError if the plugin library is needed and not there; ExportError if the file is not one for this, or
        was made by this; ParityError if the outputs are off by more than ``gate.TOLERANCE``; ContractError, DataError:
        one line each.
    """
    started = time.perf_counter()
    path = Path(onnx_path)
    output = output_of(path, output)
    refuse_tensorrt_options("cpu", precision, tensorrt)
    check_outputs({"output": output}, [path, data], EngineError)
    model = load_model(path)
    if count_winograd(model):
        raise ExportError(f"{path} already has its convolutions by Winograd; give the file it was made from")
    flat = inline_functions(model)
    halves = [name for name, kind in tensor_types(flat).items() if kind.elem_type in _HALVES]
    if halves:
        raise ExportError(f"tensor {halves[0]!r} is FP16 or BF16, CPUs run in FP32; give the FP32 file")
    if contract:
        check_contract(contract, contract_of(flat))
    widened, narrow = widen_narrow(flat)
    spelled, winograd = use_winograd(widened)
    if not winograd and not narrow:  # in a file that was made by this all are rewritten already
        raise ExportError(
            f"{path} has no convolution to build: neither 3x3 with 16 or more channels on both sides, nor of up to 8 "
            "outputs and of a known, even size (docs/cpu.md), or it was built already; run it as it is"
        )
    with Session.open(path, contract=contract) as plain:
        contract = plain.contract  # with what ONNX Runtime infers where the file tells no size
        chosen = make_profiles(contract, profiles) if profiles not in (None, Shapes()) else []
        cases, notes = make_cases(contract, data, None, chosen[0] if chosen else None)
        if winograd and plugin_library.find("cpu") is None:
            raise EngineError(
                "the plugin library for CPUs is not there, and computes these convolutions: make plugins"
            )
        with open_model(spelled, called=str(output), contract=contract) as session:
            got = [session.run(case.feeds) for case in cases]
            rung = compare_with_onnx(path, output, contract, cases, got, describe(data))
            onnx_ms, cpu_ms = _time((plain, session), cases[0].feeds)
    save_model(spelled, output)
    return CpuReport(
        str(output),
        winograd,
        narrow,
        sum(node.op_type == "Conv" for node in all_nodes(flat)),
        onnx_ms,
        cpu_ms,
        rung,
        tuple(notes),
        time.perf_counter() - started,
    )


def output_of(path: Path, output: str | Path | None) -> Path:
    """Where the file goes.

    Raises: EngineError if that is no name for it.
    """
    output = Path(output or path.with_name(f"{path.name.removesuffix('.onnx')}{SUFFIX}"))
    if output.suffix != ".onnx":
        raise EngineError(f"{output} is no name for an ONNX file; let it end in {SUFFIX}")
    return output


def _time(sessions: tuple[Session, ...], feeds: Mapping[str, np.ndarray]) -> list[float]:
    """Milliseconds of a run of each: the median of several, in turns."""
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(_TURNS):
        for session, taken in zip(sessions, times, strict=True):
            started = time.perf_counter()
            session.run(feeds)
            taken.append(1e3 * (time.perf_counter() - started))
    return [median(taken) for taken in times]
