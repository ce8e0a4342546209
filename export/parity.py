"""Two neighbours of the ladder on the same real inputs: torch FP32, ONNX FP32, MNN, ONNX FP16 emulated, engine.

    python export/parity.py model.onnx model.fp16.onnx
    posewarp parity models/demo/small.safetensors model.onnx --json parity.json

Every output, at batch 1 and at a batch of different samples, and at the smallest, the most used, the largest and a
middle size where sizes are dynamic; every warp's positions, in pixels. A rung that this machine cannot run is not
executed, and the report says so: it proves nothing of that rung.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from posewarp.export.engines.profiles import Shapes, make_profiles
from posewarp.export.graphs.graph import load_model
from posewarp.export.ladder import polygraphy_files
from posewarp.export.ladder.cases import Case, make_cases, recorded_cases
from posewarp.export.ladder.divergence import Divergence, first_divergence
from posewarp.export.ladder.drift import WarpDrift, coordinate_drift, tensors_of
from posewarp.export.ladder.measures import (
    TOLERANCES,
    OutputMeasures,
    Tolerance,
    distance,
    measure_output,
    p999,
)
from posewarp.export.ladder.report import CaseResult, ParityReport
from posewarp.export.ladder.rungs import (
    NotExecuted,
    Rung,
    is_engine,
    is_mnn,
    is_recorded,
    is_torch,
    open_rung,
)
from posewarp.export.ladder.sample_data import describe, read_contract
from posewarp.export.precision.emulation import is_mixed
from posewarp.runtime import command, sidecar
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import ParityError
from posewarp.runtime.files import atomic_write, check_outputs

EMULATED = (
    "FP16 and BF16 are emulated on the CPU: a model of an engine, not a bound; TensorRT's accumulators and fusions "
    "are not known, and only running the engine tells"
)

ON_CUDA = "FP16 and BF16 were run by ONNX Runtime's CUDA provider; positions from the same flow are emulated"


def parity(
    a: str | Path,
    b: str | Path,
    *,
    data: str | Path | None = None,
    batches: Sequence[int] | None = None,
    shapes: Shapes | None = None,
    dtype: str | None = None,
    tolerance: Mapping[str, float] | None = None,
    contract: Contract | None = None,
    drift: bool = False,
    device: str = "cpu",
    save_inputs: str | Path | None = None,
    save_outputs: str | Path | None = None,
    **options: object,
) -> ParityReport:
    """Compare two rungs.

    Args:
        a: the reference; ``b``: what is compared with it. Checkpoint or ``file.py:function``, ``.onnx``, ``.mnn``,
            ``.engine`` or ``.plan``, or outputs that Polygraphy recorded, ``.json`` (see ``rungs.open_rung``).
        data: inputs (see ``sample_data``); for recorded outputs the inputs that they were recorded with.
        batches: by default 1 and 3.
        shapes: smallest, most used and largest sizes of dynamic inputs; by default those of the engine's
            side-car, else from half to the contract's own height and width (see ``profiles.make_profiles``).
        dtype: whose tolerances hold; by default the coarser rung's.
        tolerance: values to put in place of these, by the names of ``Tolerance``.
        contract: of an engine without a side-car.
        drift: walk the intermediate tensors too, and name the first that differs too much.
        device: ``cuda`` to run ``b``, an ONNX file, on ONNX Runtime's CUDA provider in the types that it has.
        save_inputs, save_outputs: write the inputs, and b's outputs, in Polygraphy's JSON.
        options: for a checkpoint: ``weights``, ``trust``, ``config``, ``key`` (see ``checkpoint.load``).

    Returns: what was found; ``report.passed`` is the gate.
    Raises: DataError, ContractError, ExportError and the like if something cannot be opened or fed; ParityError
        if the rungs do not have the same outputs.
    """
    names = str(a), str(b)
    replace(TOLERANCES[dtype or "fp32"], **(tolerance or {}))  # refuses NaN before anything is opened
    if all(map(is_torch, names)):
        raise ParityError("both are torch modules; one of the two must be a file that posewarp made of it")
    if device != "cpu" and Path(b).suffix != ".onnx":
        raise ParityError(
            f"{b} is no ONNX file, which alone is run on a chosen device; leave out --device {device}"
        )
    check_outputs({"save_inputs": save_inputs, "save_outputs": save_outputs}, _read(*names, data))
    sides = [(names[0], "cpu"), (names[1], device)]
    with ExitStack() as stack:
        rungs: dict[tuple[str, str], Rung] = {}
        try:
            for side in sorted(sides, key=lambda s: (is_torch(s[0]), is_recorded(s[0]), is_engine(s[0]))):
                told = options if is_torch(side[0]) else {}
                rungs[side] = stack.enter_context(open_rung(side[0], contract, side[1], **told))
                contract = contract or rungs[side].contract
        except NotExecuted as exc:
            dtype = dtype or "fp16"
            limits = replace(TOLERANCES[dtype], **(tolerance or {}))
            return ParityReport(*names, dtype, limits, describe(data), not_executed=f"{exc.name}: {exc}")
        first, second = (rungs[side] for side in sides)
        contract = _narrowest(contract, first, second)
        if any(map(is_recorded, names)):
            cases, notes = recorded_cases(contract, polygraphy_files.read_inputs(data or "")), []
        else:
            profile = next((rung.profile for rung in (second, first) if rung.profile), None)
            if shapes is not None:
                profile = make_profiles(contract, shapes)[0]
            cases, notes = make_cases(contract, data, batches, profile)
        dtype = dtype or _coarser(first, second, notes)
        report = ParityReport(
            first.name,
            second.name,
            dtype,
            replace(TOLERANCES[dtype], **(tolerance or {})),
            describe(data),
        )
        results, outputs = [], []
        for case in cases:
            expected, got = first.run(case.feeds), second.run(case.feeds)
            results.append(CaseResult(case.sizes, _measured(expected, got, contract, report.tolerance)))
            if save_outputs is not None:
                outputs.append({name: got[name] for name in _names(contract, expected)})
        main = _most_samples(cases)
        report = replace(
            report,
            cases=tuple(results),
            warps=tuple(_drifts(first, second, contract, main)),
            divergence=_divergence(first, second, main, report.tolerance, notes) if drift else None,
            notes=tuple(_notes(first, second, notes)),
        )
    if save_inputs is not None:
        polygraphy_files.save_inputs(save_inputs, [case.feeds for case in cases])
    if save_outputs is not None:
        polygraphy_files.save_outputs(save_outputs, second.name, outputs)
    return report


def _narrowest(contract: Contract, *rungs: Rung) -> Contract:
    """What both rungs take: the contract with the fewest dynamic axes."""
    contracts = [rung.contract for rung in rungs if rung.contract is not None] or [contract]
    if contracts[0] is None:
        raise ParityError("neither of the two tells its inputs; give --contract model.onnx")
    return min(
        contracts, key=lambda one: sum(isinstance(axis, str) for spec in one.inputs for axis in spec.shape)
    )


def _coarser(first: Rung, second: Rung, notes: list[str]) -> str:
    known = [rung.dtype for rung in (first, second) if rung.dtype is not None]
    if len(known) < 2 and not {"fp16", "bf16"} & set(known):
        notes.append(
            "the types of one rung are not known: tolerances of fp16 (--dtype fp32 for the stricter ones)"
        )
        return "fp16"
    return max(known, key=list(TOLERANCES).index)


def _names(contract: Contract, expected: Mapping[str, np.ndarray]) -> list[str]:
    return [spec.name for spec in contract.outputs] or list(expected)


def _measured(
    expected: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    contract: Contract,
    tolerance: Tolerance,
) -> tuple[OutputMeasures, ...]:
    measures = []
    for name in _names(contract, expected):
        for side, outputs in (("reference", expected), ("other rung", got)):
            if name not in outputs:
                raise ParityError(f"the {side} gives no output {name!r}; it gives {', '.join(outputs)}")
        picture = contract.io == "tensors" and name == "generated"  # in [-1, 1]
        measures.append(measure_output(name, got[name], expected[name], tolerance, 2.0 if picture else None))
    return tuple(measures)


def _most_samples(cases: Sequence[Case]) -> Case:
    """Of the runs at the first one's sizes the one with the largest batch."""
    shapes = [[array.shape[1:] for array in case.feeds.values()] for case in cases]
    alike = [case for case, shape in zip(cases, shapes, strict=True) if shape == shapes[0]]
    return max(alike, key=lambda case: sum(array.size for array in case.feeds.values()))


