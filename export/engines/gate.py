"""What a file for CPUs must pass before it gets its name, whichever runtime it is for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posewarp.export.ladder.cases import Case
from posewarp.export.ladder.measures import TOLERANCES, measure_output
from posewarp.export.ladder.report import plain
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import EngineError, ParityError
from posewarp.runtime.session import Session

# Winograd's filtering rounds more than a direct convolution.
TOLERANCE = TOLERANCES["winograd"]


def refuse_tensorrt_options(backend: str, precision: str | None, options: Mapping[str, Any]) -> None:
    """Raises: EngineError if an option is set that only TensorRT has."""
    for name, value in options.items():
        if value:
            raise EngineError(
                f"{name.replace('_', ' ')} can be set for TensorRT only, not with --backend {backend}"
            )
    if precision == "fp16":
        raise EngineError(f"--backend {backend} runs in FP32 only; leave --precision out")


def compare_with_onnx(
    path: Path,
    output: Path,
    contract: Contract,
    cases: Sequence[Case],
    got: Sequence[Mapping[str, np.ndarray]],
    data: str,
) -> dict[str, Any]:
    """The rung between an ONNX file and what was built from it.

    Args:
        path, output: of both; the ONNX file is run.
        cases: the inputs.
        got: what the built file gave for each.
        data: what the inputs are, in words.

    Returns: for strict JSON, in a side-car or a report: an infinite PSNR, of equal outputs, is the string ``inf``.
    Raises: ParityError naming output and sizes.
    """
    outputs = []
    with Session.open(path, contract=contract) as session:
        for case, results in zip(cases, got, strict=True):
            expected = session.run(case.feeds)
            sizes = ", ".join(f"{name} {size}" for name, size in case.sizes.items())
            for name, reference in expected.items():
                picture = contract.io == "tensors" and name == "generated"  # in [-1, 1]
                measures = measure_output(name, results[name], reference, TOLERANCE, 2.0 if picture else None)
                if not measures.passed:
                    raise ParityError(
                        f"{path} -> {output.name}: {name} at {sizes}: {'; '.join(measures.failures)}; it was not "
                        "written, run the ONNX file instead"
                    )
                outputs.append({"sizes": sizes, **dataclasses.asdict(measures)})
    return {
        "reference": path.name,
        "model": output.name,
        "status": "passed",
        "data": data,
        "outputs": plain(outputs),
    }


def parity_lines(rung: Mapping[str, Any]) -> list[str]:
    """A rung as a report prints it."""
    return [
        f"  parity {rung['reference']} -> {rung['model']}: {rung['status']}, {rung['data']}",
        *(
            f"    {m['output']} {m['sizes']}: "
            + (f"max {m['max_abs']:.2g}, {float(m['psnr_db']):.1f} dB" if m["max_abs"] else "equal")
            for m in rung["outputs"]
        ),
    ]
