"""Heat maps against the formula, written out in numpy float64."""

import numpy as np
import pytest
import torch

from posewarp.models.heatmaps import to_heatmaps, visible

HEIGHT, WIDTH = 256, 176
SIGMA_PX = 6.0


def one(x, y, **options):
    """The map of a single keypoint."""
    return to_heatmaps(torch.tensor([[[x, y]]]), HEIGHT, WIDTH, SIGMA_PX, **options)[0, 0]


def test_maps_equal_the_formula():
    random = np.random.default_rng(0)
    keypoints = random.uniform((0, 0), (WIDTH, HEIGHT), (2, 18, 2)).astype(np.float32)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    kx, ky = (keypoints[..., i, None, None].astype(np.float64) for i in (0, 1))
    expected = np.exp(-((x - kx) ** 2 + (y - ky) ** 2) / (2 * SIGMA_PX**2))
    maps = to_heatmaps(torch.from_numpy(keypoints), HEIGHT, WIDTH, SIGMA_PX)
    assert maps.dtype == torch.float32
    # fp32 rounds the exponent by 1e-7 of itself, which costs at most 1e-7 / e.
    np.testing.assert_allclose(maps.numpy(), expected, rtol=0, atol=1e-6)


def test_the_peak_is_one_in_row_y_and_column_x():
    heatmap = one(60.0, 100.0)
    assert heatmap[100, 60] == 1
    assert heatmap.argmax() == 100 * WIDTH + 60


def test_one_sigma_from_the_keypoint_the_map_is_exp_of_minus_a_half():
    heatmap = one(60.0, 100.0)
    assert heatmap[106, 60].item() == pytest.approx(np.exp(-0.5), abs=1e-6)
    assert heatmap[100, 54].item() == pytest.approx(np.exp(-0.5), abs=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "delta"])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        *((-1.0, -1.0), (-1.0, 100.0), (60.0, -1.0), (-0.01, 100.0)),
        *((float(WIDTH), 100.0), (60.0, float(HEIGHT)), (1e9, 1e9)),
        *((float("nan"), 100.0), (60.0, float("nan")), (float("inf"), 100.0)),
    ],
)
def test_a_missing_keypoint_has_a_map_of_zeros(x, y, kind):
    assert one(x, y, kind=kind).eq(0).all()


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (WIDTH - 0.1, HEIGHT - 0.1), (0.0, HEIGHT - 1.0)])
def test_keypoints_on_the_border_of_the_frame_are_visible(x, y):
    assert visible(torch.tensor([[[x, y]]]), HEIGHT, WIDTH).all()
    assert one(x, y).max() > 0.97


def test_a_missing_keypoint_leaves_the_others_alone():
    keypoints = torch.tensor([[[60.0, 100.0], [float("nan"), -1.0], [10.0, 20.0]]])
    maps = to_heatmaps(keypoints, HEIGHT, WIDTH, SIGMA_PX)
    assert torch.equal(maps[0, 0], one(60.0, 100.0))
    assert torch.equal(maps[0, 2], one(10.0, 20.0))


@pytest.mark.parametrize(
    ("x", "y", "column", "row"), [(60.0, 100.0, 60, 100), (60.9, 100.5, 60, 100), (0, 0, 0, 0)]
)
def test_delta_is_a_single_one_at_the_pixel_that_holds_the_keypoint(x, y, column, row):
    heatmap = one(float(x), float(y), kind="delta")
    assert heatmap[row, column] == 1
    assert heatmap.sum() == 1
