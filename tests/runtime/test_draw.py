from __future__ import annotations

import numpy as np
import pytest

from posewarp.runtime.draw import COLORS, draw_skeleton, flow_to_colors, panel
from posewarp.runtime.errors import ContractError
from posewarp.runtime.keypoints import LIMBS


@pytest.fixture
def keypoints() -> np.ndarray:
    """Only the neck and the right shoulder, so one limb."""
    points = np.full((18, 2), -1, np.float32)
    points[1:3] = (20, 50), (80, 50)
    return points


def test_limb_and_joints_have_openposes_colours(keypoints):
    image = np.full((100, 100, 3), 30, np.uint8)
    drawn = draw_skeleton(image, keypoints)
    assert LIMBS[0] == (1, 2)
    np.testing.assert_array_equal(drawn[50, 50], COLORS[0])
    np.testing.assert_array_equal(drawn[50, 20], COLORS[1])
    np.testing.assert_array_equal(drawn[50, 80], COLORS[2])
    np.testing.assert_array_equal(drawn[:45], image[:45])
    np.testing.assert_array_equal(image, 30)


def test_edges_are_smooth_and_never_darker_than_what_they_join(keypoints):
    keypoints[2] = 80, 70
    drawn = draw_skeleton(np.full((100, 100, 3), 200, np.uint8), keypoints)
    red = drawn[..., 0]
    assert ((red > 200) & (red < 255)).any()
    assert red.min() == 200


def test_missing_keypoints_are_left_out(keypoints):
    blank = np.zeros((100, 100, 3), np.uint8)
    keypoints[2] = -1, 50
    drawn = draw_skeleton(blank, keypoints)
    assert not drawn[:, 30:].any()
    assert drawn[50, 20].any()
    assert not draw_skeleton(blank, np.full((18, 2), -1)).any()


def test_skeleton_on_a_photo_needs_no_giant_overlay(keypoints):
    drawn = draw_skeleton(np.zeros((3000, 4000, 3), np.uint8), keypoints * 30)
    np.testing.assert_array_equal(drawn[1500, 1500], COLORS[0])


def test_colours_say_direction_and_length():
    flow = np.array([[[4, -4, 0, 0, 0, 2]], [[0, 0, 0, 4, -4, 0]]], np.float32)
    right, left, still, down, up, half_right = flow_to_colors(flow)[0].tolist()
    assert right == [255, 0, 0]
    assert left == [0, 255, 255]
    assert still == [255, 255, 255]
    assert down == [128, 255, 0]
    assert up == [128, 0, 255]
    assert half_right == [255, 128, 128]
    assert flow_to_colors(flow, scale_px=8)[0, 0].tolist() == [255, 128, 128]
    assert flow_to_colors(flow, scale_px=2)[0, 5].tolist() == [255, 0, 0]


def test_zero_flow_is_white():
    assert (flow_to_colors(np.zeros((2, 3, 4), np.float32)) == 255).all()


@pytest.mark.parametrize("flow", [np.zeros((3, 4, 2)), np.zeros((1, 2, 3, 4)), np.full((2, 3, 4), np.nan)])
def test_what_is_no_flow_is_refused(flow):
    with pytest.raises(ContractError, match=r"expected finite numbers \(2, h, w\)"):
        flow_to_colors(flow)


def test_panel_shows_every_picture_and_title_at_one_height():
    images = [np.full((128, 64, 3), 90, np.uint8), np.full((32, 16, 3), 30, np.uint8)]
    result = panel([("a", images[0]), ("a title wider than its picture", images[1])])
    for value in (90, 30):
        rows, columns = np.nonzero((result == value).all(-1))
        assert np.ptp(rows) + 1 >= 256
        assert np.ptp(columns) + 1 >= 128
    title = result[: np.nonzero((result == 90).all(-1))[0].min()]
    assert (title.min(axis=(0, 2)) < 80).any()
    assert (result[:, -1] == 255).all()
    assert result.shape[0] < 320


def test_panel_keeps_the_pixels_of_the_tallest(rng):
    image = rng.integers(0, 200, (300, 100, 3), np.uint8)
    result = panel([("x", image)])
    top, left = (index.min() for index in np.nonzero(result[30:].min(-1) < 200))
    np.testing.assert_array_equal(result[30 + top : 330 + top, left : left + 100], image)


def test_panel_of_nothing_is_refused():
    with pytest.raises(ContractError, match="no pictures"):
        panel([])
    with pytest.raises(ContractError, match="expected uint8"):
        panel([("x", np.zeros((2, 2)))])
