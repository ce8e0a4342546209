"""The articulated figure: joint angles, forward kinematics, and its place in the frame.

Convention: x right, y down, z towards the viewer, projection along z. Lengths are in body heights until
``place``. A yaw of 0 faces the viewer, so the person's right side is on the picture's left; a yaw of +90
degrees faces the picture's right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KEYPOINTS = 18
NOSE, NECK, R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST, R_HIP, R_KNEE, R_ANKLE = range(11)
L_HIP, L_KNEE, L_ANKLE, R_EYE, L_EYE, R_EAR, L_EAR = range(11, 18)
HEAD, PELVIS, R_HAND, L_HAND, R_TOE, L_TOE = range(18, 24)  # joints that are no keypoints
JOINTS = 24
FACE = (NOSE, R_EYE, L_EYE, R_EAR, L_EAR)

SHOULDER_HALF, HIP_HALF = 0.106, 0.062
TORSO, NECK_TO_HEAD = 0.315, 0.115
UPPER_ARM, FOREARM, HAND = 0.165, 0.15, 0.045
THIGH, SHIN, FOOT = 0.235, 0.215, 0.075
HEAD_HALF_WIDTH, HEAD_HALF_HEIGHT = 0.068, 0.088

# How far the body reaches beyond each joint, for the figure's bounding box.
REACH = np.full(JOINTS, 0.035)
REACH[HEAD] = HEAD_HALF_HEIGHT
REACH[[R_SHOULDER, L_SHOULDER, R_HIP, L_HIP]] = 0.06


@dataclass(frozen=True)
class Pose:
    """A figure placed in a frame.

    Attributes:
        joints: (JOINTS, 3), fp64: the 18 keypoints, then the joints that are none. In frame heights: x from
            the frame's vertical middle line, y from its top, z towards the viewer.
        scale: body height, in frame heights.
        yaw, head_yaw: which way torso and head face, in radians.
    """

    joints: np.ndarray
    scale: float
    yaw: float
    head_yaw: float


def sample_yaw(rng: np.random.Generator) -> float:
    """A view in radians: frontal, three-quarter, side or back, each with some spread."""
    kind = rng.random()
    side = rng.choice((-1.0, 1.0))
    if kind < 0.42:
        degrees = rng.normal(0, 8)
    elif kind < 0.68:
        degrees = side * rng.uniform(25, 55)
    elif kind < 0.83:
        degrees = side * rng.uniform(75, 100)
    else:
        degrees = side * rng.uniform(140, 180)
    return float(np.deg2rad(degrees))


def sample_figures(rng: np.random.Generator, count: int, yaw: float) -> tuple[np.ndarray, np.ndarray]:
    """Random postures, all seen from one view.

    Returns: joints (count, JOINTS, 3) in body heights about the pelvis, and head yaw (count,) in radians.
    """

    def degrees(low: float, high: float) -> np.ndarray:
        return np.deg2rad(rng.uniform(low, high, count))

    joints = np.zeros((count, JOINTS, 3))
    roll, pitch = degrees(-24, 24), degrees(-4, 20)
    up = _direction(np.sin(roll), -np.cos(roll) * np.cos(pitch), np.sin(pitch))
    across = _direction(np.cos(roll), np.sin(roll), np.zeros(count))
    joints[:, NECK] = TORSO * up
    head_roll = roll * 0.6 + degrees(-10, 10)
    skull = _direction(np.sin(head_roll), -np.cos(head_roll), 0.6 * np.sin(pitch) + 0.1)
    joints[:, HEAD] = joints[:, NECK] + NECK_TO_HEAD * skull

    crouch = np.where(rng.random(count) < 0.3, rng.random(count), 0.0)
    for side, shoulder, hip in ((-1, R_SHOULDER, R_HIP), (1, L_SHOULDER, L_HIP)):
        # Arms: relaxed two times in three, anything else otherwise.
        relaxed = rng.random(count) < 0.67
        abduction = np.where(relaxed, degrees(6, 25), degrees(15, 150))
        flexion = np.where(relaxed, degrees(-25, 25), degrees(-20, 70))
        elbow = np.where(relaxed, degrees(5, 40), degrees(15, 135))
        inward = degrees(-10, 100)
        arm = _direction(
            side * np.sin(abduction) * np.cos(flexion), np.cos(abduction) * np.cos(flexion), np.sin(flexion)
        )
        forearm = _bend(arm, _direction(-side * np.sin(inward), np.zeros(count), np.cos(inward)), elbow)
        joints[:, shoulder] = joints[:, NECK] - 0.026 * up + side * SHOULDER_HALF * across
        joints[:, shoulder + 1] = joints[:, shoulder] + UPPER_ARM * arm
        joints[:, shoulder + 2] = joints[:, shoulder + 1] + FOREARM * forearm
        joints[:, R_HAND if side < 0 else L_HAND] = joints[:, shoulder + 2] + HAND * forearm

        spread = degrees(1, 16) + 0.2 * crouch
        flexion = degrees(-18, 30) + crouch * degrees(25, 65)
        knee = np.maximum(degrees(0, 25), flexion * 0.8) + crouch * degrees(20, 60)
        thigh = _direction(side * np.sin(spread), np.cos(spread) * np.cos(flexion), np.sin(flexion))
        shin = _bend(thigh, np.array([0.0, 0.0, -1.0]), knee)
        joints[:, hip, 0] = side * HIP_HALF
        joints[:, hip + 1] = joints[:, hip] + THIGH * thigh
        joints[:, hip + 2] = joints[:, hip + 1] + SHIN * shin
        joints[:, R_TOE if side < 0 else L_TOE] = joints[:, hip + 2] + FOOT * _direction(
            np.full(count, 0.35 * side), np.full(count, 0.45), np.ones(count)
        )

    joints = _turn(joints, np.full(count, yaw))
    head_yaw = yaw + degrees(-18, 18)
    face = np.zeros((count, 5, 3))
    for row, (azimuth, height, radius) in enumerate(
        ((0, 0.02, 1.05), (-27, -0.008, 0.9), (27, -0.008, 0.9), (-90, 0.005, 0.92), (90, 0.005, 0.92))
    ):
        angle = np.deg2rad(azimuth)
        face[:, row] = HEAD_HALF_WIDTH * radius * np.array([np.sin(angle), 0, np.cos(angle)])
        face[:, row, 1] = height
    face = _turn(face, head_yaw)
    across, down = np.cos(head_roll)[:, None], np.sin(head_roll)[:, None]
    x, y = face[..., 0] * across - face[..., 1] * down, face[..., 0] * down + face[..., 1] * across
    face[..., 0], face[..., 1] = x, y
    joints[:, FACE] = joints[:, HEAD, None] + face
    return joints, head_yaw


def place(
    joints: np.ndarray, zoom: float, centre: np.ndarray, aspect: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put figures into a frame: centred, or, where taller than the frame, the head just below its top edge.

    Args:
        joints: (n, JOINTS, 3), in body heights.
        zoom: body height of a figure that stands straight, in frame heights.
        centre: (2,), x and y offset of the figures' centres from the frame's, in frame heights.
        aspect: frame width over height.

    Returns: joints (n, JOINTS, 3) in frame heights as in ``Pose``; scale (n,); how much wider than the frame
        each is (n,), in frame heights.
    """
    low = (joints - REACH[:, None]).min(axis=1)[:, :2]
    high = (joints + REACH[:, None]).max(axis=1)[:, :2]
    # The camera comes a little closer to who crouches, and steps back from who stretches.
    scale = zoom * np.clip(0.95 / (high - low)[:, 1], 0.88, 1.14)
    extent = (high - low) * scale[:, None]
    offset = centre - scale[:, None] * (low + high) / 2
    offset[:, 1] += np.maximum(0.5, 0.02 + extent[:, 1] / 2)
    placed = joints * scale[:, None, None]
    placed[:, :, :2] += offset[:, None]
    return placed, scale, np.maximum(0, extent[:, 0] - aspect)


def _direction(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    vector = np.stack(np.broadcast_arrays(x, y, z), axis=-1)
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _bend(bone: np.ndarray, towards: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Turn unit vectors by an angle, in the plane that they span with another vector."""
    normal = towards - (bone * towards).sum(axis=-1, keepdims=True) * bone
    normal = normal / (np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-6)
    return np.cos(angle)[:, None] * bone + np.sin(angle)[:, None] * normal


def _turn(points: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Turn (n, m, 3) points about the vertical axis."""
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([x * cos + z * sin, y, z * cos - x * sin], axis=-1)
