"""VOC's SegmentationObject: PNG files in which the pixels of the n-th object of an image's XML file have the value n.

0 is background, 255 not annotated. The order of the objects is the specification's, but other programs number them as
they like; so an object's pixels become the outline of the box that fits the rectangle around them, and the order speaks
where several or none do, as when other objects hide most of one.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from Data_processing.shared.imported import ImportedBox
from Data_processing.shared.outlines import from_mask
from Data_processing.sources.files import MissingFile, SourceFiles
from Datasets.format.images import VOID, UnreadableImage, open_image

LEAST_IOU = 0.5  # of the rectangle around an object's pixels and its box, where the order does not agree
ORDER = 0.25  # of IoU, that agreeing with the order is worth
BORDER = 5  # pixels that VOC leaves unannotated around an object, by which it may reach out of its box

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Objects:
    """The objects of one PNG file: by the value of their pixels the rectangle around them, and their outline.

    coloured: whether it is in colour, so that none were looked for. fault: why the file cannot be used, or "".
    """

    file: str
    found: Mapping[int, tuple[Rectangle, bytes]] = field(default_factory=dict)
    coloured: bool = False
    fault: str = ""


def read_objects(files: SourceFiles, names: Mapping[str, str]) -> dict[str, Objects]:
    """The objects of PNG files, by what `names` calls them; in its order, which an archive is quick to read in.

    A picture in colour, as CVAT and Datumaro paint them, has none: a warning says so.
    """
    found = {key: _read(files, name) for key, name in names.items()}
    coloured = [objects.file for objects in found.values() if objects.coloured]
    if coloured:
        told = f"{len(coloured)} of {len(found)} pictures of objects, such as {coloured[0]}, are in colour"
        advice = "they give no outlines; paint them with a palette, or in grey, of 8 bits"
        print(f"warning: {files.path}: {told}: {advice}", file=sys.stderr)
    return found


def _read(files: SourceFiles, name: str) -> Objects:
    try:
        image = open_image(files.read(name))
    except (MissingFile, UnreadableImage) as error:
        return Objects(name, fault=str(error))
    if image.mode in ("RGB", "RGBA"):
        return Objects(name, coloured=True)
    if image.mode not in ("L", "P"):
        return Objects(name, fault=f"it has a palette or is grey, with 8 bits; this one is {image.mode}")
    pixels = np.asarray(image)
    values = [value for value in np.unique(pixels).tolist() if value not in (0, VOID)]
    return Objects(name, {value: (_rectangle(pixels == value), from_mask(pixels == value)) for value in values})


def _rectangle(mask: np.ndarray) -> Rectangle:
    """Around the pixels set in bool [H, W]: x1, y1 and the far edges x2, y2."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def add_outlines(boxes: Sequence[ImportedBox], objects: Objects) -> list[tuple[str, str]]:
    """Give each box the outline of its object; a box without pixels gets none. Returns the problems.

    A problem is a file that cannot be used, and an object that no box fits.
    """
    if objects.fault:
        return [("malformed segmentation", f"{objects.file}: {objects.fault}")]
    free = dict(enumerate(boxes, 1))
    left = dict(objects.found)
    for _, value, number in sorted(_pairs(boxes, objects), reverse=True):
        if value in left and number in free:
            free.pop(number).outline = left.pop(value)[1]
    told = ", ".join(f"{value} around {tuple(rectangle)}" for value, (rectangle, _) in left.items())
    return [("malformed segmentation", f"{objects.file}: no box fits the object {told:.200}")] if left else []


def _pairs(boxes: Sequence[ImportedBox], objects: Objects) -> list[tuple[float, int, int]]:
    """How well each object fits each box that it may belong to: the fit, its value, the box's number from 1 on."""
    pairs = []
    for value, (rectangle, _) in objects.found.items():
        for number, box in enumerate(boxes, 1):
            place = (box.x1, box.y1, box.x2, box.y2)
            overlap, in_order = _iou(rectangle, place), value == number and _within(rectangle, place)
            if overlap >= LEAST_IOU or in_order:
                pairs.append((overlap + ORDER * (value == number), value, number))
    return pairs


def _iou(a: Rectangle, b: Rectangle) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, across) * max(0.0, down)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return common / (sum(areas) - common) if common > 0 else 0.0


def _within(inner: Rectangle, outer: Rectangle) -> bool:
    starts = all(inner[side] >= outer[side] - BORDER for side in (0, 1))
    return starts and all(inner[side] <= outer[side] + BORDER for side in (2, 3))
