"""Fitting a picture of any size to a network's size, with its keypoints, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from posewarp.runtime.errors import ContractError
from posewarp.runtime.image import check_image
from posewarp.runtime.keypoints import MISSING, is_missing, scale_keypoints


@dataclass(frozen=True)
class Fit:
    """An invertible transform: scaled with its aspect kept, then padded on both sides. ``to_size`` makes one.

    Convention: pixel centres at integers, so a pixel covers x - 0.5 to x + 0.5, and scaling by s maps x to
    (x + 0.5) s - 0.5: a keypoint stays on the feature it marks. Scaling is Pillow's bicubic filter, which
    averages when it shrinks (antialias); a picture that has the size already is passed through bit by bit.

    Attributes:
        source_height, source_width: of the picture, in pixels.
        height, width: of the network, in pixels.
        scaled_height, scaled_width: of the picture inside the network's frame, in pixels.
        top, left: of the padding, in pixels.
        fill: colour of the padding, RGB.
    """

    source_height: int
    source_width: int
    height: int
    width: int
    scaled_height: int
    scaled_width: int
    top: int
    left: int
    fill: tuple[int, int, int]

    @classmethod
    def to_size(
        cls,
        source_height: int,
        source_width: int,
        height: int,
        width: int,
        fill: tuple[int, int, int] = (255, 255, 255),
    ) -> Fit:
        """The largest that fits, in the middle, on white as in the data sets.

        Raises: ContractError if a size is not positive.
        """
        if min(source_height, source_width, height, width) < 1:
            raise ContractError(
                f"cannot fit {source_height} x {source_width} to {height} x {width}: sizes must be at least 1"
            )
        scale = min(height / source_height, width / source_width)
        scaled_height = min(max(round(source_height * scale), 1), height)
        scaled_width = min(max(round(source_width * scale), 1), width)
        top, left = (height - scaled_height) // 2, (width - scaled_width) // 2
        return cls(source_height, source_width, height, width, scaled_height, scaled_width, top, left, fill)

    def image(self, image: np.ndarray) -> np.ndarray:
        """uint8 (source_height, source_width, 3) to uint8 (height, width, 3).

        Raises: ContractError if the picture has another size.
        """
        _check_size(image, self.source_height, self.source_width)
        framed = np.empty((self.height, self.width, 3), np.uint8)
        framed[:] = self.fill
        framed[self._inside] = _resize(image, self.scaled_height, self.scaled_width)
        return framed

    def inverse_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 (height, width, 3) to uint8 (source_height, source_width, 3), without the padding.

        Raises: ContractError if the picture has another size.
        """
        _check_size(image, self.height, self.width)
        return _resize(image[self._inside], self.source_height, self.source_width)

    def keypoints(self, keypoints: np.ndarray) -> np.ndarray:
        """(..., 2) in pixels of the source to float32 (..., 2) in the network's; missing stay missing.

        What lies in the first pixel stays in the frame, as ``scale_keypoints`` says.
        """
        points = np.asarray(keypoints, np.float64)
        return _keep_missing(points, scale_keypoints(points, self._scale, (self.left, self.top)))

    def inverse_keypoints(self, keypoints: np.ndarray) -> np.ndarray:
        """(..., 2) in pixels of the network to float32 (..., 2) in the source's; missing stay missing."""
        points = np.asarray(keypoints, np.float64)
        return _keep_missing(points, (points - (self.left, self.top) + 0.5) / self._scale - 0.5)

    @property
    def _scale(self) -> tuple[float, float]:
        # Along x and y; they differ a little, since the scaled size is rounded to whole pixels.
        return self.scaled_width / self.source_width, self.scaled_height / self.source_height

    @property
    def _inside(self) -> tuple[slice, slice]:
        return (
            slice(self.top, self.top + self.scaled_height),
            slice(self.left, self.left + self.scaled_width),
        )


def _check_size(image: np.ndarray, height: int, width: int) -> None:
    check_image(image)
    if image.shape[:2] != (height, width):
        raise ContractError(
            f"the picture has height {image.shape[0]} and width {image.shape[1]}, "
            f"expected {height} and {width}",
            got=image.shape[:2],
            expected=(height, width),
        )


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    # To its own size, Pillow copies.
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _keep_missing(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.where(is_missing(before)[..., None], MISSING, after).astype(np.float32)
