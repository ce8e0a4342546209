"""Draw a person: each part is a textured, tapered cylinder, placed by one affine map, painted far to near."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from posewarp.models.data import body
from posewarp.models.data.appearance import Appearance
from posewarp.models.data.background import draw_background
from posewarp.models.data.garments import TEXELS, TORSO_AROUND, solid
from posewarp.models.data.painter import Painter, axis, capsule, front, sprite_map

# What a pixel shows, in the label map; CLOTHED is added to the label of garment pixels.
R_ARM, L_ARM, R_LEG, L_LEG, TRUNK, SKIRT, HEAD = 1, 2, 3, 4, 5, 6, 7
CLOTHED = 8
# The parts that a keypoint is seen on: its own, or what clothes or covers it without hiding where it is.
SEEN_ON = {
    **dict.fromkeys(body.FACE, (HEAD,)), body.NECK: (TRUNK, HEAD),
    body.R_SHOULDER: (R_ARM, TRUNK, HEAD), body.R_ELBOW: (R_ARM,), body.R_WRIST: (R_ARM,),
    body.L_SHOULDER: (L_ARM, TRUNK, HEAD), body.L_ELBOW: (L_ARM,), body.L_WRIST: (L_ARM,),
    body.R_HIP: (R_LEG, TRUNK, SKIRT), body.R_KNEE: (R_LEG, SKIRT), body.R_ANKLE: (R_LEG, SKIRT),
    body.L_HIP: (L_LEG, TRUNK, SKIRT), body.L_KNEE: (L_LEG, SKIRT), body.L_ANKLE: (L_LEG, SKIRT),
}  # fmt: skip
# A joint of trunk or head is hidden where it lies further than this behind the part's axis, in body heights.
HIDDEN_BEHIND = {
    body.NOSE: 0.0, body.R_EYE: -0.004, body.L_EYE: -0.004, body.R_EAR: 0.022, body.L_EAR: 0.022,
    body.R_SHOULDER: 0.088, body.L_SHOULDER: 0.088, body.R_HIP: 0.056, body.L_HIP: 0.056,
}  # fmt: skip

TORSO_RADIUS = TORSO_AROUND / (2 * np.pi * TEXELS)  # of the garment textures, in body heights
# Cross sections of the trunk: distance below the neck in torso lengths, half width and depth in body heights.
SHIRT = (
    (-0.04, 0.045, 0.05), (0.02, 0.105, 0.06), (0.08, 0.13, 0.075), (0.25, 0.122, 0.092),
    (0.45, 0.108, 0.09), (0.68, 0.098, 0.082), (0.9, 0.11, 0.092), (1.06, 0.118, 0.096),
)  # fmt: skip
SEAT = ((0.86, 0.11, 0.092), (1.0, 0.118, 0.096), (1.2, 0.088, 0.072))
WAIST = 0.78  # where a skirt begins, in torso lengths below the neck


def render(
    appearance: Appearance, pose: body.Pose, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw one person in one pose.

    Args:
        appearance: who, and before what.
        pose: the figure, placed in the frame.
        height, width: of the frame, in pixels.

    Returns: image uint8 (height, width, 3), RGB; keypoints float32 (18, 2), (x, y) in pixels, pixel centres
        at integers, (-1, -1) where hidden or outside the frame; garment mask and person mask, bool
        (height, width).
    """
    image, keypoints, labels = render_labels(appearance, pose, height, width)
    return image, keypoints, labels >= CLOTHED, labels > 0


