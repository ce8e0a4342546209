"""Draw a person: every body part is a textured, tapered cylinder, placed by one affine map and painted far to near."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from posewarp.models.data import body
from posewarp.models.data.garments import TEXELS, TORSO_AROUND, Appearance, Background, solid

# What a pixel shows, in the label map. A keypoint of a limb is seen where its own limb (or a skirt) is on top.
R_ARM, L_ARM, R_LEG, L_LEG, TRUNK, HEAD = 1, 2, 3, 4, 5, 6
CLOTHED = 8  # added to the label of garment pixels

SHADE_LIGHT = 0.25  # of the half width, to the left
CAP = np.linspace(0, 1, 7)
KEYPOINT_LABELS = {
    body.R_ELBOW: R_ARM, body.R_WRIST: R_ARM, body.L_ELBOW: L_ARM, body.L_WRIST: L_ARM,
    body.R_KNEE: R_LEG, body.R_ANKLE: R_LEG, body.L_KNEE: L_LEG, body.L_ANKLE: L_LEG,
}  # fmt: skip
# A keypoint of trunk or head is hidden when it lies this far behind the part's axis, in body heights.
HIDDEN_BEHIND = {
    body.R_SHOULDER: 0.09, body.L_SHOULDER: 0.09, body.R_HIP: 0.056, body.L_HIP: 0.056,
    body.R_EAR: 0.022, body.L_EAR: 0.022, body.R_EYE: -0.004, body.L_EYE: -0.004, body.NOSE: 0.0,
}  # fmt: skip


def render(
    appearance: Appearance, pose: body.Pose, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw one person in one pose.

    Args:
        appearance: who, and before what.
        pose: the figure, placed in the frame.
        height, width: of the frame, in pixels.

    Returns: image uint8 (height, width, 3), RGB; keypoints float32 (18, 2), (x, y) in pixels, pixel centres at
        integers, (-1, -1) where hidden or outside the frame; garment mask and person mask, bool (height, width).
    """
    painter = _Painter(_draw_background(appearance.background, height, width))
    parts = _Parts(painter, appearance, pose)
    for draw in parts.far_to_near():
        draw()
    keypoints = _visible_keypoints(pose, parts.joints[:, :2], painter.labels)
    return painter.image, keypoints, painter.labels >= CLOTHED, painter.labels > 0


