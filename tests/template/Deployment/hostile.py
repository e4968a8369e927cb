"""Image files made to harm a service, or merely strange, and the statuses that the service may answer them with."""

import io
import struct
import zipfile
import zlib
from random import Random

from PIL import Image

from tests.template.conftest import png_bomb
from tests.template.Deployment.made_export import SAMPLES, encoded

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "PPM")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A small PNG file with a chunk more, after its header."""
    png = encoded(SAMPLES["000.jpg"], "PNG")
    return png[:33] + chunk(kind, data) + png[33:]


def animation(kind: str, frames: int) -> bytes:
    """An animation of one colour a frame."""
    images = [Image.new("RGB", (64, 64), (number % 256, number // 256, 0)) for number in range(frames)]
    return encoded(images[0], kind, save_all=True, append_images=images[1:])


def polyglot_zip() -> bytes:
    """An image file that is also a zip archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.html", "<script>alert(1)</script>")
    return encoded(SAMPLES["000.jpg"]) + archive.getvalue()


def turned() -> bytes:
    """An image whose EXIF data says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(SAMPLES["001.jpg"], exif=exif)


def turned_oddly() -> bytes:
    """The same, whose EXIF data also have a number of a type that they would not be written with."""
    entries = struct.pack("<HHIhH", 0x0103, 8, 1, -5, 0) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    return encoded(SAMPLES["001.jpg"], exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4))


def bmp_runs(side: int, size: int) -> bytes:
    """A run-length BMP with runs of one pixel, which Pillow decodes in Python."""
    sizes = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + sizes + bytes(1024) + b"\x01\x00" * (size // 2)


WHOLE = [encoded(image, kind) for image in SAMPLES.values() for kind in FORMATS]
TEXT = zlib.compress(b"a" * 100_000_000, 1)
READABLE = {
    "1 x 1": encoded(Image.new("RGB", (1, 1)), "PNG"),
    "1 x 20000": encoded(Image.new("RGB", (1, 20_000)), "PNG"),
    "20000 x 1": encoded(Image.new("RGB", (20_000, 1)), "PNG"),
    "16 bit": encoded(Image.new("I;16", (40, 30), 40_000), "PNG"),
    "32 bit float": encoded(Image.new("F", (40, 30), 0.5), "TIFF"),
    "CMYK": encoded(Image.new("CMYK", (40, 30))),
    "palette": encoded(SAMPLES["000.jpg"].convert("P"), "PNG"),
    "palette with transparency": encoded(SAMPLES["000.jpg"].convert("P"), "GIF", transparency=0),
    "one bit": encoded(Image.new("1", (40, 30)), "PNG"),
    "lab": encoded(Image.new("LAB", (40, 30)), "TIFF"),
    "turned": turned(),
    "turned oddly": turned_oddly(),
    "GIF of 300 frames": animation("GIF", 300),
    "WEBP of 300 frames": animation("WEBP", 300),
    "PNG of 300 frames": animation("PNG", 300),
    "TIFF of 30 pages": animation("TIFF", 30),
    "zip behind": polyglot_zip(),
    "html inside": with_chunk(b"tEXt", b"x\0<script>alert(1)</script>"),
}
UNREADABLE = {
    "empty": b"",
    "html": b"<!doctype html><script>alert(1)</script>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n",
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "zip": polyglot_zip()[-200:],
    "elf": b"\x7fELF" + bytes(100),
    "pixel bomb": png_bomb(),
    "deflated text bomb": with_chunk(b"zTXt", b"k\0\0" + TEXT),
    "deflated profile bomb": with_chunk(b"iCCP", b"k\0\0" + TEXT),
    "runs": bmp_runs(3000, 1_000_000),
    "too many pixels": encoded(Image.new("1", (50_001, 1000)), "PNG"),
    "GIF without frames": b"GIF89a\x40\x00\x40\x00\x00\x00\x00;",
    "negative BMP": b"BM" + struct.pack("<IHHIIiiHH", 0, 0, 0, 54, 40, -5, -5, 1, 24) + bytes(24),
    "TIFF that points at itself": b"II*\0\x08\0\0\0\x01\0\x00\x01\x03\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
    "PPM of words": b"P3 9 9 255\n" + b"nine " * 81,
}


def mutated(rng: Random) -> bytes:
    """A file of any format with some bytes changed, left out, doubled or cut off."""
    file = bytearray(rng.choice(WHOLE))
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(len(file))
        length = rng.choice((1, 1, 2, 4, 100))
        match rng.randrange(4):
            case 0:
                file[place : place + length] = rng.randbytes(length)
            case 1:
                del file[place : place + length]
            case 2:
                file[place:place] = file[place : place + length]
            case 3:
                file[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        file = file or bytearray(b"\0")
    return bytes(file[: rng.randrange(len(file))] if rng.random() < 0.1 else file)
