"""What a source draws around an object: polygons or run lengths, in the JSON of COCO's `segmentation`.

Readers return outlines as they find them; the clean stage, which knows the image's true size, makes masks of them.
https://cocodataset.org/#format-data: a list of polygons [x1, y1, x2, y2, ...], or a polygon alone, or an object with
`size` [height, width] and `counts`: run lengths of background and object in turn, column by column, as a list or
compressed into a string.
"""

import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from Data_processing.shared.imported import ImportedBox
from Datasets.format.coco import Rle

Polygon = list[float]
Corners = tuple[float, float, float, float]  # x1, y1, x2, y2
MAX_PERIMETER = 2_000_000  # pixels; the library takes memory for each pixel of it
MAX_MASK = 2**28  # pixels that a mask is unpacked to
ELLIPSE_POINTS = 64
COMPRESSED = re.compile("([P-o]{0,6}[0-O])*")  # numbers of at most 35 bits


class RunLengths(msgspec.Struct):
    """COCO's run lengths of either kind."""

    size: tuple[int, int]
    counts: list[int] | str


def encode(polygons: Iterable[Sequence[float]]) -> bytes:
    """Polygons, each x1, y1, x2, y2, ..., as an outline."""
    return msgspec.json.encode([list(polygon) for polygon in polygons])


