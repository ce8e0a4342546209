from __future__ import annotations

import io
import os
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from posewarp.runtime import image as module
from posewarp.runtime.errors import ContractError, DataError
from posewarp.runtime.image import from_tensor, read_image, to_tensor, write_image

ORIENTATION = 0x0112


@pytest.fixture
def save(tmp_path):
    def save(picture: Image.Image, name: str, **options):
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def one_pixel(mode: str, value) -> Image.Image:
    return Image.new(mode, (3, 2), value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(save, rng, orientation):
    upright = rng.integers(0, 256, (4, 6, 3), np.uint8)
    # What a camera stores so that the stated turn gives the upright picture.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(Image.fromarray(np.ascontiguousarray(stored)), "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)


def test_written_picture_is_not_turned_again(save, tmp_path, rng):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)), "turned.jpg", exif=exif)
    image = read_image(path)
    assert image.shape == (6, 4, 3)
    for name in ("again.png", "again.jpg"):
        write_image(tmp_path / name, image)
        with Image.open(tmp_path / name) as written:
            assert written.getexif().get(ORIENTATION, 1) == 1
        assert read_image(tmp_path / name).shape == image.shape
    np.testing.assert_array_equal(read_image(tmp_path / "again.png"), image)


@pytest.mark.parametrize(
    ("picture", "name", "expected"),
    [
        (one_pixel("RGB", (1, 2, 3)), "m.png", (1, 2, 3)),
        (one_pixel("L", 128), "m.png", (128, 128, 128)),
        (one_pixel("1", 1), "m.png", (255, 255, 255)),
        (one_pixel("LA", (128, 0)), "m.png", (255, 255, 255)),
        (one_pixel("LA", (128, 255)), "m.png", (128, 128, 128)),
        (one_pixel("RGBA", (10, 200, 30, 0)), "m.png", (255, 255, 255)),
        (one_pixel("RGBA", (10, 200, 30, 255)), "m.png", (10, 200, 30)),
        (one_pixel("RGBA", (0, 0, 0, 51)), "m.png", (204, 204, 204)),
        (one_pixel("CMYK", (0, 255, 255, 0)), "m.tif", (255, 0, 0)),
        (one_pixel("YCbCr", (255, 128, 128)), "m.tif", (255, 255, 255)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_gives_rgb(save, picture, name, expected):
    image = read_image(save(picture, name))
    assert image.shape == (2, 3, 3)
    assert image.dtype == np.uint8
    assert (image == expected).all()


def test_palette_is_looked_up_and_its_transparency_laid_on_white(save):
    picture = one_pixel("P", 1)
    picture.putpalette([0, 255, 0, 255, 0, 0])
    assert (read_image(save(picture, "p.png")) == (255, 0, 0)).all()
    assert (read_image(save(picture, "p.gif")) == (255, 0, 0)).all()
    assert (read_image(save(picture, "t.png", transparency=1)) == (255, 255, 255)).all()
    assert (read_image(save(picture, "o.png", transparency=0)) == (255, 0, 0)).all()


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_16_bits_are_scaled_not_clipped(save, name):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    grey = read_image(save(Image.fromarray(values), name))
    np.testing.assert_array_equal(grey[0, :, 0], [0, 0, 1, 128, 255])


@pytest.mark.parametrize(("mode", "what"), [("F", "floats"), ("I", "32-bit integers")])
def test_values_without_a_known_range_are_refused(save, mode, what):
    with pytest.raises(DataError, match=rf"m\.tif holds {what}"):
        read_image(save(one_pixel(mode, 1), "m.tif"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is not a picture \(it is empty\)"),
        (b"<!doctype html><html>not found</html>", r"is not a picture \(it looks like a web page\)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", r"is not a picture \(it looks like HEIC"),
        (b"hello", r"is not a picture \(no known format\)"),
    ],
    ids=["empty", "html", "heic", "text"],
)
def test_what_is_no_picture_is_named(tmp_path, content, message):
    (tmp_path / "m.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"m\.jpg {message}"):
        read_image(tmp_path / "m.jpg")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncated_picture_is_an_error_of_one_line(tmp_path, rng, format_):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, format_)
    whole = buffer.getvalue()
    for kept in (len(whole) // 2, len(whole) // 3):
        (tmp_path / "cut.jpg").write_bytes(whole[:kept])
        with pytest.raises(
            DataError, match=r"cut\.jpg (cannot be read|is damaged|is not a picture)"
        ) as caught:
            read_image(tmp_path / "cut.jpg")
        assert "\n" not in str(caught.value)


def test_damaged_bytes_give_a_picture_or_a_data_error(tmp_path, rng):
    for format_ in ("PNG", "TIFF", "GIF", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(buffer, format_)
        for _ in range(25):
            data = bytearray(buffer.getvalue())
            for at in rng.integers(0, len(data), 3):
                data[at] = rng.integers(256)
            (tmp_path / "m").write_bytes(data)
            try:
                assert read_image(tmp_path / "m").dtype == np.uint8
            except DataError as exc:
                assert "\n" not in str(exc)  # noqa: PT017 - either outcome is right


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cannot be read: Is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("limit", [40, 30, 10])
def test_huge_picture_is_refused_without_a_warning(save, monkeypatch, limit):
    # At 40 of ours 50 pixels are too many; at 30 and 10 it is Pillow that warns, and raises.
    monkeypatch.setattr(module, "MAX_MEGAPIXELS", 40e-6)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", {40: 1000, 30: 30, 10: 10}[limit])
    path = save(Image.new("RGB", (10, 5)), "huge.png")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(DataError, match=r"huge\.png has more than .* megapixels"):
            read_image(path)
    assert not said


def test_photo_of_12_megapixels_is_read_fast(save, rng):
    small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
    path = save(small.resize((4000, 3000), Image.Resampling.BICUBIC), "photo.jpg", quality=90)
    start = time.perf_counter()
    assert read_image(path).shape == (3000, 4000, 3)
    assert time.perf_counter() - start < 3  # 0.1 s alone on one core


def test_jpeg_is_decoded_at_full_size(save, rng):
    path = save(Image.fromarray(rng.integers(0, 256, (64, 48, 3), np.uint8)), "m.jpg")
    with Image.open(path) as picture:
        np.testing.assert_array_equal(read_image(path), np.asarray(picture))


# Writing


def test_png_is_lossless_and_suffix_case_does_not_matter(tmp_path, rng):
    image = rng.integers(0, 256, (5, 7, 3), np.uint8)
    write_image(tmp_path / "m.PNG", image)
    np.testing.assert_array_equal(read_image(tmp_path / "m.PNG"), image)
    write_image(tmp_path / "m.jpeg", image)
    assert read_image(tmp_path / "m.jpeg").shape == image.shape


@pytest.mark.parametrize("name", ["m.gif", "m", "m.onnx"])
def test_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"cannot write a picture as .* use \.png or \.jpg"):
        write_image(tmp_path / name, np.zeros((2, 2, 3), np.uint8))
    assert not os.listdir(tmp_path)


def test_array_that_is_no_picture_is_refused(tmp_path):
    for array in (np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(ContractError, match=r"expected uint8 \(H, W, 3\)"):
            write_image(tmp_path / "m.png", array)


def test_unwritable_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"m\.png cannot be written: the folder .* does not exist"):
        write_image(tmp_path / "gone" / "m.png", np.zeros((2, 2, 3), np.uint8))


# Numbers


def test_every_8_bit_value_survives_the_round_trip():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    tensor = to_tensor(image)
    assert tensor.dtype == np.float32
    assert tensor.shape == (1, 3, 16, 16)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    np.testing.assert_array_equal(from_tensor(tensor), image)


def test_channels_go_first_and_come_back(rng):
    image = rng.integers(0, 256, (2, 4, 6, 3), np.uint8)
    tensor = to_tensor(image)
    np.testing.assert_allclose(tensor[1, 2, 3, 5], image[1, 3, 5, 2] / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(from_tensor(tensor), image)


def test_values_outside_are_clipped_and_others_rounded():
    values = np.array([-2, 2, 0.4 / 127.5 - 1, 1.6 / 127.5 - 1, 0]).reshape(1, 1, 1, 5).repeat(3, 1)
    np.testing.assert_array_equal(from_tensor(values)[0, 0, :, 0], [0, 255, 0, 2, 128])  # 0 is 127.5


def test_nan_is_not_turned_into_a_colour():
    with pytest.raises(ContractError, match="NaN"):
        from_tensor(np.full((1, 3, 2, 2), np.nan, np.float32))