def _drifts(first: Rung, second: Rung, contract: Contract, case: Case) -> list[WarpDrift]:
    if first.model is not None and second.model is not None and not is_mixed(first.model):
        return coordinate_drift(first.model, second.model, case.feeds, second.device)
    flow = contract.settings.get("flow")
    graphs = [rung for rung in (first, second) if rung.model is not None]
    modules = [rung for rung in (first, second) if rung.name.startswith("torch")]
    if not (flow and graphs and modules):
        return []
    # A torch module tells no grids, but ours tells its flow, in pixels of the features that it warps.
    expected = modules[0].run(case.feeds)[flow]
    moved = distance(tensors_of(graphs[0].model, case.feeds, {flow}, graphs[0].device)[flow], expected)
    return [
        WarpDrift(flow, None, None, p999(moved), float(moved.max()), "the flow itself; torch tells no grids")
    ]


def _divergence(
    first: Rung, second: Rung, case: Case, tolerance: Tolerance, notes: list[str]
) -> Divergence | None:
    if first.model is None or second.model is None or is_mixed(first.model):
        notes.append("intermediate tensors were not walked: that needs two ONNX files, the first one in FP32")
        return None
    divergence = first_divergence(first.model, second.model, case.feeds, tolerance)
    if divergence is None:
        notes.append("no intermediate tensor that both graphs have is above tolerance")
    return divergence


