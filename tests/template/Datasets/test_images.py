"""Whatever a vendor calls an image becomes upright 8-bit RGB, or is refused with a reason."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from Datasets.format.images import MAX_PIXELS, UnreadableImage, decode, letterbox, open_image, to_rgb
from tests.template.conftest import png_bomb


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture
def photo() -> Image.Image:
    ramp = np.linspace(0, 255, 40 * 60).reshape(40, 60)
    return Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1).astype(np.uint8))


def test_exif_orientation_6_stands_upright(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = photo.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(decode(encoded(stored, "PNG", exif=exif)), np.asarray(photo))
    assert open_image(encoded(stored, "PNG", exif=exif)).format == "PNG"  # which inspected tables tell


def test_sixteen_bit_grey_keeps_its_tones(photo):
    grey = np.asarray(photo.convert("L"))
    pixels = decode(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"))
    assert np.array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))
    beyond = np.array([-(2**31), -1, 65_536, 2**31 - 1])
    for kind, values in (("<u2", range(65_536)), (">u2", range(65_536)), ("<i4", [*range(65_536), *beyond])):
        grey = np.array(values, dtype=kind).reshape(4, -1)
        expected = np.clip(np.rint(grey / 257), 0, 255).astype(np.uint8)
        assert np.array_equal(to_rgb(Image.fromarray(grey))[..., 0], expected)


@pytest.mark.parametrize(
    ("mode", "form"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")]
)
def test_other_modes_become_rgb(photo, mode, form):
    pixels = decode(encoded(photo.convert(mode), form))
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8


def test_a_truncated_file_is_refused(photo):
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(encoded(photo, "JPEG")[:-100])


def test_a_file_that_is_no_image_is_refused():
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(b"<html>404</html>")


def test_a_bomb_is_refused_by_its_header():
    bomb = png_bomb()
    assert len(bomb) < 1024
    for limit in (MAX_PIXELS, 100):
        with pytest.raises(UnreadableImage, match=f"more pixels than the limit of {limit}"):
            decode(bomb, limit)


def test_a_limit_below_pillows_is_kept(photo):
    with pytest.raises(UnreadableImage, match="60 x 40 pixels are more than the limit of 100"):
        decode(encoded(photo, "PNG"), max_pixels=100)


@given(width=st.integers(1, 300), height=st.integers(1, 300), size=st.integers(16, 128))
def test_boxes_come_back_from_the_letterbox(width, height, size):
    square = letterbox(np.zeros((height, width, 3), np.uint8), size)
    boxes = np.array([[0, 0, width, height], [width / 4, height / 3, width / 2, height]])
    there = square.to_square(boxes)
    assert there.min() >= -1e-9
    assert there.max() <= size + 1e-9
    assert np.allclose(square.to_image(there), boxes, atol=1e-9)


def test_a_letterbox_pads_evenly_with_grey_and_keeps_the_shape():
    square = letterbox(np.full((50, 100, 3), 7, np.uint8), 100)
    assert (square.pixels[25:75] == 7).all()
    assert (square.pixels[:25] == 114).all()
    assert (square.pixels[75:] == 114).all()


def test_an_image_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(letterbox(image, 64).pixels, image)
