"""What quality.py measures of pictures in memory: each figure by its formula, masks by their outline."""

from __future__ import annotations

import numpy as np
import pytest

from posewarp.benchmarks.scoring.generators import copy_source
from posewarp.benchmarks.scoring.measures import Target, keypoint_mask, measure_pair, pad_white
from posewarp.benchmarks.scoring.score import score
from posewarp.models.data.synthetic import SyntheticPeople

PAIRS = 18  # more than one batch of 16, and not a multiple of it


@pytest.fixture(scope="module")
def people():
    made = SyntheticPeople(64, 32, split="test", length=PAIRS)
    return [made[i] for i in range(PAIRS)]


def test_truth_a_level_off_has_the_psnr_of_one_level(people):
    def brighter(pairs):  # 255 levels clip at 255, so a few pixels are nearer than one level
        return [(p.target_image.astype(int) + 1).clip(0, 255).astype(np.uint8) for p in pairs]

    figures = score(brighter, people)
    assert figures["psnr_db"] == pytest.approx(20 * np.log10(255), abs=0.2)
    assert figures["garment_psnr_db"] == pytest.approx(20 * np.log10(255), abs=0.3)
    assert figures["ssim"] > 0.999
    assert figures["pairs"] == PAIRS


def test_figures_of_copying_equal_the_formula(people):
    figures = score(copy_source, people)
    squares = [np.square(p.source_image.astype(float) - p.target_image) for p in people]
    whole = [10 * np.log10(255**2 / square.mean()) for square in squares]
    garment = [
        10 * np.log10(255**2 / square[p.garment_mask].mean())
        for p, square in zip(people, squares, strict=True)
    ]
    assert figures["psnr_db"] == pytest.approx(np.mean(whole))
    assert figures["garment_psnr_db"] == pytest.approx(np.mean(garment))
    assert figures["ssim"] < 0.9


def test_pairs_without_garment_are_left_out_and_counted(people):
    masks = [np.zeros((64, 32), bool), people[1].garment_mask]
    targets = [Target(p.target_image, None, mask) for p, mask in zip(people, masks, strict=False)]
    images = [p.source_image for p in people[:2]]
    figures = score(lambda _: images, targets)
    assert figures["garment_psnr_db"] == pytest.approx(measure_pair(images[1], targets[1])["garment_psnr_db"])
    assert figures["garment_psnr_db_pairs"] == 1


def test_masked_ssim_sees_nothing_outside_the_mask(people):
    pair = people[0]
    changed = np.where(pair.garment_mask[..., None], pair.target_image, 255 - pair.target_image)
    figures = measure_pair(changed, pair)
    assert figures["garment_ssim"] == pytest.approx(1)
    assert figures["ssim"] < 0.9


def test_keypoint_mask_is_a_bar_of_eight_pixels_with_round_ends():
    keypoints = np.full((18, 2), -1.0)
    keypoints[2], keypoints[3] = (15, 10), (15, 40)  # right shoulder and elbow: a vertical limb
    mask = keypoint_mask(keypoints, 64, 32)
    rows, columns = np.nonzero(mask)
    assert (columns.min(), columns.max()) == (11, 19)
    assert (rows.min(), rows.max()) == (7, 43)  # a disc of radius 4 reaches less than 4 px
    assert mask[10:41, 12:19].all()
    assert not keypoint_mask(np.full((18, 2), -1.0), 64, 32).any()


def test_padding_is_forty_white_columns_on_each_side():
    padded = pad_white(np.zeros((256, 176, 3), np.uint8))
    assert padded.shape == (256, 256, 3)
    assert padded[:, :40].min() == padded[:, 216:].min() == 255
    assert padded[:, 40:216].max() == 0
