"""The palette images of Pascal VOC: whose pixel is it, and of which class."""

import io
import re
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from Datasets.exporters.rows import mask_pixels
from Datasets.format.images import VOID
from Datasets.format.records import Box, Record
from Datasets.tools.errors import UserError


def objects(record: Record) -> list[Box]:
    """The boxes that VOC can say, in order: no crowds, and at least a pixel wide and high."""
    return [
        box
        for box in record["boxes"] or []
        if not box["crowd"] and box["x1"] + 1 <= box["x2"] and box["y1"] + 1 <= box["y2"]
    ]


def pictures(record: Record, classes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The pixels uint8 [height, width] of SegmentationObject and SegmentationClass, as far as a record knows them.

    Raises UserError for more objects or classes than there are values.
    """
    found = {}
    boxes = record["boxes"] or []
    if any(box["segmentation"] for box in boxes):
        numbers = [(box, number) for number, box in enumerate(objects(record), 1)]
        _check_limit(record, len(numbers), "objects")
        found["SegmentationObject"] = _paint(record, [*((box, VOID) for box in boxes if box["crowd"]), *numbers])
    if record["mask"] is not None:
        found["SegmentationClass"] = mask_pixels(record, len(classes)).astype(np.uint8)
    elif boxes and all(box["segmentation"] for box in boxes):
        found["SegmentationClass"] = _paint(record, [(box, classes[box["name"]] + 1) for box in boxes])
    if "SegmentationClass" in found:
        _check_limit(record, len(classes), "classes")
    return found


def _check_limit(record: Record, number: int, what: str) -> None:
    if number >= VOID:
        raise UserError(f"{record['image']}: {number} {what}; VOC's images hold {VOID - 1}: export to coco")


def _paint(record: Record, values: Sequence[tuple[Box, int]]) -> np.ndarray:
    """Paint each box's segmentation in its value; smaller ones lie on top, and nothing lies below a crowd's."""
    pixels = np.zeros((record["height"] or 0, record["width"] or 0), np.uint8)
    segmented = [(box["segmentation"], value) for box, value in values if box["segmentation"]]
    for rle, value in sorted(segmented, key=lambda pair: (pair[1] != VOID, -int(coco_mask.area(pair[0])))):
        pixels[coco_mask.decode(rle) > 0] = value
    return pixels


def palette_png(pixels: np.ndarray) -> bytes:
    """A PNG file of pixels uint8 [H, W] with VOC's colours as its palette."""
    image = Image.fromarray(pixels)
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@cache
def _palette() -> list[int]:
    return [part for value in range(256) for part in colour(value)]


def colour(value: int) -> tuple[int, int, int]:
    """VOC's red, green and blue of a pixel value: its bits, three by three, from the colours' highest bits down."""
    parts = [sum((value >> 3 * i + part & 1) << 7 - i for i in range(3)) for part in range(3)]
    return parts[0], parts[1], parts[2]


def labelmap(classes: Sequence[str]) -> str:
    """A line for the background and each class, in id order, with its colour, as CVAT and Datumaro read them.

    Colons, line breaks and a `#` in front, which no line can hold, become `_`: without the line, a reader that counts
    lines, as ours does, would take the classes behind it for others.
    """
    taken = {"background", *classes}
    lines = ["# label:color_rgb:parts:actions"]
    for value, name in enumerate(["background", *classes]):
        written = name if sayable(name) else re.sub(":|^#", "_", "_".join(name.splitlines()))
        while written != name and written in taken:
            written += "_"
        taken.add(written)
        lines.append(f"{written}:{','.join(map(str, colour(value % 256)))}::")
    return "\n".join([*lines, ""])


def sayable(name: str) -> bool:
    """Whether labelmap.txt can hold a class name."""
    return not name.startswith("#") and ":" not in name and len(name.splitlines()) == 1
