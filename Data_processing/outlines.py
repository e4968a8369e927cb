"""What a source draws around an object: polygons or run lengths, in the JSON of COCO's `segmentation`.

Importers hand outlines on as they find them; the clean stage, which knows the image's true size, makes masks of them.
https://cocodataset.org/#format-data: a list of polygons [x1, y1, x2, y2, ...], or an object with `size` [height, width]
and `counts`: run lengths of background and object in turn, column by column, as a list or compressed into a string.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from Datasets.records import Rle

Polygon = list[float]
MAX_PERIMETER = 2_000_000  # pixels; the library takes memory for each pixel of it


class RunLengths(msgspec.Struct):
    """COCO's run lengths of either kind."""

    size: tuple[int, int]
    counts: list[int] | str


def encode(polygons: Iterable[Sequence[float]]) -> bytes:
    """Polygons, each x1, y1, x2, y2, ..., as an outline."""
    return msgspec.json.encode([list(polygon) for polygon in polygons])


def bounds(outline: bytes) -> tuple[float, float, float, float]:
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
    """The mask of an outline on an image of `width` x `height`, or None where it encloses nothing.

    Polygons are drawn as by the COCO API, the union of all; parts beyond the image are cut off. normalized: they are in
    fractions of the image's width and height. Raises ValueError, saying what is wrong with it.
    """
    found = _decode(outline)
    if isinstance(found, RunLengths):
        return _from_run_lengths(found, width, height)
    polygons = [_checked(polygon, width, height, normalized) for polygon in found]
    drawn = [polygon for polygon in polygons if len(polygon) >= 6]
    return _text(coco_mask.merge(coco_mask.frPyObjects(drawn, height, width))) if drawn else None


_DECODER = msgspec.json.Decoder(list[Polygon] | RunLengths)


def _decode(outline: bytes) -> list[Polygon] | RunLengths:
    try:
        return _DECODER.decode(outline)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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
    lengths = run_lengths(found.counts) if isinstance(found.counts, str) else _integers(found.counts)
    if (lengths < 0).any() or lengths.sum() != width * height:
        raise ValueError(f"run lengths that do not add up to {width} x {height} pixels")
    if isinstance(found.counts, str):
        return Rle(size=[height, width], counts=found.counts)
    return _text(coco_mask.frPyObjects({"size": [height, width], "counts": found.counts}, height, width))


def run_lengths(counts: str) -> np.ndarray:
    """The run lengths, int64 [N], of COCO's compressed string. Raises ValueError.

    Each number is written in groups of 5 bits, lowest first, as characters from "0" on; bit 6 says that another
    follows, the highest bit of the last gives the sign. From the fourth on, numbers are differences to the one before
    the last. Source: maskApi.c of the COCO API.
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if ((codes < 0) | (codes > 63)).any() or (len(codes) and codes[-1] & 32):
        raise ValueError("compressed run lengths with a character that does not belong there")
    last = (codes & 32) == 0
    start = np.flatnonzero(np.concatenate([[True], last[:-1]])) if len(codes) else np.zeros(0, np.int64)
    place = np.arange(len(codes)) - np.repeat(start, np.diff(np.append(start, len(codes))))
    if (place > 6).any():
        raise ValueError("compressed run lengths with a number beyond 32 bits")
    values = np.add.reduceat((codes & 31) << (5 * place), start) if len(codes) else codes
    ends = place[last]
    values = np.where(codes[last] & 16, values - (np.int64(1) << (5 * (ends + 1))), values)
    for parity in (1, 2):
        values[parity::2] = np.cumsum(values[parity::2])
    return values


def _integers(counts: list[int]) -> np.ndarray:
    try:
        return np.array(counts, np.int64)
    except OverflowError as error:
        raise ValueError("run lengths beyond 64 bits") from error


def _text(rle: dict[str, Any]) -> Rle:
    return Rle(size=[int(side) for side in rle["size"]], counts=rle["counts"].decode("ascii"))
