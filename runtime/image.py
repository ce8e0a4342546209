"""Pictures: from people's files to uint8 RGB and back, and from there to a network's numbers and back."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from posewarp.runtime.errors import ContractError, DataError
from posewarp.runtime.files import atomic_write

# Above today's cameras in their ordinary modes (12 to 50), and below the 89 at which Pillow itself objects.
MAX_MEGAPIXELS = 80

# 4:4:4 and high quality: what is written may be measured afterwards.
_FORMATS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
}
_OPENING = threading.Lock()  # changing the warnings filter is not thread-safe


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture as people's files are.

    It is turned upright by its EXIF orientation. Transparency is laid on white, the usual background of the
    data sets. 16 bits are scaled to 8 by their high byte, as Pillow does for 16-bit RGB. Colour profiles are
    not applied. Of several frames the first is taken.

    Args:
        path: JPEG, PNG, or whatever else Pillow reads.

    Returns: (H, W, 3), uint8, RGB.
    Raises: DataError, naming the file, if it is missing, no picture, damaged, larger than ``MAX_MEGAPIXELS``,
        or of a kind without a fixed range of values (32-bit integers, floats).
    """
    try:
        with open(path, "rb") as file:
            picture = _open(file)
            if picture.width * picture.height > MAX_MEGAPIXELS * 1_000_000:
                raise Image.DecompressionBombError
            _check_range(path, picture)
            return np.array(_to_rgb(ImageOps.exif_transpose(picture)))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise DataError(f"{path} has more than {MAX_MEGAPIXELS} megapixels; scale it down first") from exc
    except UnidentifiedImageError as exc:
        raise DataError(f"{path} is not a picture ({_looks_like(path)})") from exc
    except OSError as exc:
        fault = exc.strerror or f"{exc}; get it anew"  # without strerror it is Pillow's, of a truncated file
        raise DataError(f"{path} cannot be read: {fault}") from exc
    except Exception as exc:  # damaged files make Pillow's decoders raise nearly anything
        raise DataError(f"{path} is damaged: {type(exc).__name__} {exc}") from exc


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write a picture, whole or not at all; PNG or JPEG by its suffix.

    Args:
        path: ``.png``, ``.jpg`` or ``.jpeg``. No metadata is written, so no EXIF orientation either.
        image: (H, W, 3), uint8, RGB.

    Raises: DataError if the suffix is another or the file cannot be written; ContractError if the array is
        another.
    """
    check_image(image)
    format_, options = _FORMATS[check_suffix(path)]
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format_, **options)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a picture to be written, in small letters.

    Raises: DataError if no such picture can be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise DataError(
            f"{path}: cannot write a picture as {suffix or 'a file without suffix'}; use .png or .jpg"
        )
    return suffix


def check_image(image: np.ndarray) -> None:
    """Raises: ContractError if ``image`` is not (H, W, 3) uint8."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ContractError(
            f"an image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)",
            got=image.shape,
            expected="uint8 (H, W, 3)",
        )


def to_tensor(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [-1, 1]: x / 127.5 - 1."""
    scaled = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def from_tensor(tensors: np.ndarray) -> np.ndarray:
    """float (N, 3, H, W) in [-1, 1] to uint8 (N, H, W, 3): the inverse, rounded half to even, clipped.

    Raises: ContractError if a value is NaN.
    """
    if np.isnan(tensors).any():
        raise ContractError("the network gave NaN")
    scaled = np.rint((tensors.astype(np.float32) + np.float32(1)) * np.float32(127.5))
    return np.ascontiguousarray(scaled.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def _open(file) -> Image.Image:
    # Pillow warns from 89 megapixels on, and raises from twice that on; both are our one error.
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(file)


def _check_range(path: str | os.PathLike[str], picture: Image.Image) -> None:
    # A 16-bit PNG has mode I in Pillow before 11, I;16 since then.
    if picture.mode == "F" or (picture.mode == "I" and picture.format != "PNG"):
        kind = "floats" if picture.mode == "F" else "32-bit integers"
        raise DataError(f"{path} holds {kind}, whose range is not known; save it with 8 or 16 bits")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _looks_like(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        start = file.read(256).lstrip()
    if not start:
        return "it is empty"
    if start.startswith(b"<"):
        return "it looks like a web page"
    if start[4:8] == b"ftyp":
        return "it looks like HEIC or a video; save it as JPEG or PNG"
    return "no known format"