class _Painter:
    """A picture and, for each of its pixels, the label of what it shows (0 for the background)."""

    def __init__(self, image: np.ndarray):
        self.image = image
        self.labels = np.zeros(image.shape[:2], dtype=np.uint8)

    def paint(self, outline: np.ndarray, sprite: np.ndarray, to_sprite: np.ndarray, label: int) -> None:
        """Fill an outline (n, 2) in px with a sprite; ``to_sprite`` (2, 3) maps pixels to its columns and rows."""
        height, width = self.labels.shape
        points = np.round(outline * 16).astype(np.int32)  # 4 fractional bits
        (left, top), (right, bottom) = (points.min(axis=0) >> 4).tolist(), (points.max(axis=0) >> 4).tolist()
        left, top, right, bottom = (
            max(left - 1, 0),
            max(top - 1, 0),
            min(right + 3, width),
            min(bottom + 3, height),
        )
        if right <= left or bottom <= top:
            return
        cover = np.zeros((bottom - top, right - left), dtype=np.uint8)
        cv2.fillPoly(cover, [points], 255, cv2.LINE_AA, 4, (-16 * left, -16 * top))
        matrix = to_sprite.copy()
        matrix[:, 2] += to_sprite[:, :2] @ (left, top)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        colour = cv2.warpAffine(
            sprite, matrix, (right - left, bottom - top), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        window = np.s_[top:bottom, left:right]
        weight = cover.astype(np.uint16)[..., None]
        weight += weight >> 7  # 0..256
        mixed = colour * weight
        mixed += self.image[window] * (256 - weight)
        mixed >>= 8
        self.image[window] = mixed
        self.labels[window][cover >= 128] = label


class _Parts:
    """The parts of one person in one pose, in pixels."""

    def __init__(self, painter: _Painter, appearance: Appearance, pose: body.Pose):
        height, width = painter.labels.shape
        self.painter, self.look, self.pose = painter, appearance, pose
        self.joints = pose.joints * height + ((width - 1) / 2, 0, 0)
        self.unit = pose.scale * height  # px in a body height
        self.skin = solid(appearance.skin)

    def far_to_near(self) -> list:
        """The drawing steps, sorted by depth."""
        z = self.joints[:, 2] / self.unit
        facing = np.cos(self.pose.yaw)
        steps = [
            (0.0, self._torso),
            (0.001 + 0.05 * max(0.0, -np.cos(self.pose.head_yaw)), self._head),
            (-0.002 if facing > -0.2 else 0.002, self._neck),
        ]
        if self.look.long_hair:
            steps.append((-0.09 * np.cos(self.pose.head_yaw), self._hair))
        if self.look.style != "trousers":
            steps.append((-0.0005, self._skirt))
        for label, shoulder, hand in (
            (R_ARM, body.R_SHOULDER, body.R_HAND),
            (L_ARM, body.L_SHOULDER, body.L_HAND),
        ):
            # An arm that hangs beside the body is drawn over it; it must be well behind to vanish.
            depth = (z[shoulder] + 2 * z[shoulder + 1] + z[shoulder + 2]) / 4
            forward = (z[shoulder + 1] + z[shoulder + 2]) / 2 + 0.02
            steps.append(
                (
                    0.06 + forward if forward > 0 else depth - 0.01,
                    lambda a=(label, shoulder, hand): self._arm(*a),
                )
            )
        for label, hip, toe in ((R_LEG, body.R_HIP, body.R_TOE), (L_LEG, body.L_HIP, body.L_TOE)):
            depth = (z[hip] + z[hip + 1] + z[hip + 2]) / 3
            depth = min(depth, 0.3) * 0.01 - 0.01
            steps.append((depth, lambda a=(label, hip, toe): self._leg(*a)))
        return [draw for _, draw in sorted(steps, key=lambda step: step[0])]

    def _limb(self, first, last, radii, texture, label, *, rows=(0, 4), flat=False, turn=0.0) -> None:
        """A tapered cylinder between two points (px), radii in body heights.

        Its rounded ends show the texture's rows before and after ``rows``; ``turn`` (radians) turns it about its axis.
        """
        r0, r1 = radii[0] * self.look.girth * self.unit, radii[1] * self.look.girth * self.unit
        bone = last[:2] - first[:2]
        length = math.hypot(bone[0], bone[1])
        along = bone / max(length, 1e-6)
        sprite = _front(texture[rows[0] : rows[1]], max(radii) * self.look.girth, self.pose.yaw + turn)
        outline = _capsule(first[:2], along, length, r0, r1, flat)
        # The first end's cap belongs to the texture too.
        whole = max(length, r0) + (r0 if not flat else 0.5 * r0)
        to_sprite = _part_map(first[:2] - r0 * along, along, whole, max(r0, r1), sprite.shape)
        self.painter.paint(outline, sprite, to_sprite, label)

    def _arm(self, label: int, shoulder: int, hand: int) -> None:
        upper, elbow, wrist, tip = (self.joints[i] for i in (shoulder, shoulder + 1, shoulder + 2, hand))
        top, sleeve = self.look.top.texture, self.look.sleeve
        cloth = label + CLOTHED
        self._limb(wrist, tip, (0.026, 0.024), self.skin, label)
        if sleeve == 1:
            self._limb(upper, elbow, (0.046, 0.037), top, cloth, rows=(0, 52), turn=np.pi)
            self._limb(elbow, wrist, (0.037, 0.031), top, cloth, rows=(40, 90), turn=np.pi)
            return
        self._limb(elbow, wrist, (0.033, 0.025), self.skin, label)
        self._limb(upper, elbow, (0.04, 0.033), self.skin, label)
        if sleeve:
            end = upper + 2 * sleeve * (elbow - upper)
            self._limb(upper, end, (0.047, 0.047), top, cloth, rows=(0, 38), flat=True, turn=np.pi)

    def _leg(self, label: int, hip: int, toe: int) -> None:
        upper, knee, ankle, tip = (self.joints[i] for i in (hip, hip + 1, hip + 2, toe))
        texture, cloth = self.look.bottom.texture, label + CLOTHED
        self._limb(ankle, tip, (0.032, 0.028), solid(self.look.shoes), label)
        if self.look.style == "trousers" and self.look.leg == 1:
            self._limb(knee, ankle, (0.051, 0.038), texture, cloth, rows=(54, 122))
            self._limb(upper, knee, (0.07, 0.052), texture, cloth, rows=(0, 76))
            return
        self._limb(knee, ankle, (0.045, 0.03), self.skin, label)
        self._limb(upper, knee, (0.065, 0.046), self.skin, label)
        if self.look.style == "trousers":
            self._limb(
                upper, upper + 0.8 * (knee - upper), (0.072, 0.068), texture, cloth, rows=(0, 64), flat=True
            )

    def _half_width(self, across: float, deep: float) -> float:
        """Of an elliptic cross section (half axes in body heights) as seen, in px."""
        yaw = self.pose.yaw
        return float(np.hypot(across * np.cos(yaw), deep * np.sin(yaw))) * self.look.girth * self.unit

    def _torso(self) -> None:
        neck = self.joints[body.NECK, :2]
        hips = self.joints[body.PELVIS, :2]
        bone = hips - neck
        length = float(np.hypot(*bone))
        along = bone / length
        normal = np.array([along[1], -along[0]])
        profile = (
            (-0.04, 0.045, 0.05), (0.02, 0.105, 0.06), (0.08, 0.13, 0.075), (0.25, 0.122, 0.092), (0.45, 0.108, 0.09),
            (0.68, 0.098, 0.082), (0.9, 0.11, 0.092), (1.06, 0.118, 0.096),
        )  # fmt: skip
        levels = [(t * length, self._half_width(a, b)) for t, a, b in profile]
        look = self.look
        if look.style == "trousers":
            seat = [
                (0.86 * length, levels[-2][1]),
                (1.0 * length, levels[-1][1]),
                (1.2 * length, 0.75 * levels[-1][1]),
            ]
            self._band(neck, along, normal, seat, look.bottom.texture, 0.8, length)
        self._band(neck, along, normal, levels, look.top.texture, 0.0, length)

    def _band(self, origin, along, normal, levels, texture, skip, length) -> None:
        """A stretch of the trunk, from (distance along the axis, half width) pairs in px."""
        right = [origin + t * along + w * normal for t, w in levels]
        left = [origin + t * along - w * normal for t, w in reversed(levels)]
        half = max(w for _, w in levels)
        sprite = _front(texture, TORSO_AROUND / (2 * np.pi * TEXELS), self.pose.yaw)
        rows = body.TORSO * TEXELS
        start = origin + skip * length * along
        to_sprite = _part_map(start, along, length * sprite.shape[0] / rows, half, sprite.shape)
        self.painter.paint(np.array(right + left), sprite, to_sprite, TRUNK + CLOTHED)

    def _skirt(self) -> None:
        look, joints = self.look, self.joints[:, :2]
        neck, hips = joints[body.NECK], joints[body.PELVIS]
        waist = hips + 0.22 * (neck - hips)
        reach = min(1.0, look.leg / 0.5)
        legs = [joints[h] + reach * (joints[h + 1] - joints[h]) for h in (body.R_HIP, body.L_HIP)]
        if look.leg > 0.5:
            beyond = (look.leg - 0.5) / 0.5
            legs = [
                p + beyond * (joints[h + 2] - joints[h + 1])
                for p, h in zip(legs, (body.R_HIP, body.L_HIP), strict=True)
            ]
        if legs[0][0] > legs[1][0]:
            legs.reverse()
        flare = np.array([0.085 * look.girth * self.unit, 0.0])
        hem = [legs[0] - flare, legs[1] + flare]
        middle = (hem[0] + hem[1]) / 2
        bone = middle - waist
        length = float(np.hypot(*bone))
        along = bone / max(length, 1e-6)
        normal = np.array([along[1], -along[0]])
        top, hip = self._half_width(0.1, 0.084), self._half_width(0.12, 0.1)
        outline = np.array(
            [
                waist + top * normal,
                hips + hip * normal,
                hem[1],
                hem[0],
                hips - hip * normal,
                waist - top * normal,
            ]
        )
        texture = look.top.texture if look.style == "dress" else look.bottom.texture
        sprite = _front(texture[-84:], TORSO_AROUND / (2 * np.pi * TEXELS), self.pose.yaw)
        half = float(np.abs((outline - waist) @ normal).max())
        nominal = (0.22 * body.TORSO + body.THIGH * 2 * look.leg) * TEXELS
        to_sprite = _part_map(waist, along, length * sprite.shape[0] / nominal, half, sprite.shape)
        self.painter.paint(outline, sprite, to_sprite, TRUNK + CLOTHED)

    def _neck(self) -> None:
        neck, head = self.joints[body.NECK], self.joints[body.HEAD]
        self._limb(neck + 0.15 * (neck - head), head, (0.036, 0.034), self.skin, TRUNK)

    def _skull(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre, and the axis down the head."""
        head, neck = self.joints[body.HEAD, :2], self.joints[body.NECK, :2]
        down = neck - head
        return head, down / max(float(np.hypot(*down)), 1e-6)

    def _head(self) -> None:
        centre, down = self._skull()
        side = np.array([down[1], -down[0]])
        wide, tall = body.HEAD_HALF_WIDTH * self.unit, body.HEAD_HALF_HEIGHT * self.unit
        # Deeper than wide, as skulls are.
        wide *= float(np.hypot(np.cos(self.pose.head_yaw), 1.15 * np.sin(self.pose.head_yaw)))
        angle = np.linspace(0, 2 * np.pi, 25)[:-1, None]
        outline = centre + wide * np.cos(angle) * side + tall * np.sin(angle) * down
        texture = self.look.head
        turn = np.sin(self.pose.head_yaw)
        if abs(turn) > 0.5 and np.cos(self.pose.head_yaw) > -0.4:
            tip = centre + np.sign(turn) * 1.16 * wide * side + 0.22 * tall * down
            bridge, lip = centre + np.sign(turn) * 0.9 * wide * side, tip - np.sign(turn) * 0.2 * wide * side
            nose = np.array([tip, bridge - 0.05 * tall * down, centre, lip + 0.2 * tall * down])
            self.painter.paint(nose, self.skin, np.zeros((2, 3)), HEAD)
        sprite = _front(texture, texture.shape[1] / (2 * np.pi * TEXELS), self.pose.head_yaw)
        to_sprite = _part_map(centre - tall * down, down, 2 * tall, wide, sprite.shape)
        self.painter.paint(outline, sprite, to_sprite, HEAD)

    def _hair(self) -> None:
        centre, down = self._skull()
        back = -np.sin(self.pose.head_yaw) * 0.35 * body.HEAD_HALF_WIDTH * self.unit
        first = centre + (back, 0)
        last = first + down * 0.15 * self.unit
        self._limb(
            first, last, (0.068 / self.look.girth, 0.06 / self.look.girth), solid(self.look.hair), HEAD
        )


def _front(texture: np.ndarray, radius: float, yaw: float) -> np.ndarray:
    """The half of a wrapped texture that faces the viewer, shaded towards its sides.

    A texel at angle a from the front of the part is seen at a + yaw from the line of sight, at the sine of that
    from the axis.

    Args:
        texture: (length, around, 3), uint8.
        radius: of the part, in body heights.
        yaw: of the part, in radians.
    """
    columns = max(3, round(2 * radius * TEXELS))
    angle, light = _cylinder(columns)
    around = texture.shape[1]
    girth = min(around, 2 * np.pi * radius * TEXELS)
    turn = (angle - yaw / (2 * np.pi)) % 1.0 - 0.5
    index = np.rint(turn * girth).astype(int) + around // 2
    return ((texture.take(index, axis=1, mode="wrap") * light) >> 8).astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _cylinder(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each column across a cylinder: its angle from the line of sight, in turns plus a half, and its light
    (columns, 1) of 256."""
    position = (np.arange(columns) + 0.5) * (2 / columns) - 1
    light = np.minimum(1.04 - 0.34 * np.square(position + SHADE_LIGHT), 1.0)
    return np.arcsin(position) / (2 * np.pi) + 0.5, np.rint(256 * light).astype(np.uint16)[:, None]


def _capsule(first, along, length, r0, r1, flat) -> np.ndarray:
    """Outline (n, 2) of two discs and what lies between them; ``flat`` cuts the second end straight."""
    heading = math.atan2(along[1], along[0])
    tangent = math.acos(min(1.0, max(-1.0, (r0 - r1) / max(length, 1e-6))))
    start = heading + tangent + CAP * (2 * np.pi - 2 * tangent)
    end = heading - tangent + (CAP[[0, -1]] if flat else CAP) * 2 * tangent
    angles = np.concatenate([start, end])
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    outline[: len(CAP)] *= r0
    outline[len(CAP) :] *= r1
    outline[len(CAP) :] += length * along
    return outline + first


def _part_map(origin, along, length, half_width, shape) -> np.ndarray:
    """Affine map (2, 3) from pixels to sprite columns and rows: the axis runs down the sprite's middle."""
    (x, y), (cos, sin) = origin.tolist(), along.tolist()
    across, down = shape[1] / 2 / half_width, shape[0] / length
    return np.array(
        [
            [across * sin, -across * cos, shape[1] / 2 - 0.5 - across * (sin * x - cos * y)],
            [down * cos, down * sin, -0.5 - down * (cos * x + sin * y)],
        ]
    )


def _visible_keypoints(pose: body.Pose, positions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    height, width = labels.shape
    keypoints = positions[: body.KEYPOINTS].astype(np.float32)
    column, row = np.rint(keypoints[:, 0]).astype(int), np.rint(keypoints[:, 1]).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    inside &= (keypoints >= 0).all(axis=1) & (keypoints[:, 0] < width) & (keypoints[:, 1] < height)
    for index in range(body.KEYPOINTS):
        if not inside[index]:
            continue
        seen = labels[row[index], column[index]]
        if index in KEYPOINT_LABELS:
            hidden = seen % CLOTHED not in (KEYPOINT_LABELS[index], TRUNK)
            hidden |= seen % CLOTHED == TRUNK and index in (
                body.R_ELBOW,
                body.R_WRIST,
                body.L_ELBOW,
                body.L_WRIST,
            )
        else:
            axis = body.HEAD if index in (body.NOSE, *range(body.R_EYE, body.KEYPOINTS)) else body.PELVIS
            behind = (pose.joints[axis, 2] - pose.joints[index, 2]) / pose.scale
            hidden = seen == 0 or behind > HIDDEN_BEHIND.get(index, np.inf)
        inside[index] = not hidden
    keypoints[~inside] = -1
    return keypoints


def _draw_background(background: Background, height: int, width: int) -> np.ndarray:
    size = (width, height)
    image = cv2.resize(background.wall, size, interpolation=cv2.INTER_LINEAR)
    horizon = int(background.horizon * height)
    image[horizon:] = cv2.resize(background.floor, (width, height - horizon), interpolation=cv2.INTER_LINEAR)
    image += cv2.resize(background.noise, size, interpolation=cv2.INTER_CUBIC)[..., None]
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    for kind, x, y, extent, colour in background.shapes:
        centre = (int(width / 2 + x * height), int(y * height))
        radius = int(extent * height / 2)
        if kind == 0:
            cv2.circle(canvas, centre, radius, colour, -1, cv2.LINE_AA)
        elif kind == 1:
            far = (centre[0] + radius, centre[1] + 2 * radius)
            cv2.rectangle(canvas, (centre[0] - radius, centre[1] - 2 * radius), far, colour, -1)
        else:
            corners = np.array([[0, -radius], [radius, radius], [-radius, radius]]) + centre
            cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    return canvas
