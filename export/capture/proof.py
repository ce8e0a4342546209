"""What an exported file must compute before it gets its name: the torch module's outputs, in ONNX Runtime."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posewarp.export.capture.difference import Parity, compare, compare_fp64
from posewarp.export.capture.prepare import TensorModule
from posewarp.export.spec import BATCH, ExportSpec
from posewarp.runtime.errors import BackendError, ContractError, ExportError
from posewarp.runtime.session import Session


def prove_parity(path: Path, spec: ExportSpec, reference: TensorModule) -> list[Parity]:
    """Run the file in ONNX Runtime beside the torch module.

    Args:
        path: of the file, its contract in its metadata.
        spec: inputs are its examples, at batches 1 and 3 and at another size of the other dynamic axes.
        reference: the module as it was before export.

    Returns: the measured differences, intermediates first.
    Raises: ExportError if ONNX Runtime fails, a shape is not as declared, or a difference is above its limit.
    """
    measured = []
    try:
        # Tensors that are asked for besides keep the runtime from fusing around them, so the outputs are
        # measured without. Standard operators alone: no plugin library, which would run the warps its own way.
        if spec.intermediates:
            with Session.open(path, extra_outputs=spec.intermediates, plugins=()) as session:
                measured += _measure(session, spec, reference, {}, spec.intermediates)
        with Session.open(path, plugins=()) as session:
            for sizes in _sizes_to_prove(spec):
                measured += _measure(session, spec, reference, sizes, spec.output_names)
    except (BackendError, ContractError) as exc:
        said = str(exc).replace(str(path), "it")
        raise ExportError(f"the exported file does not run: {said}") from exc
    for parity in measured:
        if not parity.passed:
            raise ExportError(f"the exported file differs from the torch module: {parity}")
    return measured


def _sizes_to_prove(spec: ExportSpec) -> list[dict[str, int]]:
    """Batches 1 and 3, then all other dynamic axes at further sizes; the example's where none is dynamic."""
    axes = spec.axis_sizes
    others = {
        axis: size + (2 + place) * spec.multiple_of.get(axis, 1)
        for place, (axis, size) in enumerate(axes.items())
        if axis != BATCH
    }
    cases = [{BATCH: 1}, {BATCH: 3}] if BATCH in axes else [{}]
    return [*cases, {**cases[-1], **others}] if others else cases


def _measure(
    session: Session, spec: ExportSpec, reference: TensorModule, sizes: dict[str, int], names: tuple[str, ...]
) -> list[Parity]:
    inputs, sizes = spec.at_sizes(sizes), {**spec.axis_sizes, **sizes}
    got = session.run({name: value.numpy() for name, value in zip(spec.input_names, inputs, strict=True)})
    # Clones, since a module may write into its inputs.
    expected = _outputs(spec, reference, [value.clone() for value in inputs])
    declared = {tensor.name: tensor.shape for tensor in session.contract.outputs}
    for name in names:
        _check_result(name, sizes, got[name], expected[name], declared.get(name, ()))
    # A picture in [-1, 1] has full scale 1, however dark it is.
    scale = 1.0 if spec.io == "tensors" and names == spec.output_names else None
    measured = [compare(name, sizes, got[name], expected[name], scale) for name in names]
    if all(parity.passed for parity in measured):
        return measured
    # The network may amplify rounding; then PyTorch's fp32 is no nearer to the float64 network than the file.
    wide = [value.double() if value.is_floating_point() else value.clone() for value in inputs]
    try:
        exact = _outputs(spec, copy.deepcopy(reference).double(), wide)
    except Exception:  # a module that makes fp32 tensors of its own has no float64 form; it stays failed
        return measured
    return [
        parity
        if parity.passed or expected[name].dtype != np.float32
        else compare_fp64(name, sizes, got[name], expected[name], exact[name])
        for name, parity in zip(names, measured, strict=True)
    ]


def _outputs(spec: ExportSpec, module: TensorModule, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = module(*inputs)
    return dict(zip((*spec.output_names, *spec.intermediates), (x.numpy() for x in outputs), strict=True))


def _check_result(
    name: str, sizes: dict[str, int], got: np.ndarray, expected: np.ndarray, declared: Sequence[int | str]
) -> None:
    if not np.isfinite(expected).all():
        raise ExportError(
            f"the torch module gives NaN or infinity in {name} on its example inputs, at {sizes}"
        )
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise ExportError(
            f"{name} is {got.dtype} {got.shape} in ONNX Runtime, "
            f"but {expected.dtype} {expected.shape} in torch, at {sizes}"
        )
    for axis, (size, said) in enumerate(zip(got.shape, declared, strict=False)):
        if size != (said if isinstance(said, int) else sizes.get(said, size)):
            raise ExportError(
                f"output {name} is declared with {said} on axis {axis}, but has {size} there at {sizes}; "
                "name that axis in dynamic_axes"
            )
