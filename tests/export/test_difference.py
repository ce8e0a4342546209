import numpy as np
import pytest

from posewarp.export.capture.difference import compare, compare_fp64


def floats(*values, count=1000):
    array = np.zeros(count, np.float32)
    array[: len(values)] = values
    return array


@pytest.mark.parametrize(
    ("errors", "passed"),
    [
        ((9e-5,), True),  # one value in 1,000 may be off by more than the 99.9th percentile's limit
        ((1.1e-4,), False),
        ((9e-6,) * 10, True),
        ((1.1e-5,) * 10, False),
        ((np.nan,), False),
    ],
)
def test_floats_have_a_limit_for_nearly_all_and_one_for_all(errors, passed):
    reference = floats(0, 0, 0)
    reference[-1] = 1.0
    assert compare("x", {}, reference + floats(*errors), reference).passed == passed


def test_limits_scale_with_the_reference():
    reference = floats(8.0)
    parity = compare("flow", {"batch": 3}, reference + floats(7e-4), reference)
    assert parity.passed
    assert (parity.p999_limit, parity.max_limit) == pytest.approx((8e-5, 8e-4))
    assert not compare("picture", {}, reference + floats(7e-4), reference, scale=1.0).passed


def test_values_around_zero_are_noise_and_not_a_scale():
    assert compare("flow", {}, floats(1e-8), floats()).passed


@pytest.mark.parametrize(("step", "passed"), [(1, True), (2, False)])
def test_pictures_may_differ_by_one_step(step, passed):
    reference = np.full((4, 4), 255, np.uint8)
    parity = compare("picture", {"batch": 1}, reference - np.uint8(step), reference)
    assert parity.passed == passed
    assert str(parity) == f"picture, batch 1: max {step} of 255 (limit 1) from torch fp32"


def test_other_integers_are_equal():
    assert compare("index", {}, np.array([3]), np.array([3])).passed
    assert not compare("index", {}, np.array([3]), np.array([4])).passed


def test_against_float64_the_limit_is_twice_the_references_own_distance():
    exact = floats(1.0).astype(np.float64)
    reference = (exact + 3e-4).astype(np.float32)
    assert compare_fp64("x", {}, (exact - 5e-4).astype(np.float32), reference, exact).passed
    assert not compare_fp64("x", {}, (exact - 7e-4).astype(np.float32), reference, exact).passed


def test_no_values_are_equal():
    assert compare("x", {}, np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).passed
