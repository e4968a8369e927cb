"""What becomes of a record's boxes: pure functions of what a source states and the image's true size.

A box that is certainly wrong rejects its record, as an image of which not every object is marked would teach a model
that the object is not there. What can be mended safely is mended.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from Data_processing.cleaning.verdicts import Rejection, Repair
from Data_processing.shared.imported import Imported, ImportedBox
from Data_processing.shared.outlines import to_rle
from Datasets.format.classes import ClassRules
from Datasets.format.records import Box


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
    """The boxes kept, what was mended, and the name of each left out because its class is not wanted."""

    boxes: list[Box]
    repairs: list[Repair]
    unwanted: list[str]


def clean_boxes(row: Imported, width: int, height: int, rules: BoxRules) -> CleanBoxes | Rejection:
    """The wanted boxes of a record in pixels of the image, mended, or what is wrong with the first that cannot be."""
    cleaned = CleanBoxes([], [], [])
    for box in row.boxes or ():
        mapped = _mapped(box, rules.classes)
        if mapped is None:
            cleaned.unwanted.append(box.name)
            continue
        found = mapped if isinstance(mapped, Rejection) else _fit(box, mapped, row.normalized, width, height, rules)
        if isinstance(found, Rejection):
            return found
        cleaned.boxes.append(found[0])
        cleaned.repairs.extend(found[1])
    origins = [box.origin for box in row.boxes or () if rules.classes.name(box.name) is not None]
    return _without_doubles(cleaned, origins, rules.doubled_iou)


def _mapped(box: ImportedBox, classes: ClassRules) -> str | Rejection | None:
    """The box's wanted name; None if its class is not wanted."""
    if not box.name.strip():
        return Rejection("unknown category", box.origin, "a class without a name")
    name = classes.name(box.name)
    meant = classes.meant(box.name) if name is None else None
    if meant:
        return Rejection("misspelt class", box.origin, f"{box.name!r}, perhaps meant: {meant!r}")
    return name


def _fit(
    box: ImportedBox, name: str, normalized: bool, width: int, height: int, rules: BoxRules
) -> tuple[Box, list[Repair]] | Rejection:
    """The box in pixels with its corners in order, clipped to the image, with its mask; and what was done for that."""
    scale_x, scale_y = (width, height) if normalized else (1, 1)
    stated = box.x1 * scale_x, box.y1 * scale_y, box.x2 * scale_x, box.y2 * scale_y
    corners = mend_corners(stated, box.origin, width, height)
    if isinstance(corners, Rejection):
        return corners
    (x1, y1, x2, y2), repairs = corners
    if (x2 - x1) * (y2 - y1) > rules.max_box_share * width * height:
        return Rejection("box covers all", box.origin, f"{told(stated)} in an image of {width} x {height}")
    mended = Box(name=name, x1=x1, y1=y1, x2=x2, y2=y2, crowd=box.crowd, segmentation=None)
    if box.outline is not None:
        try:
            mended["segmentation"] = to_rle(box.outline, width, height, normalized)
        except ValueError as error:
            return Rejection("malformed segmentation", box.origin, str(error))
        if mended["segmentation"] is None:
            repairs.append(Repair("segmentation left out", box.origin, "no area", "none"))
    return mended, repairs


Corners = tuple[float, float, float, float]


def mend_corners(stated: Corners, origin: str, width: int, height: int) -> tuple[Corners, list[Repair]] | Rejection:
    """x1, y1, x2, y2 in order and inside the image, and what was done for that."""
    if not all(map(math.isfinite, stated)):
        return Rejection("impossible box", origin, f"{told(stated)} has a coordinate that is no number")
    repairs = []
    (x1, x2), (y1, y2) = sorted(stated[0::2]), sorted(stated[1::2])
    ordered = x1, y1, x2, y2
    if ordered != stated:
        repairs.append(Repair("swapped corners", origin, told(stated), told(ordered)))
    if x1 == x2 or y1 == y2:
        return Rejection("box without area", origin, told(stated))
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return Rejection("box outside", origin, f"{told(stated)} in an image of {width} x {height}")
    clipped = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
    if clipped != ordered and not all(map(_nearly, clipped, ordered)):
        repairs.append(Repair("clipped box", origin, told(ordered), told(clipped)))
    return clipped, repairs


def _nearly(one: float, other: float) -> bool:
    """Whether two coordinates differ by rounding only, as when a source gives a width and a rounded left edge."""
    return abs(one - other) < 1e-3


def _without_doubles(cleaned: CleanBoxes, origins: Sequence[str], threshold: float) -> CleanBoxes:
    if threshold <= 0 or len(cleaned.boxes) < 2:
        return cleaned
    left_out = {later: first for first, later in doubles(cleaned.boxes, threshold)}
    repairs = [
        Repair(
            "doubled box", origins[later], told(_corners(cleaned.boxes[later])), f"left out, as {origins[first]} is it"
        )
        for later, first in sorted(left_out.items())
    ]
    kept = [box for index, box in enumerate(cleaned.boxes) if index not in left_out]
    return CleanBoxes(kept, [*cleaned.repairs, *repairs], cleaned.unwanted)


def doubles(boxes: Sequence[Box], threshold: float) -> list[tuple[int, int]]:
    """Pairs (first, later) of boxes of one class, not crowds, that overlap (IoU) by `threshold` or more, in order."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, box in enumerate(boxes):
        if not box["crowd"]:
            by_name[box["name"]].append(index)
    found: list[tuple[int, int]] = []
    for places in by_name.values():
        if len(places) > 1:
            alike = _alike(np.array([_corners(boxes[place]) for place in places]), threshold)
            found += ((places[first], places[later]) for first, later in np.argwhere(np.triu(alike, 1)).tolist())
    return sorted(found)


def _alike(corners: np.ndarray, threshold: float) -> np.ndarray:
    """Which pairs of boxes, float64 [N, 4], overlap (IoU) by `threshold` or more, bool [N, N]."""
    low = np.maximum(corners[:, None, :2], corners[None, :, :2])
    high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = (corners[:, 2:] - corners[:, :2]).prod(-1)
    return shared >= threshold * (area[:, None] + area[None, :] - shared)


def _corners(box: Box) -> Corners:
    return box["x1"], box["y1"], box["x2"], box["y2"]


def told(corners: Corners) -> str:
    """A box's coordinates for a message."""
    return "(" + ", ".join(f"{value:g}" for value in corners) + ")"