def _notes(first: Rung, second: Rung, notes: list[str]) -> list[str]:
    halves = {rung.device for rung in (first, second) if rung.model is not None and rung.dtype != "fp32"}
    notes = [*(note for device, note in (("cpu", EMULATED), ("cuda", ON_CUDA)) if device in halves), *notes]
    if find_spec("skimage") is None:
        notes = [*notes, "SSIM not measured: scikit-image is not installed; pip install posewarp[train]"]
    return notes


def _read(*given: object) -> list[str]:
    """The files behind arguments: also the ``file.py`` of ``file.py:function``, and side-cars."""
    names = [str(each) for each in given if each is not None]
    sources = [name.rpartition(":")[0] for name in names if ":" in name]
    beside = [str(sidecar.path_of(name)) for name in names if is_engine(name) or is_mnn(name)]
    return [*names, *sources, *beside]


Device = Enum("Device", {name: name for name in ("cpu", "cuda")})
Dtype = Enum("Dtype", {name: name for name in TOLERANCES})
app = typer.Typer(add_completion=False)


@app.command()
def main(
    a: Annotated[
        str, typer.Argument(metavar="A", help="The reference: checkpoint, file.py:function, .onnx.")
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", help="What is compared with it: .onnx, .mnn, .engine, ...")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="synthetic, random, inputs.npz, Polygraphy's inputs.json, or a folder of pictures."
        ),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Repeatable; 1 and 3 by default.")
    ] = None,
    min_shapes: Annotated[str | None, typer.Option("--minShapes", help="name:1x3x128x88,...")] = None,
    opt_shapes: Annotated[str | None, typer.Option("--optShapes", help="The same, most used.")] = None,
    max_shapes: Annotated[str | None, typer.Option("--maxShapes", help="The same, largest.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Whose tolerances hold.")] = None,
    atol: Annotated[float | None, typer.Option(min=0, help="Of full scale.")] = None,
    rtol: Annotated[float | None, typer.Option(min=0, help="Of each value.")] = None,
    cosine: Annotated[float | None, typer.Option(help="Smallest cosine.")] = None,
    psnr_db: Annotated[float | None, typer.Option("--psnr-db", help="Smallest PSNR.")] = None,
    same_flow_px: Annotated[float | None, typer.Option(min=0, help="Of warps, from equal flows.")] = None,
    own_flow_px: Annotated[float | None, typer.Option(min=0, help="Of warps, with their own flow.")] = None,
    drift: Annotated[
        bool, typer.Option("--drift", help="Name the first tensor that differs too much.")
    ] = False,
    device: Annotated[
        Device, typer.Option(help="Where an ONNX file B runs: cpu, FP16 emulated; cuda, as it is.")
    ] = Device.cpu,
    contract: Annotated[
        Path | None, typer.Option(help="An ONNX file, for an engine that tells no contract.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Of a checkpoint: ema or raw.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Unpickle any object of a checkpoint.")] = False,
    save_inputs: Annotated[Path | None, typer.Option(help="Write the inputs as Polygraphy's JSON.")] = None,
    save_outputs: Annotated[Path | None, typer.Option(help="Write B's outputs as Polygraphy's JSON.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None,
) -> None:
    """Compare two neighbours of the ladder on the same inputs; exit with 1 if they differ too much."""
    written = {"--save-inputs": save_inputs, "--save-outputs": save_outputs, "--json": json_path}
    check_outputs(written, _read(a, b, data, contract))
    shapes = min_shapes, opt_shapes, max_shapes
    limits = {"atol": atol, "rtol": rtol, "cosine": cosine, "psnr_db": psnr_db}
    limits |= {"same_flow_px": same_flow_px, "own_flow_px": own_flow_px}
    known = read_contract(load_model(contract)) if contract else None
    options = {name: value for name, value in {"weights": weights, "trust": trust}.items() if value}
    report = parity(
        a,
        b,
        data=data,
        batches=batch_size,
        shapes=Shapes(*([text] if text else [] for text in shapes)) if any(shapes) else None,
        dtype=dtype and dtype.value,
        tolerance={name: value for name, value in limits.items() if value is not None},
        contract=known,
        drift=drift,
        device=device.value,
        save_inputs=save_inputs,
        save_outputs=save_outputs,
        **options,
    )
    print(report)
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(report.to_json())
    if is_engine(b) and sidecar.read(b) is not None:
        rung = {"reference": Path(a).name, "model": Path(b).name, "status": report.status}
        sidecar.record_parity(b, {**rung, "report": json.loads(report.to_json())})
    if not report.passed:
        said = report.not_executed or f"{len(report.failures)} beyond their limit: {report.failures[0]}"
        raise ParityError(f"{a} -> {b}: {report.status}: {said}")


if __name__ == "__main__":
    command.main(app)