def turned(points: Sequence[float], degrees: float, x: float, y: float) -> Polygon:
    """A polygon turned about (x, y), clockwise as one sees it, as y points down."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    away = [(right - x, down - y) for right, down in zip(points[0::2], points[1::2], strict=True)]
    return flat((x + cosine * right - sine * down, y + sine * right + cosine * down) for right, down in away)


def flat(points: Iterable[Sequence[float]]) -> Polygon:
    """Pairs of coordinates as a polygon."""
    return [coordinate for point in points for coordinate in point]


def rectangle(x1: float, y1: float, x2: float, y2: float) -> Polygon:
    """The four corners of a box."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Polygon:
    """64 points of an ellipse about (x, y). Their polygon has 99.8 % of its area and touches its box on all sides."""
    angles = (number * math.tau / ELLIPSE_POINTS for number in range(ELLIPSE_POINTS))
    return flat((x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles)


def outlined(name: str, outline: bytes, origin: str, crowd: bool = False) -> ImportedBox:
    """The box around an outline, with it. Raises ValueError for one without a point."""
    return ImportedBox(name, *bounds(outline), origin, crowd, outline)


def turned_box(name: str, corners: Corners, degrees: float, origin: str, crowd: bool = False) -> ImportedBox:
    """A box turned about its centre as `turned` does it: the box around it, with its outline; or an upright one."""
    if not degrees:
        return ImportedBox(name, *corners, origin, crowd)
    x1, y1, x2, y2 = corners
    polygon = turned(rectangle(*corners), degrees, (x1 + x2) / 2, (y1 + y2) / 2)
    return outlined(name, encode([polygon]), origin, crowd)


def from_crop(mask: np.ndarray, left: int, top: int, width: int | None, height: int | None) -> bytes:
    """A mask, bool [h, w], whose upper left pixel is (left, top) of an image of `width` x `height`, as run lengths.

    Raises ValueError for a mask that sets no pixel or reaches outside the image, or where its size is not stated.
    """
    if width is None or height is None:
        raise ValueError("a mask in an image whose width and height are not stated")
    right, bottom = left + mask.shape[1], top + mask.shape[0]
    if min(left, top) < 0 or right > width or bottom > height or width * height > MAX_MASK:
        raise ValueError(f"a mask from ({left}, {top}) to ({right}, {bottom}) of {width} x {height} pixels")
    if not mask.any():
        raise ValueError("a mask that sets no pixel")
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[top:bottom, left:right] = mask
    return msgspec.json.encode(_text(coco_mask.encode(whole)))


def from_png(data: bytes) -> np.ndarray:
    """Where a PNG of a mask is opaque or, if it has no transparency, not black: bool [h, w]. Raises ValueError."""
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        clear = image.mode in ("LA", "RGBA") or "transparency" in image.info
        return np.asarray(image.convert("RGBA").getchannel("A") if clear else image.convert("L")) > 0
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("a mask that is no PNG") from error  # Pillow's words hold an address, another each time


def cut_out(outline: bytes, hole: bytes, width: int | None, height: int | None) -> bytes:
    """An outline without what lies in another, in an image of `width` x `height`. Raises ValueError."""
    width, height = width or 0, height or 0
    found, taken = to_rle(outline, width, height), to_rle(hole, width, height)
    if not found or not taken or not coco_mask.area(coco_mask.merge([found, taken], intersect=True)):
        return outline
    return from_crop(coco_mask.decode(found) > coco_mask.decode(taken), 0, 0, width, height)


def alternating(counts: Sequence[int], width: int, height: int) -> np.ndarray:
    """Run lengths of background and object in turn, row by row, as bool [height, width]. Raises ValueError."""
    if not 0 < width * height <= MAX_MASK:
        raise ValueError(f"a mask of {width} x {height} pixels")
    if min(counts, default=0) < 0 or sum(counts) != width * height:
        raise ValueError(f"run lengths that do not add up to {width} x {height} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)


def rle_pack(packed: bytes, width: int, height: int) -> np.ndarray:
    """Where a brush stroke of Label Studio covers anything, bool [height, width]: its RGBA image's alpha is not 0.

    A stream of bits: 32 of the number of values; 5 of the bits of a value, less 1; four times 4 of the bits of a
    length, less 1; then runs. A run: 1 bit, 1 if it repeats one value; 2 bits that choose of the four; the length,
    less 1; the value or values. Source: @thi.ng/rle-pack. Raises ValueError.
    """
    bits = "".join(map("{:08b}".format, packed))
    place = 0

    def number(size: int) -> int:
        nonlocal place
        place += size
        if place > len(bits):
            raise ValueError("packed run lengths that are cut off")
        return int(bits[place - size : place], 2)

    total, word, sizes = number(32), number(5) + 1, [number(4) + 1 for _ in range(4)]
    if total != 4 * width * height or total > MAX_MASK or word != 8:
        raise ValueError(f"packed run lengths of {total} values of {word} bits for {width} x {height} pixels of RGBA")
    values, done = np.zeros(total, np.uint8), 0
    while done < total:
        repeated, end = number(1), done + number(sizes[number(2)]) + 1
        if end > total:
            raise ValueError(f"packed run lengths of more than {total} values")
        values[done:end] = number(word) if repeated else [number(word) for _ in range(end - done)]
        done = end
    return values.reshape(height, width, 4)[:, :, 3] > 0


def bounds(outline: bytes) -> Corners:
    """x1, y1, x2, y2 of the box around an outline, in its units. Raises ValueError for one without a point."""
    found = _decode(outline)
    if isinstance(found, RunLengths):
        x, y, width, height = coco_mask.toBbox(_from_run_lengths(found, found.size[1], found.size[0])).tolist()
        return x, y, x + width, y + height
    points = [polygon for polygon in found if len(polygon) >= 2]
    if not points:
        raise ValueError("a segmentation without a point")
    xs, ys = [x for p in points for x in p[0::2]], [y for p in points for y in p[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def to_rle(outline: bytes, width: int, height: int, normalized: bool = False) -> Rle | None:
    """The mask of an outline on an image of `width` x `height`, or None where it encloses no pixel.

    Polygons are drawn as by the COCO API, the union of all; parts beyond the image are cut off. normalized: they are in
    fractions of the image's width and height. Raises ValueError, saying what is wrong with it.
    """
    found = _decode(outline)
    if isinstance(found, RunLengths):
        rle = _from_run_lengths(found, width, height)
    else:
        polygons = [_checked(polygon, width, height, normalized) for polygon in found]
        drawn = [polygon for polygon in polygons if len(polygon) >= 6]
        if not drawn:
            return None
        rle = _text(coco_mask.merge(coco_mask.frPyObjects(drawn, height, width)))
    return rle if coco_mask.area(rle) else None


_DECODER = msgspec.json.Decoder(list[Polygon] | RunLengths)
_FLAT = msgspec.json.Decoder(Polygon)


def _decode(outline: bytes) -> list[Polygon] | RunLengths:
    alone = re.match(rb"\[\s*[-\d]", outline)  # one polygon without the list around it
    try:
        return [_FLAT.decode(outline)] if alone else _DECODER.decode(outline)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"neither polygons nor run lengths: {error}") from error


def _checked(polygon: Polygon, width: int, height: int, normalized: bool) -> Polygon:
    """The polygon in pixels. Raises ValueError for one that the library would not survive."""
    if len(polygon) % 2:
        raise ValueError(f"a polygon of {len(polygon)} coordinates, which are no pairs")
    points = np.array(polygon).reshape(-1, 2)
    if normalized:
        points = points * (width, height)
    far = np.abs(points - (width / 2, height / 2)) > (1.5 * width, 1.5 * height)
    if far.any() or not np.isfinite(points).all():
        raise ValueError(f"a polygon's point far outside the image of {width} x {height}")
    if np.abs(np.diff(points, axis=0)).sum() > MAX_PERIMETER:
        raise ValueError(f"a polygon longer than {MAX_PERIMETER} pixels")
    return points.ravel().tolist() if normalized else polygon


def _from_run_lengths(found: RunLengths, width: int, height: int) -> Rle:
    if min(found.size) < 1 or width * height >= 2**31:
        raise ValueError(f"run lengths for {width} x {height} pixels")
    if found.size != (height, width):
        raise ValueError(f"run lengths for {found.size[1]} x {found.size[0]}, the image is {width} x {height}")
    lengths = run_lengths(found.counts) if isinstance(found.counts, str) else found.counts
    if min(lengths, default=0) < 0 or sum(lengths) != width * height:
        raise ValueError(f"run lengths that do not add up to {width} x {height} pixels")
    if isinstance(found.counts, str):
        return Rle(size=[height, width], counts=found.counts)
    return _text(coco_mask.frPyObjects({"size": [height, width], "counts": found.counts}, height, width))


def run_lengths(counts: str) -> list[int]:
    """The run lengths of COCO's compressed string. Raises ValueError.

    Each number is written in groups of 5 bits, lowest first, as characters from "0" on; bit 6 says that another
    follows, the highest bit of the last gives the sign. From the fourth on, numbers are differences to the one before
    the last. Source: maskApi.c of the COCO API.
    """
    if not COMPRESSED.fullmatch(counts):
        raise ValueError("compressed run lengths with a character that does not belong there")
    lengths: list[int] = []
    for number in re.findall("[P-o]*[0-O]", counts):
        groups = [(ord(character) - 48) & 31 for character in number]
        value = sum(bits << (5 * place) for place, bits in enumerate(groups))
        value -= (groups[-1] & 16) << (5 * len(groups) - 4)
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths


def _text(rle: dict[str, Any]) -> Rle:
    return Rle(size=[int(side) for side in rle["size"]], counts=rle["counts"].decode("ascii"))
