"""Pictures in the report: a small JPEG inside the page, and the boxes that are drawn over it."""

import base64
import colorsys
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from Datasets.format.images import decode

QUALITY = 78  # of the JPEGs
OPACITY = 0.35  # of masks
PHONE, DESK = 150, 220  # pixels of a picture's sides at most, for deciding where a name fits and whether it is drawn
LETTER, LINE = 6.5, 16  # pixels of a name's letter and line


@dataclass(frozen=True)
class Shape:
    """A box over a picture, in percent of its width and height.

    inside, right: where the name stands for want of room above and to the right; named: whether it would hide none.
    """

    name: str
    hue: int
    left: float
    top: float
    width: float
    height: float
    inside: bool
    right: bool
    named: bool = True


@dataclass(frozen=True)
class Picture:
    """An image as shown. uri: the JPEG as a data URI. tally: how many of each class, with the class's hue."""

    uri: str
    width: int
    height: int
    name: str
    shapes: list[Shape] = field(default_factory=list)
    tally: list[tuple[str, int, int]] = field(default_factory=list)
    small: bool = False


def hue(index: int) -> int:
    """A class's hue in degrees: neighbouring ids lie far apart."""
    return int((210 + index * 137.508) % 360)


def picture(row: Mapping[str, Any], classes: Sequence[str], side: int) -> Picture:
    """A row of the curated dataset, annotated. side: pixels of the longer side of the JPEG at most."""
    ids = {name: number for number, name in enumerate(classes)}
    boxes = [(box, hue(ids[box["name"]])) for box in row["boxes"] or ()]
    pixels = decode(row["image"]["bytes"])
    painted = paint(pixels, row, ids, side)
    counts = [(c["name"], c["count"], hue(ids[c["name"]])) for c in row["counts"] or () if c["count"]]
    if row["counts"] is None:
        counts = [(name, 0, hue(ids[name])) for name in row["labels"] or ()]
    return _picture(painted, pixels, row["image"]["path"], boxes, counts)


def stated_picture(data: bytes, name: str, boxes: Iterable[Mapping[str, Any]], side: int) -> Picture:
    """An image with its boxes as the source states them, right or wrong, all in the colour of an error."""
    pixels = decode(data)
    return _picture(_shrunk(pixels, side), pixels, name, [(box, 0) for box in boxes], [])


def _picture(
    shown: Image.Image,
    pixels: np.ndarray,
    name: str,
    boxes: Iterable[tuple[Mapping[str, Any], int]],
    counts: list[tuple[str, int, int]],
) -> Picture:
    height, width = pixels.shape[:2]
    shapes = [shape for box, colour in boxes if (shape := _shape(box, colour, width, height))]
    shapes = _named(sorted(shapes, key=lambda shape: -shape.width * shape.height), width, height)  # small ones on top
    return Picture(_uri(shown), width, height, name, shapes, counts, max(width, height) < 200)


def _shape(box: Mapping[str, Any], colour: int, width: int, height: int) -> Shape | None:
    corners = np.array([box["x1"] / width, box["y1"] / height, box["x2"] / width, box["y2"] / height]) * 100
    if not np.isfinite(corners).all():
        return None
    starts, ends = (pick(corners[:2], corners[2:]) for pick in (np.minimum, np.maximum))
    if starts.max() > 100 or ends.min() < 0:  # out of sight
        return None
    x1, x2 = np.clip(np.sort(corners[[0, 2]]), -5, 105).round(2).tolist()
    y1, y2 = np.clip(np.sort(corners[[1, 3]]), -5, 105).round(2).tolist()
    scale = min(PHONE / width, PHONE / height)
    inside = y1 / 100 * height * scale < LINE
    right = x1 / 100 * width * scale + LETTER * (len(box["name"]) + 1) > width * scale
    return Shape(box["name"], colour, x1, y1, round(x2 - x1, 2), round(y2 - y1, 2), inside, right)


def _named(shapes: Iterable[Shape], width: int, height: int) -> list[Shape]:
    """The shapes, those whose name would lie over one that came before without it."""
    scale = min(DESK / width, DESK / height) / 100
    taken: list[tuple[float, float, float]] = []
    found = []
    for shape in shapes:
        long = LETTER * (len(shape.name) + 1)
        x = (shape.left + shape.width) * width * scale - long if shape.right else shape.left * width * scale
        y = shape.top * height * scale - (0 if shape.inside else LINE)
        free = all(x + long < x0 or x > x1 or abs(y - y0) > LINE for x0, x1, y0 in taken)
        found.append(replace(shape, named=free))
        taken += [(x, x + long, y)] * free
    return found


def paint(pixels: np.ndarray, row: Mapping[str, Any], ids: Mapping[str, int], side: int) -> Image.Image:
    """The image at its size in the page, with segmentations and mask laid over in the classes' colours."""
    shown = _shrunk(pixels, side)
    layers = [
        (ids[box["name"]], rle.decode({**box["segmentation"], "counts": box["segmentation"]["counts"].encode()}))
        for box in row["boxes"] or ()
        if box["segmentation"]
    ]
    if row["mask"] and row["mask"]["bytes"]:
        values = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"]), formats=("PNG",)))
        layers += [(number - 1, values == number) for number in np.unique(values) if 1 <= number <= len(ids)]
    for number, layer in layers:
        alpha = Image.fromarray(layer.astype(np.uint8) * round(255 * OPACITY)).resize(shown.size)
        shown.paste(Image.new("RGB", shown.size, _rgb(hue(int(number)))), mask=alpha)
    return shown


def _shrunk(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    return image


def _rgb(degrees: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hls_to_rgb(degrees / 360, 0.5, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def png_uri(pixels: np.ndarray) -> str:
    """A PNG of uint8 [H, W, 4] as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
