"""The rules for a record's boxes: pure functions of what a source states and the image's true size.

A box that is certainly wrong rejects its record, as an image of which not every object is marked would teach a model
that the object is not there. What can be repaired safely is repaired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from Data_processing.cleaning.verdicts import Rejection, Repair
from Data_processing.shared.imported import Imported, ImportedBox
from Data_processing.shared.outlines import to_rle
from Datasets.format.classes import ClassRules
from Datasets.format.records import Box

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2
ROUNDING = 1e-3  # pixels; coordinates that differ by less do so by rounding, as of a width added to a left edge


@dataclass(frozen=True)
class BoxRules:
    """classes: which are wanted. max_box_share: of the image's area; a larger box rejects its record.

    doubled_iou: of two boxes of one class that overlap by this much or more, the later is left out; 0 keeps all.
    """

    classes: ClassRules = field(default_factory=ClassRules)
    max_box_share: float = 1.0
    doubled_iou: float = 0.95


@dataclass(frozen=True)
class CleanBoxes:
    """The boxes kept, what was repaired, and the name of each left out because its class is not wanted."""

    boxes: list[Box]
    repairs: list[Repair]
    unwanted: list[str]


def clean_boxes(row: Imported, width: int, height: int, rules: BoxRules) -> CleanBoxes:
    """The wanted boxes of a record in pixels of the image, repaired. Raises Rejection for the first that cannot be."""
    boxes: list[Box] = []
    repairs: list[Repair] = []
    unwanted: list[str] = []
    origins: list[str] = []
    for box in row.boxes or ():
        name = wanted_name(box.name, box.origin, rules.classes)
        if name is None:
            unwanted.append(box.name)
            continue
        boxes.append(_fit(box, name, row.normalized, width, height, rules.max_box_share, repairs))
        origins.append(box.origin)
    doubled = dict(reversed(doubles(boxes, rules.doubled_iou)))
    for later, first in sorted(doubled.items()):
        left_out = f"left out, as {origins[first]} is it"
        repairs.append(Repair("doubled box", origins[later], _in_words(_corners(boxes[later])), left_out))
    return CleanBoxes([box for index, box in enumerate(boxes) if index not in doubled], repairs, unwanted)


def wanted_name(name: str, origin: str, classes: ClassRules) -> str | None:
    """The name that a class has in the dataset; None if it is not wanted. Raises Rejection for one that is misspelt."""
    if not name.strip():
        raise Rejection("unknown category", origin, "a class without a name")
    wanted = classes.name(name)
    if wanted is None and (meant := classes.meant(name)):
        raise Rejection("misspelt class", origin, f"{name!r}, perhaps meant: {meant!r}")
    return wanted


def _fit(
    box: ImportedBox, name: str, normalized: bool, width: int, height: int, max_share: float, repairs: list[Repair]
) -> Box:
    """The box in pixels with its corners in order, clipped to the image, with its mask; adds what that took."""
    scale_x, scale_y = (width, height) if normalized else (1, 1)
    stated = box.x1 * scale_x, box.y1 * scale_y, box.x2 * scale_x, box.y2 * scale_y
    x1, y1, x2, y2 = repair_corners(stated, box.origin, width, height, repairs)
    if (x2 - x1) * (y2 - y1) > max_share * width * height:
        raise Rejection("box covers all", box.origin, f"{_in_words(stated)} in an image of {width} x {height}")
    segmentation = None
    if box.outline is not None:
        try:
            segmentation = to_rle(box.outline, width, height, normalized)
        except ValueError as error:
            raise Rejection("malformed segmentation", box.origin, str(error)) from error
        if segmentation is None:
            repairs.append(Repair("segmentation left out", box.origin, "no area", "none"))
    return Box(name=name, x1=x1, y1=y1, x2=x2, y2=y2, crowd=box.crowd, segmentation=segmentation)


def repair_corners(stated: Corners, origin: str, width: int, height: int, repairs: list[Repair]) -> Corners:
    """The corners in order and inside the image; adds what that took. Raises Rejection."""
    if not all(map(math.isfinite, stated)):
        raise Rejection("impossible box", origin, f"{_in_words(stated)} has a coordinate that is no number")
    (x1, x2), (y1, y2) = sorted(stated[0::2]), sorted(stated[1::2])
    ordered = x1, y1, x2, y2
    if ordered != stated:
        repairs.append(Repair("swapped corners", origin, _in_words(stated), _in_words(ordered)))
    if x1 == x2 or y1 == y2:
        raise Rejection("box without area", origin, _in_words(stated))
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise Rejection("box outside", origin, f"{_in_words(stated)} in an image of {width} x {height}")
    clipped = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
    if any(abs(one - other) >= ROUNDING for one, other in zip(clipped, ordered, strict=True)):
        repairs.append(Repair("clipped box", origin, _in_words(ordered), _in_words(clipped)))
    return clipped


def doubles(boxes: Sequence[Box], threshold: float) -> list[tuple[int, int]]:
    """Pairs (later, first) of boxes of one class, not crowds, that overlap (IoU) by `threshold` or more, in order."""
    if threshold <= 0 or len(boxes) < 2:
        return []
    corners = np.array([_corners(box) for box in boxes])
    sides = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])  # x, y, width, height
    pairs = np.argwhere(np.triu(coco_mask.iou(sides, sides, [False] * len(boxes)) >= threshold, 1)).tolist()
    return [
        (later, first)
        for first, later in pairs
        if boxes[first]["name"] == boxes[later]["name"] and not (boxes[first]["crowd"] or boxes[later]["crowd"])
    ]


def _corners(box: Box) -> Corners:
    return box["x1"], box["y1"], box["x2"], box["y2"]


def _in_words(corners: Corners) -> str:
    return "(" + ", ".join(f"{value:g}" for value in corners) + ")"
