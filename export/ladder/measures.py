"""One output of two rungs of the ladder, side by side: how far apart, and how far apart it may be."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec

import numpy as np

from posewarp.runtime.errors import ParityError

# The largest difference may be this many times the 99.9th percentile's limit.
_MAX_OVER_P999 = 10
# Where a reference has no value above this, it is taken for noise around zero, and this is its scale.
_SMALLEST_SCALE = 1e-2
_PICTURE_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Tolerance:
    """What two rungs may differ by.

    Attributes:
        atol: of full scale: 1 for pictures in [-1, 1], else the largest value of the reference.
        rtol: of each value. 99.9 % of an output's values lie within ``atol * scale + rtol * |value|`` of the
            reference's, all within ten times that. In a uint8 picture, [0, 255] for [-1, 1], one step of rounding is
            allowed besides.
        cosine: smallest cosine between an output and the reference, of each sample.
        psnr_db: smallest PSNR of an output, of each sample.
        same_flow_px: largest shift of a warp's positions from equal flows.
        own_flow_px: 99.9th percentile of their shift with each rung's own flow, inside the frame.
    """

    atol: float
    rtol: float
    cosine: float
    psnr_db: float
    same_flow_px: float
    own_flow_px: float

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if not math.isfinite(limit):  # nothing is beyond NaN, so it would let all pass
                raise ParityError(f"tolerance {name} is {limit}, expected a finite number", got=limit)


# FP16 has 11 bits, BF16 8. FP32: what two right runtimes differ by (see difference.py); those that convolve by
# Winograd's method, as MNN does, round more.
TOLERANCES = {
    "fp32": Tolerance(1e-5, 0.0, 0.9999, 50.0, 1e-3, 0.01),
    "winograd": Tolerance(1e-3, 0.0, 0.9999, 50.0, 1e-3, 0.01),
    "fp16": Tolerance(5e-3, 5e-3, 0.997, 40.0, 1e-3, 0.05),
    "bf16": Tolerance(4e-2, 4e-2, 0.99, 25.0, 1e-3, 0.4),
}
# The ``atol`` between FP32 of two libraries' algorithms, such as those of a GPU, or an approximate tanh.
LIBRARIES_ATOL = 1e-4


@dataclass(frozen=True)
class OutputMeasures:
    """Difference of one output from the reference's.

    Attributes:
        output: its name.
        max_abs, mean_abs, p999_abs: of the absolute difference, in the output's own unit.
        worst: the largest of what ``Tolerance`` bounds, as a share of its limit; above 1 is too far.
        cosine: between the two, of the worst sample.
        steps: the largest difference in steps of 255 to full scale: 8-bit levels of a picture.
        psnr_db: of the worst sample, infinite where all are equal.
        ssim: of the worst sample; None for what is no picture, or without scikit-image.
        non_finite: values that are NaN or infinite, in either.
        failures: what is beyond its limit, in words.
    """

    output: str
    max_abs: float
    mean_abs: float
    p999_abs: float
    worst: float
    cosine: float
    steps: float
    psnr_db: float
    ssim: float | None
    non_finite: int
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures


def distance(got: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Absolute difference, fp64: none between equal infinities or two NaN, infinite between a number and NaN."""
    first, second = got.astype(np.float64), reference.astype(np.float64)
    equal = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):  # of infinities
        apart = np.abs(first - second)
    return np.where(equal, 0.0, np.where(np.isnan(apart), np.inf, apart))


def p999(values: np.ndarray) -> float:
    """99.9th percentile; of few values the largest, and of two infinities no mean."""
    return float(np.quantile(values, 0.999, method="higher")) if values.size else 0.0


