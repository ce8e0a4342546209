from __future__ import annotations

import warnings

import numpy as np
import pytest

from posewarp.runtime.errors import ContractError, DataError, PosewarpWarning
from posewarp.runtime.keypoints import KEYPOINT_NAMES, LIMBS, check_keypoints, to_heatmaps

H, W = 256, 176


@pytest.fixture
def person(rng) -> np.ndarray:
    """Upright, about the middle of the frame: taller than it is wide, as people are."""
    return np.stack((rng.uniform(60, 116, 18), rng.uniform(20, 236, 18)), 1).astype(np.float32)


def test_limbs_join_all_keypoints_into_one_tree():
    joined = {1}
    for a, b in LIMBS:
        assert (a in joined) != (b in joined)  # each limb adds one
        joined |= {a, b}
    assert joined == set(range(len(KEYPOINT_NAMES)))


def test_keypoints_inside_are_unchanged(person):
    person[3] = -1
    np.testing.assert_array_equal(check_keypoints(person, H, W), person)
    np.testing.assert_array_equal(check_keypoints(person.astype(np.float64), H, W), person)


def test_half_a_joint_is_missing_without_a_warning(person):
    person[3, 0] = -1
    person[4, 1] = np.nan
    checked = check_keypoints(person, H, W)
    np.testing.assert_array_equal(checked[3:5], -1)


@pytest.mark.parametrize(
    ("point", "inside"),
    [
        ((175.9, 255.9), True),
        ((176.0, 100), False),
        ((100, 256.0), False),
        ((0, 0), True),
        ((-0.4, 9), False),
    ],
)
def test_the_frame_ends_at_its_size(person, point, inside):
    person[7] = point
    if inside:
        np.testing.assert_array_equal(check_keypoints(person, H, W)[7], np.float32(point))
        return
    with pytest.warns(
        PosewarpWarning, match=r"pose\.json: left_wrist \(.*\) outside the picture of width 176"
    ):
        checked = check_keypoints(person, H, W, "pose.json")
    np.testing.assert_array_equal(checked[7], -1)
    np.testing.assert_array_equal(checked[:7], person[:7])


def test_swapped_columns_are_recognised(person):
    lying = person[:, ::-1]
    with pytest.warns(PosewarpWarning, match="x and y are swapped"):
        check_keypoints(lying, H, W)
    only_one = np.full((18, 2), -1.0)
    only_one[0] = 200, 60  # y = 60 and x = 200 do not fit 256 x 176
    with pytest.raises(DataError, match=r"1 of 1 keypoints lie outside .* x and y are swapped"):
        check_keypoints(only_one, H, W)
    only_one[0] = 60, 100
    np.testing.assert_array_equal(check_keypoints(only_one, H, W)[0], [60, 100])


def test_the_256_wide_frame_is_recognised(person):
    wide = person + np.float32([60, 0])
    wide[0] = 180, 50
    with pytest.warns(PosewarpWarning, match="256-wide frame: subtract 40"):
        check_keypoints(wide, H, W)
    with pytest.raises(DataError, match="256-wide frame: subtract 40"):
        check_keypoints(person * np.float32([0.2, 1]) + np.float32([170, 0]), H, W)


def test_another_resolution_is_recognised(person):
    with pytest.raises(
        DataError, match=r"1[0-8] of 18 keypoints lie outside .* another resolution"
    ) as caught:
        check_keypoints(person * 3, H, W)
    assert f"y = {person[:, 1].max() * 3:g}" in str(caught.value)


def test_exactly_half_outside_is_a_warning_and_one_more_an_error(person):
    person[:9, 0] += 500
    with pytest.warns(PosewarpWarning):
        checked = check_keypoints(person, H, W)
    assert (checked[:9] == -1).all()
    person[9, 0] += 500
    with pytest.raises(DataError, match="10 of 18"):
        check_keypoints(person, H, W)


def test_normalised_coordinates_are_recognised(person):
    with pytest.raises(DataError, match="all lie between 0 and 1; multiply"):
        check_keypoints(person / np.float32([W, H]), H, W)


def test_no_visible_keypoint_is_an_error():
    with pytest.raises(DataError, match="me: no keypoint is visible"):
        check_keypoints(np.full((18, 2), -1.0), H, W, "me")


@pytest.mark.parametrize(
    "points", [np.zeros((17, 2)), np.zeros((18, 3)), np.zeros((1, 18, 2)), np.full((18, 2), "1")]
)
def test_other_shapes_are_refused(points):
    with pytest.raises(ContractError, match=r"expected numbers \(18, 2\)"):
        check_keypoints(points, H, W)


# Heat maps


@pytest.mark.parametrize("kind", ["gaussian", "delta"])
def test_heatmaps_equal_those_of_the_exported_graph(rng, kind):
    torch = pytest.importorskip("torch")
    from posewarp.models import heatmaps

    keypoints = rng.uniform(-20, 80, (3, 18, 2)).astype(np.float32)
    keypoints[0, :6] = [(-1, -1), (np.nan, 3), (63.9, 5), (64, 5), (5, 39.9), (5, 40)]
    keypoints[0, 6:8] = [(12, 7), (12.5, 7.5)]
    expected = heatmaps.to_heatmaps(torch.from_numpy(keypoints), 40, 64, 6.0, kind).numpy()
    got = to_heatmaps(keypoints, 40, 64, 6.0, kind)
    assert got.dtype == np.float32
    assert got.shape == (3, 18, 40, 64)
    assert expected.any(axis=(2, 3)).sum() > 10
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)


def test_heatmap_peaks_at_row_y_and_column_x():
    keypoints = np.array([[[60, 100], [-1, -1], [200, 60]]], np.float32)
    maps = to_heatmaps(keypoints, H, W, 6.0)[0]
    assert np.unravel_index(maps[0].argmax(), (H, W)) == (100, 60)
    np.testing.assert_allclose(maps[0, 100, 66], np.exp(-0.5), rtol=1e-6)
    assert not maps[1:].any()
    delta = to_heatmaps(keypoints + 0.7, H, W, 6.0, "delta")[0]
    assert delta[0].sum() == 1
    assert delta[0, 100, 60] == 1


def test_nan_reaches_no_map():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = to_heatmaps(np.full((1, 1, 2), np.nan, np.float32), 8, 8, 6.0)
    assert not maps.any()


def test_unknown_kind_of_heatmap_is_refused():
    with pytest.raises(ContractError, match="heat map kind is 'box'"):
        to_heatmaps(np.zeros((1, 18, 2)), 8, 8, 6.0, "box")
