"""Pictures to look at: skeletons, flow as colours, and panels with titles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from posewarp.runtime.errors import ContractError
from posewarp.runtime.image import check_image
from posewarp.runtime.keypoints import LIMBS, as_keypoints, is_missing

# OpenPose's: limb i of LIMBS and keypoint i have colour i.
COLORS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
    (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255),
    (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
_FINE_PIXELS = 16_000_000  # what a supersampled overlay may have: 64 MiB of RGBA


def draw_skeleton(image: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Draw a skeleton on a picture, in OpenPose's colours, with smooth edges.

    Args:
        image: uint8 (H, W, 3), left as it is; zeros for a skeleton alone.
        keypoints: (18, 2), (x, y) in pixels; missing ones and their limbs are left out.

    Returns: uint8 (H, W, 3).
    Raises: ContractError if an argument has another shape or type.
    """
    check_image(image)
    points = as_keypoints(keypoints)
    height, width = image.shape[:2]
    factor = int(np.clip((_FINE_PIXELS / (height * width)) ** 0.5, 1, 4))
    overlay = Image.new("RGBA", (width * factor, height * factor))
    pen = ImageDraw.Draw(overlay)
    radius = max(height, width) / 100 * factor
    fine = (points + 0.5) * factor - 0.5
    present = ~is_missing(points)
    for (a, b), color in zip(LIMBS, COLORS, strict=False):  # one colour more than limbs
        if present[a] and present[b]:
            pen.line((*fine[a], *fine[b]), fill=(*color, 255), width=round(1.2 * radius))
    for (x, y), color in zip(fine[present], np.array(COLORS)[present], strict=True):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*map(int, color), 255))
    mixed = Image.alpha_composite(Image.fromarray(image).convert("RGBA"), overlay.reduce(factor))
    return np.array(mixed.convert("RGB"))


def flow_to_colors(flow: np.ndarray, scale_px: float | None = None) -> np.ndarray:
    """Flow as colours: hue is the direction, saturation the length; white does not move.

    Red points right, and the hues go on clockwise: yellow-green down, cyan left, violet up.

    Args:
        flow: (2, h, w), (x, y) in pixels.
        scale_px: length that gets the full colour; by default the longest.

    Returns: uint8 (h, w, 3), RGB.
    Raises: ContractError if the shape differs or a value is not finite.
    """
    if flow.ndim != 3 or flow.shape[0] != 2 or not np.isfinite(flow).all():
        raise ContractError(
            f"flow is {flow.dtype} {flow.shape}, expected finite numbers (2, h, w)", got=flow.shape
        )
    x, y = flow.astype(np.float64)
    length = np.hypot(x, y)
    saturation = (length / (scale_px or length.max() or 1)).clip(0, 1)[..., None]
    hue = (np.arctan2(y, x) / np.pi * 3 % 6)[..., None]  # 0 to 6: red, yellow, green, cyan, blue, magenta
    pure = np.concatenate((abs(hue - 3) - 1, 2 - abs(hue - 2), 2 - abs(hue - 4)), axis=-1).clip(0, 1)
    return (255 * (1 - saturation * (1 - pure))).round().astype(np.uint8)


def panel(titled: Sequence[tuple[str, np.ndarray]], height: int = 256) -> np.ndarray:
    """Pictures side by side with a title over each, on white.

    Args:
        titled: (title, uint8 (h, w, 3)) each; scaled to one height, the tallest one's.
        height: at least this, in pixels.

    Returns: uint8 (H, W, 3).
    Raises: ContractError if there is none, or one is no picture.
    """
    if not titled:
        raise ContractError("a panel of no pictures")
    for _, image in titled:
        check_image(image)
    height = max(height, *(image.shape[0] for _, image in titled))
    margin, font = height // 32, ImageFont.load_default(height / 18)
    head = 2 * margin + round(font.getbbox("Ag")[3])
    columns = []
    for title, image in titled:
        picture = Image.fromarray(image)
        picture = picture.resize(
            (max(round(picture.width * height / picture.height), 1), height), Image.Resampling.BICUBIC
        )
        width = max(picture.width, round(font.getlength(title)))
        column = Image.new("RGB", (width + margin, height + head + margin), "white")
        column.paste(picture, ((width - picture.width) // 2 + margin // 2, head))
        ImageDraw.Draw(column).text((column.width / 2, margin), title, "black", font, anchor="ma")
        columns.append(np.asarray(column))
    return np.concatenate(columns, axis=1)
