"""ONNX file to MNN file, for the CPU, proven against ONNX Runtime before it gets its name."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto

from posewarp.export.engines import mnn_process
from posewarp.export.engines.gate import compare_with_onnx, parity_lines, refuse_tensorrt_options
from posewarp.export.engines.graph import check_contract, contract_of
from posewarp.export.engines.profiles import Shapes, make_profiles
from posewarp.export.engines.sidecars import describe_onnx, own_versions
from posewarp.export.graphs.graph import inline_functions, load_model, save_model, tensor_types
from posewarp.export.graphs.warps import find_warps, rewrite_warps
from posewarp.export.ladder.cases import make_cases
from posewarp.export.ladder.sample_data import describe
from posewarp.runtime import sidecar
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import EngineError, ExportError
from posewarp.runtime.files import atomic_write, check_writable, sha256
from posewarp.runtime.sidecar import Sidecar

_TYPES = ("float32", "uint8", "int32")  # that an input or output may have
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class MnnReport:
    """An MNN file that was built, or found to be up to date.

    Attributes:
        path: the file; its side-car lies beside it.
        mib: its size.
        sidecar: what is known of it, the parity that was measured included.
        unchanged: whether it was there already, and nothing that it depends on has changed.
        notes: what a user should know besides.
        seconds: that it all took.
    """

    path: str
    mib: float
    sidecar: Sidecar
    unchanged: bool
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        state = "up to date, not built again" if self.unchanged else f"built in {self.seconds:.1f} s"
        lines = [f"{self.path}: {self.mib:.1f} MiB, MNN {self.sidecar.versions['MNN']} on the CPU, {state}"]
        for rung in self.sidecar.parity:
            lines += parity_lines(rung)
        return "\n".join((*lines, *(f"  {note}" for note in self.notes)))


def to_mnn(
    onnx_path: str | Path,
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    precision: str | None = None,
    profiles: Shapes | None = None,
    contract: Contract | None = None,
    force: bool = False,
    **tensorrt: Any,
) -> MnnReport:
    """Write an MNN file and its side-car, unless both are there and nothing that they depend on has changed.

    Local functions are put in place first, warps spelled so that MNN reads them rightly. Conversion, and the runs that
    are compared with ONNX Runtime's, happen in child processes. A failure leaves the previous pair as it was.

    Args:
        onnx_path: the model, in FP32.
        output: the file, by default ``model.mnn``.
        data: inputs to compare with, see ``sample_data``; by default synthetic people where the contract is ours.
        precision: ``fp32`` or None.
        profiles: the sizes of dynamic axes to compare at; by default from the contract. Any other can be run too.
        contract: instead of the one in the file's metadata.
        force: build in any case.
        tensorrt: options of ``to_engine`` that MNN has not; an error if one is set.

    Raises: EngineError if MNN cannot convert or run it; ExportError if the file is not one for MNN; ParityError if
        the outputs are off by more than ``gate.TOLERANCE``; ContractError, DataError: one line each.
    """
    started = time.perf_counter()
    path = Path(onnx_path)
    output = Path(output or path.with_name(f"{path.name.removesuffix('.onnx')}.mnn"))
    refuse_tensorrt_options("mnn", precision, tensorrt)
    if output.suffix != ".mnn":
        raise EngineError(f"{output} is no name for an MNN file; let it end in .mnn")
    for written in (output, sidecar.path_of(output)):
        check_writable(written, EngineError)
    model = load_model(path)
    declared = contract_of(model)
    contract = check_contract(contract, declared) if contract else declared
    wanted = _describe(path, contract)
    previous = None if force else _previous(output)
    if previous and all(dataclasses.asdict(previous)[name] == value for name, value in wanted.items()):
        return _report(output, previous, True, (), started)
    flat = _mnn_model(model, contract)
    chosen = make_profiles(contract, profiles) if profiles not in (None, Shapes()) else []
    cases, notes = make_cases(contract, data, None, chosen[0] if chosen else None)
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        file = Path(folder) / "model.mnn"
        save_model(flat, Path(folder) / "model.onnx")
        del model, flat
        mnn_process.convert(Path(folder) / "model.onnx", file)
        built = Sidecar(**wanted, plan={"sha256": sha256(file), "bytes": file.stat().st_size})
        sidecar.write(file, built)
        got = mnn_process.run(file, [case.feeds for case in cases])
        rung = compare_with_onnx(path, output, contract, cases, got, describe(data))
        built = dataclasses.replace(built, parity=[rung])
        _write(file, output, built)
    return _report(output, built, False, tuple(notes), started)


def _describe(path: Path, contract: Contract) -> dict[str, Any]:
    """The part of a side-car that decides whether to build again."""
    try:
        version = importlib.metadata.version("MNN")
    except importlib.metadata.PackageNotFoundError as exc:
        raise EngineError("MNN is not installed: pip install 'posewarp[mnn]'") from exc
    return {
        "origin": "built",
        "onnx": describe_onnx(path),
        "backend": "mnn",
        "contract": json.loads(contract.to_json()),
        "precision": {"asserted": "fp32"},
        "versions": {"MNN": version, **own_versions()},
    }


def _previous(output: Path) -> Sidecar | None:
    """The side-car of the file that is there, if both can be used."""
    try:
        told = sidecar.read(output)
        if told is not None and output.is_file():
            sidecar.check_content(output, told)
            return told
    except EngineError:
        pass  # a side-car that is another file's, or damaged: the file is built anew
    return None


def _mnn_model(model: ModelProto, contract: Contract) -> ModelProto:
    """The form that MNN's converter reads rightly.

    MNN 3.6 samples bilinearly with zeros or border padding, 4-D and 5-D, as torch does. It reads bicubic as bilinear
    and reflection as another padding, with a line on stdout at most. It rounds ties away from zero, in nearest and in
    Round too, so that gathers would be no remedy.
    """
    for spec in (*contract.inputs, *contract.outputs):
        if spec.dtype not in _TYPES:
            raise ExportError(
                f"{spec} cannot be handed to MNN, which takes {', '.join(_TYPES)}; export it so"
            )
    flat = inline_functions(model)
    halves = [name for name, kind in tensor_types(flat).items() if kind.elem_type in _HALVES]
    if halves:
        raise ExportError(f"tensor {halves[0]!r} is FP16 or BF16, MNN runs in FP32; give it the FP32 file")
    for warp in find_warps(flat):
        if warp.mode != "bilinear" or warp.padding_mode == "reflection":
            raise ExportError(
                f"MNN gets the {warp.mode} warp {warp.output!r} with {warp.padding_mode} padding wrong; it samples "
                "bilinearly with zeros or border padding only; run the ONNX file instead"
            )
    return rewrite_warps(flat, "gridsample")


def _write(file: Path, output: Path, built: Sidecar) -> None:
    """Give both their names; cut off in between, a file without side-car is left, never with another's."""
    beside = sidecar.path_of(output)
    with atomic_write(beside, EngineError) as text, atomic_write(output, EngineError) as mnn:
        shutil.copyfile(file, mnn)
        text.write_text(built.to_json(), encoding="utf-8")
        Path(os.path.realpath(beside)).unlink(missing_ok=True)


def _report(
    output: Path, told: Sidecar, unchanged: bool, notes: tuple[str, ...], started: float
) -> MnnReport:
    mib = output.stat().st_size / 2**20
    return MnnReport(str(output), mib, told, unchanged, notes, time.perf_counter() - started)
