import math
from dataclasses import replace

import numpy as np
import pytest

from posewarp.export.ladder.measures import TOLERANCES, _failures, distance, measure_output, p999
from posewarp.runtime.errors import ParityError

FP16, FP32 = TOLERANCES["fp16"], TOLERANCES["fp32"]


def picture(seed=0, batch=2):
    """(N, 3, 32, 24) in [-1, 1], smooth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :24] / 8
    phase = rng.uniform(0, 6, (batch, 3, 1, 1))
    return np.sin(phase + y + x).astype(np.float32)


def measured(got, reference=None, tolerance=FP16, full_scale=2.0):
    return measure_output("y", got, picture() if reference is None else reference, tolerance, full_scale)


def test_equal_pictures_are_equal_in_every_measure():
    same = measured(picture())
    assert (same.max_abs, same.mean_abs, same.p999_abs, same.steps, same.worst) == (0, 0, 0, 0, 0)
    assert (same.cosine, same.psnr_db, same.non_finite) == (1, math.inf, 0)
    assert same.ssim == pytest.approx(1)
    assert same.passed


def test_measures_are_what_their_definitions_say():
    shifted = measured(picture() + np.float32(0.01))
    assert shifted.max_abs == pytest.approx(0.01, rel=1e-4)
    assert shifted.mean_abs == pytest.approx(0.01, rel=1e-4)
    assert shifted.steps == pytest.approx(1.275, rel=1e-4)
    assert shifted.psnr_db == pytest.approx(20 * math.log10(2 / 0.01), abs=1e-3)
    a, b = picture()[0].ravel().astype(float), picture()[0].ravel() + 0.01
    assert shifted.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


def test_ssim_sees_structure_where_psnr_is_high():
    noisy = picture() * 0.02 + 0.01 * np.random.default_rng(0).standard_normal(picture().shape)
    flat = measured(noisy.astype(np.float32), picture() * np.float32(0.02))
    assert flat.psnr_db > 40
    assert flat.ssim < 0.97


@pytest.mark.parametrize("where", [0, 1])
def test_the_worst_sample_counts(where):
    got = picture()
    got[where] += 0.3
    assert measured(got).psnr_db == pytest.approx(20 * math.log10(2 / 0.3), abs=1e-3)
    got[where] = -got[where]
    assert measured(got).cosine < 0


def test_limits_are_of_full_scale_and_of_each_value():
    reference = np.full((1, 2000), 1.0, np.float32)
    reference[0, 0] = 40
    assert measure_output("y", reference + np.float32(0.2), reference, FP16).worst < 1  # 5e-3 * 40 + 5e-3
    assert measure_output("y", reference + np.float32(0.21), reference, FP16).worst > 1
    assert not measured(picture() + np.float32(1.1e-2), tolerance=FP16).passed
    assert measured(picture() + np.float32(5e-3), tolerance=FP16).passed


@pytest.mark.parametrize(("error", "passed"), [(9e-5, True), (1.1e-4, False)])
def test_one_value_may_be_ten_times_the_limit_off(error, passed):
    got = picture()
    got[0, 0, 0, 0] += np.float32(error)
    assert measured(got, tolerance=FP32).passed == passed


def test_pictures_of_8_bits_may_differ_by_a_step_of_rounding():
    reference = np.random.default_rng(0).integers(0, 255, (1, 32, 24, 3), np.uint8)
    off = reference.copy()
    off[0, 0, :2] += np.uint8(1)
    assert measure_output("y", off, reference, FP32).passed
    off[0, 0, 0] += np.uint8(1)
    failed = measure_output("y", off, reference, FP32)
    assert failed.steps == 2
    assert "times what atol 1e-05" in failed.failures[0]
    assert measure_output("y", off, reference, FP16).passed
    assert measure_output("y", off, reference, FP16).ssim < 1


def test_other_whole_numbers_are_equal():
    assert measure_output("i", np.array([[3, 9]]), np.array([[3, 9]]), FP16).passed
    assert not measure_output("i", np.array([[3, 8]]), np.array([[3, 9]]), FP32).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_fails_on_either_side(bad, side):
    pair = [picture(), picture()]
    pair[side][0, 0, 0, 0] = bad
    result = measured(*pair)
    assert result.non_finite == 1
    assert result.failures == ("1 of 4608 values are NaN or infinite",)


def test_cosine_and_psnr_have_limits_of_their_own():
    turned = measured(picture() * np.float32(0.5), tolerance=FP16)
    assert turned.cosine == pytest.approx(1)
    assert [failure.split()[0] for failure in turned.failures] == ["p99.9", "PSNR"]
    rng = np.random.default_rng(0)
    small = (1e-3 * rng.standard_normal((1, 500))).astype(np.float32)
    other = (1e-3 * rng.standard_normal((1, 500))).astype(np.float32)
    assert any("cosine" in failure for failure in measured(other, small).failures)


def test_noise_around_zero_is_no_scale():
    assert (
        measure_output("y", np.full((1, 9), 1e-9, np.float32), np.zeros((1, 9), np.float32), FP16).worst < 1
    )


def test_shapes_must_agree():
    with pytest.raises(ParityError, match=r"output y is \(1, 2\), expected \(2, 1\)"):
        measure_output("y", np.zeros((1, 2)), np.zeros((2, 1)), FP32)
    assert measure_output("y", np.zeros((0, 3)), np.zeros((0, 3)), FP32).passed


def test_distance_and_its_percentile_bear_infinities():
    apart = distance(np.array([np.inf, np.nan, 1, np.inf]), np.array([np.inf, np.nan, np.nan, -np.inf]))
    np.testing.assert_array_equal(apart, [0, 0, np.inf, np.inf])
    assert p999(apart) == np.inf
    assert p999(np.arange(1001.0)) == 999
    assert p999(np.zeros(0)) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_a_tolerance_of_nothing_fails_any_difference_and_passes_none(kind):
    nothing = replace(FP32, atol=0.0, rtol=0.0, cosine=-1.0, psnr_db=0.0)
    reference = np.zeros((1, 3, 16, 16), kind)
    got = reference.copy()
    got[0, 0, 0, 0] = 2
    assert measured(reference, reference, nothing).passed
    apart = measured(got, reference, nothing)
    assert apart.worst == math.inf
    assert "inf times what atol 0 and rtol 0 allow" in apart.failures[0]


def test_a_share_that_is_no_number_is_a_failure():
    unknown = replace(measured(picture()), worst=math.nan)
    assert _failures(unknown, FP16)


@pytest.mark.parametrize("limit", ["atol", "rtol", "cosine", "psnr_db", "same_flow_px", "own_flow_px"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_limit_that_is_not_finite_is_refused(limit, value):
    with pytest.raises(ParityError, match=f"tolerance {limit} is {value}, expected a finite number"):
        replace(FP16, **{limit: value})
