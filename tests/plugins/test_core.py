"""The sampling core, through the CPU library: equation in float64, then PyTorch, then the core (both its loops)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.backend.test.case import node as onnx_cases
from onnx.backend.test.case.node import gridsample

from posewarp.runtime import plugin_library
from tests.plugins.sampling import (
    MODES,
    PADDINGS,
    SPECIAL,
    away_from_ties,
    equation,
    random_case,
    tolerance,
    torch_sample,
)

# PyTorch's kernels for these fuse multiplies and adds as the core does; others (ARM, old x86) agree to rounding only.
FUSING = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def options_of(features):
    return product(MODES[features.ndim], PADDINGS, (False, True))


def test_equation_equals_torch_in_float64():
    rng = np.random.default_rng(0)
    for _ in range(30):
        features, grid = (array.astype(np.float64) for array in random_case(rng, largest=9))
        for options in options_of(features):
            np.testing.assert_allclose(
                equation(features, grid, *options),
                torch_sample(features, grid, *options),
                rtol=0,
                atol=1e-11,
                err_msg=str((features.shape, grid.shape, options)),
            )


@pytest.mark.parametrize("seed", range(8))
def test_core_equals_equation_and_torch_on_random_shapes(sampler, seed):  # 8 x 25 shapes
    rng = np.random.default_rng(seed)
    for _ in range(25):
        features, grid = random_case(rng)
        for options in options_of(features):
            mode, padding_mode, align_corners = options
            sampled = sampler(features, grid, *options)
            in_torch, exact = torch_sample(features, grid, *options), equation(features, grid, *options)
            case = f"{features.shape} {grid.shape} {options}"
            if mode == "nearest":
                sure = np.broadcast_to(away_from_ties(features, grid, align_corners), sampled.shape)
                assert (sampled == in_torch)[sure].all(), case
                assert (sampled == exact.astype(np.float32))[sure].all(), case
            else:
                bound = tolerance(features, grid, padding_mode, align_corners)
                assert (np.abs(sampled - in_torch) <= bound).all(), case
                assert (np.abs(sampled - exact) <= bound).all(), case


@pytest.mark.skipif(not FUSING, reason="this PyTorch rounds positions differently")
def test_nearest_and_avx2s_bilinear_are_bit_equal_to_torch(sampler):
    rng, simd = np.random.default_rng(1), plugin_library.simd(sampler.keywords["library"])
    for _ in range(40):
        features, grid = random_case(rng)
        for mode, padding_mode, align_corners in options_of(features):
            if mode == "nearest" or (mode == "bilinear" and simd == "avx2"):
                options = (mode, padding_mode, align_corners)
                np.testing.assert_array_equal(
                    sampler(features, grid, *options),
                    torch_sample(features, grid, *options),
                    err_msg=str(options),
                )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_ties_of_nearest_go_to_even_as_in_torch(sampler, padding_mode, align_corners):
    # 9 or 8 pixels: (grid + 1) * 4 is exact, so every fourth of these positions is a tie in any arithmetic.
    size, shift = (9, 0.0) if align_corners else (8, 0.5)
    x = np.arange(-8, 4 * size, dtype=np.float32) / 4
    ticks = (x + np.float32(shift)) / 4 - 1
    features = np.arange(size * size, dtype=np.float32).reshape(1, 1, size, size)
    options = ("nearest", padding_mode, align_corners)
    grid = np.stack(np.meshgrid(ticks, ticks), -1)[None]
    np.testing.assert_array_equal(sampler(features, grid, *options), torch_sample(features, grid, *options))
    first_row = np.stack([ticks, np.full_like(ticks, shift / 4 - 1)], -1)[None, None]
    inside = (np.rint(x) >= 0) & (np.rint(x) < size)
    assert (x[inside] - np.floor(x[inside]) == 0.5).sum() >= 8
    np.testing.assert_array_equal(sampler(features, first_row, *options)[0, 0, 0][inside], np.rint(x[inside]))


@st.composite
def cases(draw):
    rank = draw(st.integers(2, 3))
    size = st.integers(1, 11)
    features_shape = (
        draw(st.integers(0, 2)),
        draw(st.sampled_from([1, 3, 8, 13])),
        *draw(st.tuples(*[size] * rank)),
    )
    out_sizes = draw(st.tuples(*[st.integers(0, 9)] * rank))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = rng.uniform(-1, 1, features_shape).astype(np.float32)
    grid = rng.uniform(-1.5, 1.5, (features_shape[0], *out_sizes, rank)).astype(np.float32)
    special = rng.random(grid.shape) < draw(st.sampled_from([0.0, 0.1, 0.7]))
    grid[special] = rng.choice(np.array(SPECIAL, np.float32), special.sum())
    options = draw(st.sampled_from(MODES[rank + 2])), draw(st.sampled_from(PADDINGS)), draw(st.booleans())
    return features, grid, options


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_any_coordinate_samples_as_in_torch(sampler, case):
    features, grid, (mode, padding_mode, align_corners) = case
    sampled = sampler(features, grid, mode, padding_mode, align_corners)
    expected = torch_sample(features, grid, mode, padding_mode, align_corners)
    assert sampled.shape == expected.shape
    if padding_mode == "reflection" and not FUSING:  # where 1e7 is reflected to depends on one rounding
        near = (np.abs(grid) < 100).all(-1)[:, None]
        sampled, expected = np.where(near, sampled, 0), np.where(near, expected, 0)
    np.testing.assert_allclose(sampled, expected, rtol=0, atol=3e-6, equal_nan=True)


def test_not_a_number_and_infinity_as_measured_in_torch(sampler):
    # X = 9..1 on 3x3, y in the middle row (6 5 4), x = NaN, +Inf, -Inf.
    features = np.arange(9, 0, -1, dtype=np.float32).reshape(1, 1, 3, 3)
    grid = np.array([[[[np.nan, 0], [np.inf, 0], [-np.inf, 0]]]], np.float32)
    nan = [np.nan] * 3
    expected = {
        ("bilinear", "zeros"): nan,
        ("bilinear", "border"): [6, 4, 6],
        ("bilinear", "reflection"): [6, 6, 6],
        ("nearest", "zeros"): [0, 0, 0],
        ("nearest", "border"): [6, 4, 6],
        ("nearest", "reflection"): [6, 6, 6],
        **{("bicubic", padding_mode): nan for padding_mode in PADDINGS},
    }
    for (mode, padding_mode), values in expected.items():
        sampled = sampler(features, grid, mode, padding_mode, True)
        np.testing.assert_array_equal(sampled.ravel(), values, err_msg=f"{mode} {padding_mode}")


def test_pixels_that_lie_outside_count_as_zero_even_when_the_first_pixel_is_infinite(sampler):
    features = np.full((1, 9, 3, 3), np.inf, np.float32)
    sampled = sampler(features, np.full((1, 1, 1, 2), 5, np.float32))
    np.testing.assert_array_equal(sampled, 0)


# Sizes at which the library plans differently: bands of rows, the whole image, no packing, several groups of stripes.
PLANS = {
    "smooth": ((1, 61, 67, 43), (67, 43), 0.02),
    "tall bands": ((1, 9, 300, 40), (300, 40), 0.02),
    "scattered": ((2, 13, 90, 70), (90, 70), 2.2),
    "few points": ((1, 20, 200, 200), (3, 5), 2.2),
    "half scattered": ((1, 8, 300, 40), (300, 40), None),
    "one channel": ((1, 1, 90, 70), (90, 70), 2.2),
    "enlarging": ((1, 3, 20, 20), (400, 300), 0.02),
    "many points": ((5, 2, 40, 40), (400, 300), 0.02),
}


@pytest.mark.parametrize("mode", MODES[4])
@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_of_the_library_samples_the_same(sampler, plan, mode):
    shape, (height, width), spread = PLANS[plan]
    rng = np.random.default_rng(2)
    features = rng.uniform(-1, 1, shape).astype(np.float32)
    identity = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1)
    noise = rng.uniform(-1, 1, (shape[0], height, width, 2))
    spread = np.where(np.arange(height)[:, None, None] < height // 2, 0.02, 2.2) if spread is None else spread
    grid = (identity + spread * noise).astype(np.float32)
    expected = torch_sample(features, grid, mode, "zeros", False)
    bound = tolerance(features, grid, "zeros", False)
    for threads in (1, 2, 5):
        sampled = sampler(features, grid, mode, "zeros", False, threads=threads)
        assert (np.abs(sampled - expected) <= bound).all(), threads


HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def to_half(array: np.ndarray, dtype: str) -> np.ndarray:
    """As numpy's float16, or as ml_dtypes' bfloat16."""
    import ml_dtypes

    half = torch.from_numpy(array).to(HALF[dtype])
    return half.numpy() if dtype == "fp16" else half.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", HALF)
def test_half_features_are_fp32_rounded_once(sampler, dtype):
    rng = np.random.default_rng(3)
    for _ in range(40):
        features, grid = random_case(rng, scale=1.3)
        half = to_half(features * rng.choice([1e-7, 1e-4, 1, 6e4]), dtype)
        for options in options_of(features):
            sampled = sampler(half, grid, *options)
            expected = to_half(sampler(half.astype(np.float32), grid, *options), dtype)
            assert sampled.dtype == half.dtype
            steps = sampled.view(np.int16).astype(int) - expected.view(np.int16).astype(int)
            assert (np.abs(steps) <= 1).all(), (features.shape, grid.shape, options)
            assert (steps == 0).mean() > 0.999


@pytest.mark.parametrize("dtype", HALF)
def test_every_half_value_passes_unchanged(sampler, dtype):
    bits = np.arange(2**16, dtype=np.uint16).reshape(1, 1, 1, -1)
    features = (
        np.broadcast_to(bits, (1, 8, 1, 2**16)).copy().view(to_half(np.zeros(1, np.float32), dtype).dtype)
    )
    x = (np.arange(2**16) + 0.5) / 2**15 - 1  # each exactly a pixel's centre
    grid = np.stack([x, np.zeros_like(x)], -1).astype(np.float32)[None, None]
    for channels in (1, 8):
        sampled = sampler(features[:, :channels], grid, "nearest")
        not_a_number = np.isnan(features[:, :channels].astype(np.float32))
        np.testing.assert_array_equal(np.isnan(sampled.astype(np.float32)), not_a_number)
        same = sampled.view(np.uint16) == features[:, :channels].view(np.uint16)
        assert (same | not_a_number).all()


@pytest.mark.parametrize("dtype", HALF)
def test_half_results_round_to_nearest_even(sampler, dtype):
    # The mean of two neighbours among the half values is a tie; every finite pair is tried, subnormals among them.
    bits = np.arange(0x7C00 if dtype == "fp16" else 0x7F80, dtype=np.uint16)
    features = np.stack([bits[:-1], bits[1:]]).view(to_half(np.zeros(1, np.float32), dtype).dtype)
    features = np.ascontiguousarray(features.T[None, :, None, :])  # (1, C, 1, 2)
    middle = np.zeros((1, 1, 1, 2), np.float32)
    sampled = sampler(features, middle, "bilinear", "border", True)
    mean = features.astype(np.float32).astype(np.float64).mean(-1, keepdims=True).astype(np.float32)
    np.testing.assert_array_equal(sampled.view(np.int16), to_half(mean, dtype).view(np.int16))


ONNX_CASES = [case for case in onnx_cases._NodeTestCases if case.name.startswith("test_gridsample")]


def test_onnx_ships_its_cases():
    assert gridsample.GridSample  # importing it adds its cases to the list
    assert len(ONNX_CASES) >= 18


@pytest.mark.parametrize("case", ONNX_CASES, ids=lambda case: case.name)
def test_core_passes_the_onnx_projects_own_case(sampler, case):
    attributes = {attribute.name: attribute for attribute in case.model.graph.node[0].attribute}
    word = {name: attributes[name].s.decode() for name in ("mode", "padding_mode") if name in attributes}
    mode = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}[word.get("mode", "linear")]
    align_corners = "align_corners" in attributes and bool(attributes["align_corners"].i)
    for inputs, outputs in case.data_sets:
        features, grid = (a if isinstance(a, np.ndarray) else numpy_helper.to_array(a) for a in inputs)
        expected = outputs[0] if isinstance(outputs[0], np.ndarray) else numpy_helper.to_array(outputs[0])
        sampled = sampler(features, grid, mode, word.get("padding_mode", "zeros"), align_corners)
        np.testing.assert_allclose(sampled, expected, rtol=case.rtol, atol=case.atol)
