"""Whatever a vendor calls an image becomes upright 8-bit RGB, or is refused with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from Datasets.format.images import MAX_PIXELS, UnreadableImage, decode, letterbox, open_image, to_rgb
from tests.template.conftest import png_bomb


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_of_sixteen_bits(pixels: np.ndarray) -> bytes:
    """A PNG of uint16 [H, W, 3], which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of_bands(bands: int, bits: int, width: int = 5, height: int = 4) -> bytes:
    """An uncompressed TIFF of interleaved bands, as GDAL writes those of satellites."""
    data = bytes(width * height * bands * bits // 8)
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 134, 277: bands, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)).ljust(134, b"\0") + data


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
    for kind in ("<u2", ">u2", "<i4"):
        grey = np.arange(65_536).astype(kind).reshape(4, -1)
        assert np.array_equal(to_rgb(Image.fromarray(grey))[..., 0], np.rint(grey / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("kind", "values", "value_range", "expected"),
    [
        ("<u2", [0, 819, 4095], [0, 4095], [0, 51, 255]),
        ("<u2", [100, 600, 1100], "image", [0, 128, 255]),
        ("<i4", [-1024, 0, 3071], [-1024, 3071], [0, 64, 255]),
        ("<f4", [0, 0.2, 1], None, [0, 51, 255]),
        ("<f4", [-1, 0.6, 1], [-1, 1], [0, 204, 255]),
    ],
)
def test_more_than_eight_bits_have_the_range_that_is_stated(kind, values, value_range, expected):
    data = encoded(Image.fromarray(np.array([values], kind)), "TIFF")
    assert decode(data, value_range=value_range)[0, :, 1].tolist() == expected


@pytest.mark.parametrize(
    ("kind", "values", "value_range"),
    [
        ("<u2", [0, 5000], [0, 4095]),
        ("<f4", [0, 255], None),
        ("<f4", [0, np.nan], "image"),
        ("<f4", [0, np.inf], [0, 1]),
    ],
)
def test_values_that_do_not_fit_are_refused_with_both(kind, values, value_range):
    data = encoded(Image.fromarray(np.array([values], kind)), "TIFF")
    with pytest.raises(UnreadableImage, match=r"values of .* to .* do not fit|no number"):
        decode(data, value_range=value_range)


def test_a_range_leaves_eight_bits_alone_and_refuses_colours_of_sixteen(photo):
    assert np.array_equal(decode(encoded(photo, "PNG"), value_range=[0, 4095]), np.asarray(photo))
    wide = png_of_sixteen_bits(np.asarray(photo).astype(np.uint16) * 257)
    assert np.array_equal(decode(wide), np.asarray(photo))
    with pytest.raises(UnreadableImage, match="8 bits"):
        decode(wide, value_range=[0, 4095])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "an empty file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a\x01\x02", "JPEG XL"),
        (b"\0" * 128 + b"DICM\x02\0", "DICOM"),
        (b"\n<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"what is this", "not an image file"),
    ],
)
def test_files_of_other_kinds_are_named_with_what_helps(data, says):
    with pytest.raises(UnreadableImage, match=says):
        decode(data)


@pytest.mark.parametrize(("bands", "bits"), [(5, 8), (7, 16), (2, 16)])
def test_bands_of_a_tiff_that_are_no_colours_are_counted(bands, bits):
    with pytest.raises(UnreadableImage, match=f"TIFF of {bands} bands of {bits} bits"):
        decode(tiff_of_bands(bands, bits))


def test_avif_is_read_where_pillow_can(photo):
    data = encoded(photo, "AVIF", quality=95)
    assert np.abs(decode(data).astype(int) - np.asarray(photo)).mean() < 4
    with pytest.raises(UnreadableImage, match="AVIF"):
        decode(data, formats=("JPEG", "PNG", "WEBP", "BMP"))


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


def test_a_bomb_is_refused_by_its_header():
    bomb = png_bomb()
    assert len(bomb) < 1024
    for limit in (MAX_PIXELS, 100):
        with pytest.raises(UnreadableImage, match=f"more pixels than the limit of {limit}"):
            decode(bomb, limit)


def test_a_limit_below_pillows_is_kept(photo):
    with pytest.raises(UnreadableImage, match="60 x 40 pixels are more than the limit of 100"):
        decode(encoded(photo, "PNG"), max_pixels=100)


def test_a_letterbox_pads_evenly_with_grey_and_keeps_the_shape():
    square = letterbox(np.full((50, 100, 3), 7, np.uint8), 100)
    assert (square.pixels[25:75] == 7).all()
    assert (square.pixels[:25] == 114).all()
    assert (square.pixels[75:] == 114).all()