def render_labels(
    appearance: Appearance, pose: body.Pose, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``render``, with what each pixel shows: uint8 (height, width), 0 for the background, ``R_ARM`` to ``HEAD``,
    and ``CLOTHED`` more where a garment covers it."""
    painter = Painter(draw_background(appearance.background, height, width))
    figure = _Figure(painter, appearance, pose)
    for draw in figure.far_to_near():
        draw()
    return painter.image, _seen_keypoints(pose, figure.joints, painter.labels), painter.labels


class _Figure:
    """One person in one pose, in pixels; each method paints a part."""

    def __init__(self, painter: Painter, look: Appearance, pose: body.Pose):
        height, width = painter.labels.shape
        self.painter, self.look, self.pose = painter, look, pose
        self.joints = pose.joints * height + ((width - 1) / 2, 0, 0)
        self.unit = pose.scale * height  # px in a body height
        self.girth = look.girth * self.unit  # the same, for widths
        self.skin = solid(look.skin)

    def far_to_near(self) -> list[Callable[[], None]]:
        """The parts' painting functions, by depth (in body heights, the trunk at 0)."""
        z = self.joints[:, 2] / self.unit
        from_behind = -np.cos(self.pose.head_yaw)
        parts = [
            (0.0, self._torso),
            (0.001 + 0.05 * max(0.0, from_behind), self._head),
            (-0.002 if np.cos(self.pose.yaw) > -0.2 else 0.002, self._neck),
        ]
        if self.look.long_hair:
            parts.append((0.09 * from_behind, self._hair))
        if self.look.style != "trousers":
            parts.append((-0.0005, self._skirt))
        for label, shoulder, hand in (
            (R_ARM, body.R_SHOULDER, body.R_HAND),
            (L_ARM, body.L_SHOULDER, body.L_HAND),
        ):
            # An arm that hangs beside the trunk is painted over it.
            depth = (z[shoulder + 1] + z[shoulder + 2]) / 2
            parts.append(
                (depth + (0.08 if depth > -0.02 else 0.0), partial(self._arm, label, shoulder, hand))
            )
        for label, hip, toe in ((R_LEG, body.R_HIP, body.R_TOE), (L_LEG, body.L_HIP, body.L_TOE)):
            # Both lie behind the hem; between the two, depth decides.
            depth = z[hip : hip + 3].mean()
            parts.append((-0.01 + 0.01 * min(depth, 0.3), partial(self._leg, label, hip, toe)))
        return [paint for _, paint in sorted(parts, key=lambda part: part[0])]

    def _limb(self, first, last, radii, texture, label, *, rows=(0, 4), flat=False, middle=None) -> None:
        """A tapered cylinder between two points (px), its radii in body heights.

        The rows of the texture reach over both of its round ends.
        """
        first = first[:2]
        r0, r1 = radii[0] * self.girth, radii[1] * self.girth
        length, along, _ = axis(first, last)
        sprite = front(texture[rows[0] : rows[1]], max(radii) * self.look.girth, self.pose.yaw, middle)
        outline = capsule(first, along, length, r0, r1, flat)
        # A limb that points at the viewer does not squeeze its texture into nothing.
        whole = r0 + max(length, r0) + (0.0 if flat else r1)
        to_sprite = sprite_map(first - r0 * along, along, whole, max(r0, r1), sprite.shape)
        self.painter.paint(outline, sprite, to_sprite, label)

    def _arm(self, label: int, shoulder: int, hand: int) -> None:
        upper, elbow, wrist, tip = (self.joints[i] for i in (shoulder, shoulder + 1, shoulder + 2, hand))
        sleeve = self.look.sleeve
        # The middle of a sleeve is the middle of the shirt's back: no logo on the arm.
        cloth = {"texture": self.look.top.texture, "label": label + CLOTHED, "middle": 0}
        self._limb(wrist, tip, (0.026, 0.024), self.skin, label)
        if sleeve == "long":
            self._limb(upper, elbow, (0.046, 0.037), rows=(0, 64), **cloth)
            self._limb(elbow, wrist, (0.037, 0.031), rows=(45, 101), **cloth)
            return
        self._limb(elbow, wrist, (0.033, 0.025), self.skin, label)
        self._limb(upper, elbow, (0.04, 0.033), self.skin, label)
        if sleeve == "short":
            self._limb(
                upper, upper + 0.64 * (elbow - upper), (0.047, 0.047), rows=(0, 39), flat=True, **cloth
            )

    def _leg(self, label: int, hip: int, toe: int) -> None:
        upper, knee, ankle, tip = (self.joints[i] for i in (hip, hip + 1, hip + 2, toe))
        cloth = {"texture": self.look.bottom.texture, "label": label + CLOTHED}
        self._limb(ankle, tip, (0.032, 0.028), solid(self.look.shoes), label)
        if self.look.style == "trousers" and self.look.leg == 1:
            self._limb(knee, ankle, (0.051, 0.038), rows=(65, 143), **cloth)
            self._limb(upper, knee, (0.07, 0.052), rows=(0, 91), **cloth)
            return
        self._limb(knee, ankle, (0.045, 0.03), self.skin, label)
        self._limb(upper, knee, (0.065, 0.046), self.skin, label)
        if self.look.style == "trousers":
            end = upper + 2 * self.look.leg * (knee - upper)
            self._limb(upper, end, (0.072, 0.068), rows=(0, 66), flat=True, **cloth)

    def _half_width(self, across: float, deep: float) -> float:
        """Of an elliptic cross section (half axes in body heights) as seen, in px."""
        return float(np.hypot(across * np.cos(self.pose.yaw), deep * np.sin(self.pose.yaw))) * self.girth

    def _torso(self) -> None:
        if self.look.style == "trousers":
            self._trunk(SEAT, self.look.bottom.texture)
        self._trunk(SHIRT, self.look.top.texture, first_row_at=0.0)

    def _trunk(self, profile, texture, first_row_at: float | None = None) -> None:
        """A stretch of the trunk; the texture's first row lies at the profile's start if not told."""
        neck = self.joints[body.NECK, :2]
        length, along, across = axis(neck, self.joints[body.PELVIS])
        half = np.array([self._half_width(wide, deep) for _, wide, deep in profile])[:, None]
        middle = neck + length * np.array([t for t, _, _ in profile])[:, None] * along
        outline = np.concatenate([middle + half * across, (middle - half * across)[::-1]])
        sprite = front(texture, TORSO_RADIUS, self.pose.yaw)
        start = neck + length * (profile[0][0] if first_row_at is None else first_row_at) * along
        whole = length * len(sprite) / (body.TORSO * TEXELS)
        to_sprite = sprite_map(start, along, whole, float(half.max()), sprite.shape)
        self.painter.paint(outline, sprite, to_sprite, TRUNK + CLOTHED)

    def _skirt(self) -> None:
        look, joints = self.look, self.joints[:, :2]
        neck, hips = joints[body.NECK], joints[body.PELVIS]
        waist = neck + WAIST * (hips - neck)
        hem = [self._along_leg(hip, look.leg) for hip in (body.R_HIP, body.L_HIP)]
        hem.sort(key=lambda point: point[0])
        flare = np.array([0.085 * self.girth, 0.0])
        hem = [hem[0] - flare, hem[1] + flare]
        length, along, across = axis(waist, (hem[0] + hem[1]) / 2)
        top, hip = self._half_width(0.1, 0.084) * across, self._half_width(0.12, 0.1) * across
        outline = np.array([waist + top, hips + hip, hem[1], hem[0], hips - hip, waist - top])
        # A dress goes on where its upper part ends.
        first_row = round(WAIST * body.TORSO * TEXELS)
        cloth = look.top if look.style == "dress" else look.bottom
        sprite = front(cloth.texture[first_row:], TORSO_RADIUS, self.pose.yaw)
        nominal = ((1 - WAIST) * body.TORSO + look.leg * (body.THIGH + body.SHIN)) * TEXELS
        half = float(np.abs((outline - waist) @ across).max())
        to_sprite = sprite_map(waist, along, length * len(sprite) / nominal, half, sprite.shape)
        self.painter.paint(outline, sprite, to_sprite, SKIRT + CLOTHED)

    def _along_leg(self, hip: int, part: float) -> np.ndarray:
        """The point of a leg's axis at a part of its length (the knee at one half)."""
        bone, t = divmod(2 * part, 1)
        first, last = self.joints[hip + int(bone), :2], self.joints[hip + int(bone) + 1, :2]
        return first + t * (last - first)

    def _neck(self) -> None:
        neck, head = self.joints[body.NECK], self.joints[body.HEAD]
        self._limb(neck + 0.15 * (neck - head), head, (0.036, 0.034), self.skin, TRUNK)

    def _head(self) -> None:
        centre, yaw = self.joints[body.HEAD, :2], self.pose.head_yaw
        _, down, across = axis(centre, self.joints[body.NECK])
        # Skulls are deeper than wide.
        wide = body.HEAD_HALF_WIDTH * self.unit * float(np.hypot(np.cos(yaw), 1.15 * np.sin(yaw)))
        tall = body.HEAD_HALF_HEIGHT * self.unit
        if abs(np.sin(yaw)) > 0.5 and np.cos(yaw) > -0.4:
            ahead = np.sign(np.sin(yaw)) * wide * across
            corners = ((0.9, -0.05), (1.16, 0.22), (0.96, 0.42), (0.0, 0.0))
            nose = np.array([centre + x * ahead + y * tall * down for x, y in corners])
            self.painter.paint(nose, self.skin, np.zeros((2, 3)), HEAD)
        angle = np.linspace(0, 2 * np.pi, 25)[:-1, None]
        outline = centre + wide * np.cos(angle) * across + tall * np.sin(angle) * down
        texture = self.look.head
        sprite = front(texture, texture.shape[1] / (2 * np.pi * TEXELS), yaw)
        to_sprite = sprite_map(centre - tall * down, down, 2 * tall, wide, sprite.shape)
        self.painter.paint(outline, sprite, to_sprite, HEAD)

    def _hair(self) -> None:
        centre = self.joints[body.HEAD, :2]
        _, down, _ = axis(centre, self.joints[body.NECK])
        behind = -0.35 * body.HEAD_HALF_WIDTH * np.sin(self.pose.head_yaw)
        first = centre + np.array([behind * self.unit, 0])
        radii = (0.07 / self.look.girth, 0.06 / self.look.girth)
        self._limb(first, first + 0.15 * self.unit * down, radii, solid(self.look.hair), HEAD)


def _seen_keypoints(pose: body.Pose, joints: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The keypoints in px, missing where out of the frame, behind another part, or on the far side."""
    height, width = labels.shape
    keypoints = np.full((body.KEYPOINTS, 2), -1, dtype=np.float32)
    for index, (x, y) in enumerate(joints[: body.KEYPOINTS, :2].tolist()):
        column, row = round(x), round(y)
        if not (x >= 0 and y >= 0 and column < width and row < height):
            continue
        part = body.HEAD if index in body.FACE else body.PELVIS
        behind = (pose.joints[part, 2] - pose.joints[index, 2]) / pose.scale
        if labels[row, column] % CLOTHED in SEEN_ON[index] and behind <= HIDDEN_BEHIND.get(index, np.inf):
            keypoints[index] = x, y
    return keypoints
