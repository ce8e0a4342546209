"""Pairs of pictures of synthetic people: the same person before the same background in two poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posewarp.models.data import body
from posewarp.models.data.appearance import Appearance, sample_appearance
from posewarp.models.data.figure import render
from posewarp.models.data.pair import Pair
from posewarp.runtime.errors import DataError

SPLITS = ("train", "test")
SAME_VIEW = 0.75  # of the pairs; the others turn to a view of their own
DROPOUT = 0.02  # of the keypoints, as a detector would miss them
ATTEMPTS = 40
CANDIDATES = 20
COVERAGE = (0.25, 0.60)
DISPLACEMENT = (0.05, 0.25)
CENTRE_DISTANCE = 0.05


@dataclass(frozen=True)
class Scene:
    """What a pair shows; ``figure.render`` draws the appearance in either pose, or in any other."""

    appearance: Appearance
    source_pose: body.Pose
    target_pose: body.Pose


class SyntheticPeople:
    """Synthetic people, made when asked for; the same (seed, split, index) always gives the same pair.

    In each picture the person covers 25 to 60 % of the frame. Between the two, the median displacement of the
    joints seen in both is 5 to 25 % of the height, and the centres of the persons' bounding boxes agree
    within 5 % of height and width. No garment of the test split has a hue that one of the training split has.

    Args:
        height, width: of the pictures, in pixels; made for aspects (width over height) of 0.4 to 1.
        seed: of the whole set.
        split: "train" or "test".
        length: of the set.

    Raises: DataError for an unknown split.
    """

    def __init__(self, height: int, width: int, seed: int = 0, split: str = "train", length: int = 100_000):
        if split not in SPLITS:
            raise DataError(f"unknown split {split!r}, expected one of {', '.join(SPLITS)}")
        self.height, self.width = height, width
        self.seed, self.split, self.length = seed, split, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Pair:
        return self._make(index)[1]

    def scene(self, index: int) -> Scene:
        """Appearance and poses of a pair."""
        return self._make(index)[0]

    def _make(self, index: int) -> tuple[Scene, Pair]:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside a set of {self.length} pairs")
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
        for _ in range(ATTEMPTS):
            scene = _sample_scene(rng, self.split, self.width / self.height)
            source = render(scene.appearance, scene.source_pose, self.height, self.width)
            if not COVERAGE[0] <= source[3].mean() <= COVERAGE[1]:
                continue
            target = render(scene.appearance, scene.target_pose, self.height, self.width)
            pair = Pair(source[0], target[0], _drop(rng, source[1]), _drop(rng, target[1]), target[2])
            if _acceptable(pair, source[3], target[3]):
                return scene, pair
        raise DataError(
            f"no pair fits a frame of {self.height}x{self.width}; choose an aspect between 0.4 and 1"
        )


def _sample_scene(rng: np.random.Generator, split: str, aspect: float) -> Scene:
    appearance = sample_appearance(rng, split)
    # A wide frame is filled by coming closer, the legs cropped, as in fashion photographs.
    zoom = rng.uniform((2 * aspect) ** 0.6, 2.08 * aspect) if aspect > 0.5 else 1.0
    centre = rng.uniform(-0.02, 0.02, 2)
    source_yaw = body.sample_yaw(rng)
    target_yaw = source_yaw if rng.random() < SAME_VIEW else body.sample_yaw(rng)
    target_yaw += float(np.deg2rad(rng.normal(0, 8)))

    # Arms that reach out of the frame are lost: of a few postures, the narrowest.
    poses, outside = _sample_poses(rng, 4, source_yaw, zoom, centre, aspect)
    source = poses[int(np.argmin(outside))]
    # Of more, the one that moves the joints about as far as wanted: typically 12 to 15 % of the height.
    wanted = np.clip(rng.normal(0.155, 0.03), 0.09, 0.21)
    poses, outside = _sample_poses(rng, CANDIDATES, target_yaw, zoom, centre, aspect)
    moved = np.linalg.norm([(p.joints - source.joints)[: body.KEYPOINTS, :2] for p in poses], axis=-1)
    target = poses[int(np.argmin(np.abs(np.median(moved, axis=1) - wanted) + 0.5 * outside))]
    return Scene(appearance, source, target)


def _sample_poses(
    rng: np.random.Generator, count: int, yaw: float, zoom: float, centre: np.ndarray, aspect: float
) -> tuple[list[body.Pose], np.ndarray]:
    """Poses of one view about a centre, and how much wider than the frame each is, in frame heights."""
    joints, head_yaw = body.sample_figures(rng, count, yaw)
    joints, scale, outside = body.place(joints, zoom, centre + rng.uniform(-0.01, 0.01, 2), aspect)
    return [body.Pose(joints[i], float(scale[i]), yaw, float(head_yaw[i])) for i in range(count)], outside


def _drop(rng: np.random.Generator, keypoints: np.ndarray) -> np.ndarray:
    keypoints[rng.random(body.KEYPOINTS) < DROPOUT] = -1
    return keypoints


def _acceptable(pair: Pair, source_mask: np.ndarray, target_mask: np.ndarray) -> bool:
    height, width = source_mask.shape
    if not COVERAGE[0] <= target_mask.mean() <= COVERAGE[1]:
        return False
    apart = np.abs(_box_centre(source_mask) - _box_centre(target_mask))
    if (apart > (CENTRE_DISTANCE * width, CENTRE_DISTANCE * height)).any():
        return False
    both = (pair.source_keypoints[:, 0] >= 0) & (pair.target_keypoints[:, 0] >= 0)
    if both.sum() < 6:
        return False
    moved = np.linalg.norm((pair.source_keypoints - pair.target_keypoints)[both], axis=1)
    return bool(DISPLACEMENT[0] * height <= np.median(moved) <= DISPLACEMENT[1] * height)


def _box_centre(mask: np.ndarray) -> np.ndarray:
    """Centre (x, y) of a mask's bounding box, in pixels."""
    ends = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (0, 1)]
    return np.array(ends).mean(axis=1)
