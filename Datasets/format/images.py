"""From an image file's bytes to the pixels that a model sees.

Training, export and service all use these functions, and a copy travels with each export, so that a model always gets
the input that it was trained on. NumPy and Pillow only.
"""

import io
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

MAX_PIXELS = 178_956_970  # what Pillow refuses to decode; about 512 MiB of RGB
_AVIF = ("AVIF",) if find_spec("PIL.AvifImagePlugin") else ()  # Pillow has it from version 11.3 on
MAX_SIDE = 65_535  # pixels, as of JPEG; to scale a longer line of pixels takes seconds
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "PPM", *_AVIF)  # others would run other programs
OTHERS = {  # what files begin with that are called images but not read; and what helps, if it is not to convert them
    rb"\Z": "an empty file: fetch it again",
    rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)": "HEIC",
    rb".{4}ftypavi[fs]": "AVIF",
    rb"\xff\x0a|\0{3}\x0cJXL ": "JPEG XL",
    rb".{128}DICM": "DICOM",
    rb"\s*<": "not an image but a web page or SVG: was the download refused?",
    rb"version https://git-lfs": "a pointer of Git LFS: `git lfs pull` fetches the image",
}
WIDE = "wide"  # in an image's info: it has colours of 16 bits, of which Pillow keeps the upper 8
FULL = {"I": 65_535, "F": 1}  # the brightest value of grey images of more than 8 bits, by the first letter of the mode
FILL = 114  # the grey that pads a letterbox
VOID = 255  # in a mask, whose other values are class ids + 1 and 0 for background: not annotated

# The darkest and the brightest value of images of more than 8 bits; "image": those in each image; None: 0 and FULL.
Range = Sequence[float] | str | None


class UnreadableImage(ValueError):
    """The bytes are not an image that can be decoded completely; the message is the reason."""


