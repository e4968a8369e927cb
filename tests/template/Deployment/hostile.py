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


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more: 31 bytes, and all pixels anew, for each."""
    file = encoded(Image.new("L", (side, side), 100), progressive=True)
    return file[:-2] + file[file.rindex(b"\xff\xda") : -2] * scans + file[-2:]


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


def video_behind() -> bytes:
    """A picture with a thumbnail in a segment and a video behind it, which hold the bytes of a scan's marker."""
    file, scans = encoded(SAMPLES["000.jpg"]), b"\xff\xda" * 300
    return file[:2] + b"\xff\xe5" + struct.pack(">H", 2 + len(scans)) + scans + file[2:] + scans


def scans_behind(start: bytes) -> bytes:
    """A scan bomb behind bytes that may look like the picture's end, or like a segment that holds the scans."""
    return start + many_scans(4000, 20_000)[2:]


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


def tiff(height: int, offsets: bytes, *more: tuple[int, int, int, int]) -> bytes:
    """A grey TIFF file of one column in strips of a pixel; more: entries of its directory (tag, type, count, value)."""
    sizes = [(256, 3, 1, 1), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries = [*sizes, (273, 4, height, 14 + 12 * (9 + len(more))), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 1)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted([*entries, *more]))
    return b"II*\0" + struct.pack("<IH", 8, len(packed) // 12) + packed + bytes(4) + offsets


def many_strips(number: int) -> bytes:
    """A TIFF file for whose every strip, of a pixel, Pillow makes objects of 350 bytes."""
    return tiff(number, struct.pack("<I", 8) * number)


def many_tags(number: int) -> bytes:
    """A TIFF file of so many tags longer than itself; Pillow warns of each."""
    tags = [(1000 + place, 1, 1_000_000, 0) for place in range(number)]
    return tiff(2, struct.pack("<I", 8) * 2, *tags)


WHOLE = [encoded(image, kind) for image in SAMPLES.values() for kind in FORMATS]
TEXT = zlib.compress(b"a" * 100_000_000, 9)
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
    "GIF of 3000 frames": animation("GIF", 3000),
    "WEBP of 300 frames": animation("WEBP", 300),
    "PNG of 300 frames": animation("PNG", 300),
    "TIFF of 30 pages": animation("TIFF", 30),
    "zip behind": polyglot_zip(),
    "html inside": with_chunk(b"tEXt", b"x\0<script>alert(1)</script>"),
    "video behind": video_behind(),
    "90 scans": many_scans(200, 90),
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
    "scan bomb": many_scans(4000, 20_000),
    "scan bomb behind tables": scans_behind(b"\xff\xd8\xff\xd9\xff\xd8"),
    "scan bomb behind a restart": scans_behind(b"\xff\xd8\xff\xd0\xff\xff"),
    "scan bomb behind filling": scans_behind(b"\xff\xd8\xff\xe5\0\0\xff\xff"),
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