def measure_output(
    name: str, got: np.ndarray, reference: np.ndarray, tolerance: Tolerance, full_scale: float | None = None
) -> OutputMeasures:
    """Compare one output.

    Args:
        name: of the output.
        got, reference: (N, ...), of one shape; types may differ.
        tolerance: what they may differ by.
        full_scale: distance from the smallest to the largest possible value: 2 for pictures in [-1, 1]. By default
            255 for uint8, else twice the largest value of the reference.

    Raises: ParityError if the shapes differ.
    """
    if got.shape != reference.shape:
        raise ParityError(f"output {name} is {got.shape}, expected {reference.shape} as in the reference")
    if reference.dtype == np.uint8:
        full_scale = 255.0
    first, second = got.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(first) & np.isfinite(second)
    non_finite = int(first.size - finite.sum())
    if non_finite or not first.size:
        nothing = (np.nan if non_finite else 0.0,) * 3
        failures = (f"{non_finite} of {first.size} values are NaN or infinite",) if non_finite else ()
        worst, cosine, psnr = (np.inf, np.nan, np.nan) if non_finite else (0.0, 1.0, np.inf)
        return OutputMeasures(name, *nothing, worst, cosine, nothing[0], psnr, None, non_finite, failures)
    scale = full_scale / 2 if full_scale else max(float(np.abs(second).max()), _SMALLEST_SCALE)
    absolute = np.abs(first - second)
    measures = OutputMeasures(
        name,
        float(absolute.max()),
        float(absolute.mean()),
        p999(absolute),
        _worst(absolute, second, scale, tolerance, free=float(reference.dtype == np.uint8)),
        _cosine(first, second),
        float(absolute.max() / scale * 127.5),
        _psnr(absolute, scale),
        _ssim(got, reference, 2 * scale),
        0,
    )
    return replace(measures, failures=tuple(_failures(measures, tolerance)))


def _failures(measures: OutputMeasures, tolerance: Tolerance) -> list[str]:
    failures = []
    if not measures.worst <= 1:  # so that NaN fails
        failures.append(
            f"p99.9 {measures.p999_abs:.2g}, max {measures.max_abs:.2g}: {measures.worst:.2g} times what "
            f"atol {tolerance.atol:g} and rtol {tolerance.rtol:g} allow"
        )
    if not measures.cosine >= tolerance.cosine:
        failures.append(f"cosine {measures.cosine:.5f} (limit {tolerance.cosine:g})")
    if not measures.psnr_db >= tolerance.psnr_db:
        failures.append(f"PSNR {measures.psnr_db:.1f} dB (limit {tolerance.psnr_db:g})")
    return failures


def _worst(
    absolute: np.ndarray, reference: np.ndarray, scale: float, tolerance: Tolerance, free: float
) -> float:
    """The largest difference beyond ``free``, as a share of what it may be."""
    # A level of a picture is counted from its black; its value in [-1, 1] may be anything up to 1.
    values = scale if free else np.abs(reference)
    beyond = np.maximum(absolute - free, 0)
    limits = np.broadcast_to(tolerance.atol * scale + tolerance.rtol * values, beyond.shape)
    # Where nothing is allowed, any difference is infinitely too large.
    shares = np.divide(beyond, limits, out=np.where(beyond > 0, np.inf, 0.0), where=limits > 0)
    return float(max(p999(shares), shares.max() / _MAX_OVER_P999))


def _samples(array: np.ndarray) -> np.ndarray:
    """(N, values); what has no batch is one sample."""
    return array.reshape(len(array) if array.ndim > 1 else 1, -1)


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    a, b = _samples(first), _samples(second)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    equal = (a == b).all(axis=1)
    cosines = np.where(equal, 1.0, (a * b).sum(axis=1) / np.where(norms == 0, np.inf, norms))
    return float(cosines.min())


def _psnr(absolute: np.ndarray, scale: float) -> float:
    """10 log10(full scale^2 / MSE), of the worst sample."""
    error = np.square(_samples(absolute)).mean(axis=1).max()
    return float(10 * np.log10((2 * scale) ** 2 / error)) if error else np.inf


def _ssim(got: np.ndarray, reference: np.ndarray, full_scale: float) -> float | None:
    """Gaussian window of 11 px, sigma 1.5 (Wang et al. 2004), by scikit-image; of the worst sample."""
    if reference.ndim != 4:
        return None
    if reference.dtype != np.uint8 or reference.shape[3] not in _PICTURE_CHANNELS:
        got, reference = got.transpose(0, 2, 3, 1), reference.transpose(0, 2, 3, 1)
    if reference.shape[3] not in _PICTURE_CHANNELS or find_spec("skimage") is None:
        return None
    from posewarp.models.metrics import SSIM_WINDOW_PX, ssim

    if min(reference.shape[1:3]) < SSIM_WINDOW_PX:
        return None
    pairs = zip(got.astype(np.float64), reference.astype(np.float64), strict=True)
    return min(ssim(*pair, full_scale) for pair in pairs)
