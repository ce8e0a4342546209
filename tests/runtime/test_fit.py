from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posewarp.runtime.errors import ContractError
from posewarp.runtime.fit import Fit


def test_aspect_is_kept_and_padding_is_centred():
    fit = Fit.to_size(100, 50, 40, 40, fill=(1, 2, 3))
    assert (fit.scaled_height, fit.scaled_width, fit.top, fit.left) == (40, 20, 0, 10)
    framed = fit.image(np.full((100, 50, 3), 200, np.uint8))
    assert framed.shape == (40, 40, 3)
    assert (framed[:, 10:30] == 200).all()
    assert (framed[:, :10] == (1, 2, 3)).all()
    assert (framed[:, 30:] == (1, 2, 3)).all()
    assert (Fit.to_size(50, 100, 40, 40).image(np.zeros((50, 100, 3), np.uint8))[0] == 255).all()


def test_picture_of_the_right_size_passes_bit_by_bit(rng):
    fit = Fit.to_size(24, 16, 24, 16)
    image = rng.integers(0, 256, (24, 16, 3), np.uint8)
    keypoints = rng.uniform(0, 16, (18, 2)).astype(np.float32)
    for there, back in ((fit.image, fit.inverse_image), (fit.inverse_image, fit.image)):
        np.testing.assert_array_equal(there(image), image)
        assert not np.shares_memory(there(image), image)
        np.testing.assert_array_equal(back(there(image)), image)
    np.testing.assert_array_equal(fit.keypoints(keypoints), keypoints)
    np.testing.assert_array_equal(fit.inverse_keypoints(keypoints), keypoints)


@settings(deadline=None)  # the machine may be busy
@given(
    st.tuples(*[st.integers(1, 6000)] * 2),
    st.tuples(*[st.integers(8, 1024)] * 2),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=18),
)
def test_keypoints_come_back(source, network, fractions):
    fit = Fit.to_size(*source, *network)
    keypoints = (np.array(fractions) * source[::-1]).astype(np.float32)
    moved = fit.keypoints(keypoints)
    assert moved.dtype == np.float32
    # One pixel of a picture shrunk 1000 times is a thousandth of a pixel: allow float32's last bit of that.
    step = (
        np.spacing(np.float32(max(network))) * np.divide(source, (fit.scaled_height, fit.scaled_width)).max()
    )
    inside = moved > 0  # what was at the frame's edge was kept in it, and comes back within that pixel
    back = fit.inverse_keypoints(moved)
    np.testing.assert_allclose(back[inside], keypoints[inside], atol=max(1e-3, step), rtol=0)
    assert (back[~inside] <= np.maximum(*np.divide(source, (fit.scaled_height, fit.scaled_width))) + 1).all()


def test_keypoints_of_a_photo_come_back_to_a_thousandth_of_a_pixel(rng):
    fit = Fit.to_size(4000, 3000, 256, 176)
    keypoints = rng.uniform(30, 3000, (18, 2)).astype(np.float32)
    np.testing.assert_allclose(fit.inverse_keypoints(fit.keypoints(keypoints)), keypoints, atol=1e-3, rtol=0)


def test_missing_keypoints_stay_missing():
    fit = Fit.to_size(100, 50, 40, 40)
    keypoints = np.array([[-1, -1], [-1, 20], [np.nan, 3], [20, 20]], np.float32)
    for moved in (fit.keypoints(keypoints), fit.inverse_keypoints(keypoints)):
        np.testing.assert_array_equal(moved[:3], -1)
        assert (moved[3] != -1).all()


@pytest.mark.parametrize(
    ("source", "network"), [((400, 300), (64, 44)), ((40, 60), (256, 176)), ((100, 37), (64, 64))]
)
def test_keypoint_stays_on_the_feature_it_marks(source, network):
    height, width = source
    at = np.array([width * 0.3, height * 0.7])
    y, x = np.mgrid[:height, :width]
    spread = height / 12
    blob = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * spread**2))
    fit = Fit.to_size(height, width, *network, fill=(0, 0, 0))
    image = blob.round().astype(np.uint8)[..., None].repeat(3, 2)

    def centre(image):
        weight = image[..., 0].astype(float)
        y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
        return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()

    framed = fit.image(image)
    scale = fit.scaled_height / height
    # Half a pixel of the wrong convention would be |scale - 1| / 2: 0.42 px and 2 px here.
    np.testing.assert_allclose(centre(framed), fit.keypoints(centre(image)), atol=0.1 * abs(scale - 1))
    np.testing.assert_allclose(
        centre(fit.inverse_image(framed)), centre(image), atol=0.1 * abs(1 / scale - 1)
    )


def test_a_joint_on_the_first_pixel_of_a_photo_stays_in_the_frame():
    fit = Fit.to_size(2560, 1760, 256, 176)
    first, outside, missing = fit.keypoints(np.array([[0.0, 0.0], [-30.0, 5.0], [-1.0, -1.0]]))
    np.testing.assert_array_equal(first, [0, 0])
    assert outside[0] < 0
    np.testing.assert_array_equal(missing, [-1, -1])


def test_shrinking_averages():
    checks = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    small = Fit.to_size(256, 256, 64, 64).image(checks)
    assert abs(small[2:-2, 2:-2].astype(int) - 127).max() <= 2  # without antialias: 0 or 255


def test_result_at_source_size_has_no_padding():
    fit = Fit.to_size(100, 50, 40, 40, fill=(9, 9, 9))
    back = fit.inverse_image(fit.image(np.full((100, 50, 3), 200, np.uint8)))
    assert back.shape == (100, 50, 3)
    assert (back == 200).all()


def test_extreme_shapes_keep_at_least_one_pixel():
    fit = Fit.to_size(1, 5000, 8, 8)
    assert (fit.scaled_height, fit.scaled_width) == (1, 8)
    assert fit.inverse_image(fit.image(np.zeros((1, 5000, 3), np.uint8))).shape == (1, 5000, 3)


def test_other_sizes_are_refused():
    fit = Fit.to_size(10, 20, 8, 8)
    with pytest.raises(ContractError, match="height 20 and width 10, expected 10 and 20"):
        fit.image(np.zeros((20, 10, 3), np.uint8))
    with pytest.raises(ContractError, match="height 10 and width 20, expected 8 and 8"):
        fit.inverse_image(np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(ContractError, match="sizes must be at least 1"):
        Fit.to_size(0, 20, 8, 8)