def open_image(
    data: bytes, max_pixels: int = MAX_PIXELS, luma: bool = False, formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """Decode an image file and turn it upright by its EXIF orientation; its mode stays as stored.

    luma: decode only the luma of a colour JPEG, as mode L, in two thirds of the time. formats: Pillow's names of those
    accepted. Raises UnreadableImage if the header states more than `max_pixels` (checked before decoding), and for
    anything else that is wrong with the bytes.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        if max(image.size) > MAX_SIDE:
            raise UnreadableImage(f"{image.width} x {image.height} pixels: a side is longer than {MAX_SIDE}")
        if image.width * image.height > max_pixels:
            raise UnreadableImage(f"{image.width} x {image.height} pixels are more than the limit of {max_pixels}")
        if luma:
            image.draft("L", None)
        wide = image.mode[0] not in FULL and bool(re.search(";16[BLN]", str(image.tile[:1])))
        image.load()
        image.info |= {WIDE: wide}
        image.getexif()
        for copy in ("exif", "Raw profile type exif"):  # Pillow would rewrite them, which fails for many cameras
            image.info.pop(copy, None)
        ImageOps.exif_transpose(image, in_place=True)  # otherwise it copies images that are upright already
        return image
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(_not_read(data, formats)) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more pixels than the limit of {min(max_pixels, MAX_PIXELS)}") from error
    except Exception as error:  # Pillow's decoders raise nearly anything for malformed bytes
        raise UnreadableImage(f"damaged: {error}") from error


def _not_read(data: bytes, formats: Sequence[str]) -> str:
    """What a file is that is not in one of the formats, and what to do."""
    kind = next((kind for start, kind in OTHERS.items() if re.match(start, data[:200], re.DOTALL)), "")
    with suppress(Exception):  # of what is no TIFF, or a damaged one
        tags, file = TiffImagePlugin.ImageFileDirectory_v2(data[:8]), io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        kind = f"a TIFF of {tags[277]} bands of {tags[258][0]} bits"
    if not kind:
        return f"not an image file in one of the formats {', '.join(formats)}"
    return kind if ":" in kind else f"{kind}, which is not read: convert it to PNG or JPEG, with 1 or 3 bands"


def to_rgb(image: Image.Image, value_range: Range = None) -> np.ndarray:
    """The pixels of an image of any mode as uint8 [H, W, 3]; transparency is dropped.

    value_range: what becomes 0 and 255 of images of more than 8 bits. Raises UnreadableImage for one it does not fit.
    """
    if image.mode[0] in FULL:
        low, high = value_limits(image, value_range)
        values = np.asarray(image)
        values = values.astype(np.result_type(values, np.float32)) - low
        image = Image.fromarray(np.rint(values * (255 / (high - low))).astype(np.uint8))
    elif image.info.get(WIDE) and list(value_range or (0, 65_535)) != [0, 65_535]:
        raise UnreadableImage(f"colours of 16 bits cannot have the range {value_range}; convert it to 8 bits")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # to convert is to copy


def value_limits(image: Image.Image, value_range: Range) -> tuple[float, float]:
    """What becomes 0 and 255 of an image of more than 8 bits. Raises UnreadableImage for other values."""
    lowest, highest = extremes(image)
    own = lowest, max(highest, lowest + 1e-6)
    low, high = own if value_range == "image" else map(float, value_range or (0, FULL[image.mode[0]]))
    if not (low <= lowest <= highest <= high and np.isfinite(high - low)):
        values = f"values of {lowest:.10g} to {highest:.10g}"
        raise UnreadableImage(f"{values} do not fit the range {low:.10g} to {high:.10g}")
    return low, high


def extremes(image: Image.Image) -> tuple[float, float]:
    """The lowest and the highest value; of colours of 16 bits, as far as Pillow keeps them."""
    values = np.asarray(image.convert("RGB")) * np.float32(257) if image.info.get(WIDE) else np.asarray(image)
    return float(values.min()), float(values.max())


def decode(
    data: bytes, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS, value_range: Range = None
) -> np.ndarray:
    """An image file's pixels, upright, as uint8 [H, W, 3] RGB; value_range: see to_rgb. Raises UnreadableImage."""
    return to_rgb(open_image(data, max_pixels, formats=formats), value_range)


def read_mask(file: bytes) -> np.ndarray:
    """A semantic mask, uint8 [H, W], from its PNG file: class ids + 1, 0 for background, VOID for not annotated."""
    return np.asarray(Image.open(io.BytesIO(file), formats=("PNG",)))


def mask_file(mask: np.ndarray, optimize: bool = False) -> bytes:
    """The PNG file of a semantic mask, uint8 [H, W]. optimize: take longer for a smaller file."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG", optimize=optimize)
    return file.getvalue()


@dataclass(frozen=True)
class Letterbox:
    """An image scaled into a square without changing its shape, padded evenly, and the way back.

    pixels: uint8 [size, size, 3]. A point (x, y) of the image lies at (x * scale_x + left, y * scale_y + top).
    The two scales differ only by the rounding to whole pixels.
    """

    pixels: np.ndarray
    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_square(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] (x1, y1, x2, y2) from the image's pixels to the square's."""
        return boxes * self._scales() + self._offsets()

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] (x1, y1, x2, y2) from the square's pixels back to the image's."""
        return (boxes - self._offsets()) / self._scales()

    def mask_to_square(self, mask: np.ndarray, fill: int) -> np.ndarray:
        """A mask [H, W] of the image as [size, size], by the nearest pixel; `fill` where the square is padded."""
        size = self.pixels.shape[0]
        rows, inside_rows = _nearest((np.arange(size) + 0.5 - self.top) / self.scale_y, mask.shape[0])
        columns, inside_columns = _nearest((np.arange(size) + 0.5 - self.left) / self.scale_x, mask.shape[1])
        inside = inside_rows[:, None] & inside_columns[None]
        return np.where(inside, mask[rows[:, None], columns[None]], mask.dtype.type(fill))

    def mask_to_image(self, mask: np.ndarray, width: int, height: int) -> np.ndarray:
        """A mask [size, size] of the square as [height, width] of the image, by the nearest pixel."""
        rows, _ = _nearest((np.arange(height) + 0.5) * self.scale_y + self.top, mask.shape[0])
        columns, _ = _nearest((np.arange(width) + 0.5) * self.scale_x + self.left, mask.shape[1])
        return mask[rows[:, None], columns[None]]

    def _scales(self) -> np.ndarray:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])

    def _offsets(self) -> np.ndarray:
        return np.array([self.left, self.top, self.left, self.top])


def _nearest(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixel, of `size` in a row, that each place lies in, and whether it lies in one at all."""
    pixels = np.floor(places).astype(np.int64)
    return pixels.clip(0, size - 1), (pixels >= 0) & (pixels < size)


def letterbox(image: np.ndarray, size: int) -> Letterbox:
    """Scale a uint8 [H, W, 3] image so that its longer side is `size`, and pad it to a square with grey."""
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
    if (new_width, new_height) != (width, height):
        image = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    left, top = (size - new_width) // 2, (size - new_height) // 2
    square = np.full((size, size, 3), FILL, np.uint8)
    square[top : top + new_height, left : left + new_width] = image
    return Letterbox(square, new_width / width, new_height / height, left, top)
