"""Pictures, label maps and keypoints get from a data set's frame to the network's together."""

import numpy as np
import pytest

from posewarp.models.data.framing import frame_image, frame_keypoints, frame_labels
from posewarp.runtime.fit import Fit
from posewarp.runtime.keypoint_conversion import Reframe

SIZES = [(256, 256), (256, 176), (1101, 750), (128, 64), (512, 352)]


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def joints(*points):
    return np.array(points, np.float32)


def test_256_wide_loses_40_columns_on_either_side_bit_by_bit():
    image = noise(256, 256)
    np.testing.assert_array_equal(frame_image(image, (256, 176)), image[:, 40:216])


def test_176_wide_gets_40_white_columns_on_either_side():
    image = noise(256, 176)
    framed = frame_image(image, (256, 256))
    np.testing.assert_array_equal(framed[:, 40:216], image)
    assert (framed[:, :40] == 255).all()
    assert (framed[:, 216:] == 255).all()


def test_a_picture_of_the_size_passes_bit_by_bit():
    image = noise(128, 64)
    np.testing.assert_array_equal(frame_image(image, (128, 64)), image)


def test_keypoints_of_the_256_wide_frame_lose_40():
    moved = frame_keypoints(joints((40, 0), (128, 100), (215, 255)), (256, 256), (256, 176))
    np.testing.assert_array_equal(moved, joints((0, 0), (88, 100), (175, 255)))


@pytest.mark.parametrize("point", [(39, 10), (216, 10), (0, 10)])
def test_a_joint_that_is_cut_off_is_missing(point):
    moved = frame_keypoints(joints(point), (256, 256), (256, 176))
    np.testing.assert_array_equal(moved, joints((-1, -1)))


@pytest.mark.parametrize("point", [(-1, 20), (20, -1), (-1, -1), (np.nan, 3), (176, 20), (20, 256), (-2, 20)])
def test_what_is_missing_or_outside_its_own_frame_is_missing(point):
    moved = frame_keypoints(joints(point), (256, 176), (256, 256))
    np.testing.assert_array_equal(moved, joints((-1, -1)))


def test_a_joint_on_the_first_pixel_of_a_shrunk_picture_stays_and_training_agrees_with_inference():
    corner = joints((0, 0), (687, 999))
    moved = frame_keypoints(corner, (1000, 688), (250, 172))
    np.testing.assert_array_equal(moved[0], (0, 0))
    np.testing.assert_array_equal(moved, Fit.to_size(1000, 688, 250, 172).keypoints(corner))
    np.testing.assert_array_equal(moved, Reframe((1000, 688), (250, 172))(corner))


def test_fractions_of_a_pixel_are_kept():
    moved = frame_keypoints(joints((99.5, 100.25)), (256, 176), (256, 176))
    np.testing.assert_array_equal(moved, joints((99.5, 100.25)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frame", SIZES)
def test_a_keypoint_stays_on_what_it_marks(frame, size):
    """The middle of a dark square moves with the keypoint in it; in label maps too."""
    height, width = frame
    x, y, half = round(0.55 * width), round(0.4 * height), max(round(0.05 * height), 4)
    image = np.full((height, width, 3), 255, np.uint8)
    image[y - half : y + half + 1, x - half : x + half + 1] = 0
    moved = frame_keypoints(joints((x, y)), frame, size)[0]
    dark = 255 - frame_image(image, size)[..., 0].astype(float)
    marked = frame_labels((image[..., 0] == 0).astype(np.uint8), size)
    for weight, tolerance in ((dark, 0.3), (marked.astype(float), 0.6)):
        assert weight.shape == size
        rows, columns = np.indices(size)
        middle = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        assert np.abs(middle - moved).max() < tolerance


def test_labels_are_never_mixed_and_outside_is_background():
    labels = np.random.default_rng(0).choice(np.array([5, 9], np.uint8), (256, 176))
    framed = frame_labels(labels, (128, 128))
    assert set(np.unique(framed)) == {0, 5, 9}
    assert not framed[:, :20].any()
