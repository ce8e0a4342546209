"""How far two results of the same inputs are apart, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of an fp32 network, as a share of full scale: 99.9 % of the values within the first, all within the second.
# Two right runtimes differ by the order of their sums and by a coordinate's last bits.
P999_FP32, MAX_FP32 = 1e-5, 1e-4
# An 8-bit picture: a value that lies between two steps may be rounded to either.
MAX_UINT8_STEPS = 1
# Where a network amplifies rounding beyond these, a file may be this much further from the float64 network
# than PyTorch's own fp32 is.
FLOAT64_RATIO = 2.0
# Where a reference has no value above this, it is taken for noise around zero, and this is its full scale.
_SMALLEST_SCALE = 1e-2


@dataclass(frozen=True)
class Parity:
    """Difference of one tensor from its reference, on one set of inputs.

    Attributes:
        tensor: its name.
        sizes: of the dynamic axes.
        reference: ``fp32`` for the torch module, ``fp64`` for the same in float64.
        dtype: of the tensor; what is no float is compared in whole steps.
        p999, max: 99.9th percentile and maximum of the absolute difference.
        p999_limit, max_limit: what they may be.
    """

    tensor: str
    sizes: dict[str, int]
    reference: str
    dtype: str
    p999: float
    max: float
    p999_limit: float
    max_limit: float

    @property
    def passed(self) -> bool:
        return self.p999 <= self.p999_limit and self.max <= self.max_limit

    def __str__(self) -> str:
        found = (
            f"max {self.max:.0f} of 255 (limit {self.max_limit:.0f})"
            if self.dtype == "uint8"
            else f"p99.9 {self.p999:.1e} (limit {self.p999_limit:.1e}), "
            f"max {self.max:.1e} (limit {self.max_limit:.1e})"
        )
        at = "".join(f", {axis} {size}" for axis, size in self.sizes.items())
        return f"{self.tensor}{at}: {found} from torch {self.reference}"


def compare(
    tensor: str, sizes: dict[str, int], got: np.ndarray, reference: np.ndarray, scale: float | None = None
) -> Parity:
    """Measure one tensor against its reference, both of one shape and type.

    Args:
        tensor, sizes: for the record.
        got, reference: what is compared.
        scale: full scale, which the limits of a float tensor are shares of; its largest value if None.
    """
    dtype = reference.dtype.name
    if reference.dtype.kind == "f":
        scale = scale or max(float(np.abs(reference).max(initial=0)), _SMALLEST_SCALE)
        limits = (P999_FP32 * scale, MAX_FP32 * scale)
    else:
        limits = (MAX_UINT8_STEPS,) * 2 if dtype == "uint8" else (0, 0)
    return Parity(tensor, sizes, "fp32", dtype, *difference(got, reference), *map(float, limits))


def compare_fp64(
    tensor: str, sizes: dict[str, int], got: np.ndarray, reference: np.ndarray, exact: np.ndarray
) -> Parity:
    """Measure one tensor against the float64 network, by the fp32 ``reference``'s own distance from it."""
    limits = (FLOAT64_RATIO * value for value in difference(reference, exact))
    return Parity(tensor, sizes, "fp64", reference.dtype.name, *difference(got, exact), *limits)


def difference(got: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """99.9th percentile and maximum of the absolute difference; a NaN gives NaN, which is within no limit."""
    absolute = np.abs(got.astype(np.float64) - reference.astype(np.float64))
    if not absolute.size:
        return 0.0, 0.0
    return float(np.quantile(absolute, 0.999)), float(absolute.max())
