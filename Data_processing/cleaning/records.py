"""Cleaning of one record: pure functions of what a source states and what its image shows.

A box that is certainly wrong rejects its record, as an object that is not marked would teach a model that it is none.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from Data_processing.cleaning.rules import Rejection, Repair, Rules
from Data_processing.shared.imported import Imported, ImportedBox
from Data_processing.shared.inspected import Facts
from Data_processing.shared.mask_values import Names, as_text, in_colour
from Data_processing.shared.outlines import to_rle
from Datasets.format.classes import ClassRules
from Datasets.format.images import VOID
from Datasets.format.records import Box, Count, Record, contradictions, empty_record, implied

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2
ROUNDING = 1e-3  # pixels; coordinates that differ by less do so by rounding, as of a width added to a left edge


@dataclass(frozen=True)
class Cleaned:
    """A record fit for training, what was repaired, and what was left out as not wanted."""

    record: Record
    mask_names: Names  # the wanted name that each value in the mask file stands for
    repairs: list[Repair]
    unwanted: Counter[str]  # boxes, or by counts; 1 of a class that only labels or the mask show
    box_origins: list[str] | None  # of the record's boxes


def clean_record(row: Imported, source: str, facts: Facts, mask: Facts | None, rules: Rules) -> Cleaned:
    """Judge one record; raises Rejection for the first thing wrong. mask: facts of its mask file, if it names one."""
    repairs = judge_image(row, facts, rules)
    judge_mask(row, facts, mask)
    boxes, origins, unwanted = clean_boxes(row, facts, rules, repairs)
    labels, counts, mask_names, left_out = wanted_names(row, mask, rules.classes)
    as_a_whole = labels is not None or counts is not None
    if not as_a_whole and mask is not None:
        labels = sorted({*filter(None, mask_names.values()), *(box["name"] for box in boxes)})
    record = empty_record(row.image, source)
    record |= {"width": facts.width, "height": facts.height, "sha256": facts.sha256}
    record |= {"group": row.group, "split": row.split, "labels": labels, "counts": counts}
    if row.boxes is not None:
        record["boxes"] = boxes
    if row.mask is not None:
        record["mask"] = {"bytes": None, "path": row.mask}
    record = implied(record)
    unwanted |= left_out
    if as_a_whole and (found := contradictions(record)):
        raise Rejection("contradiction", row.origin, found[0])
    if unwanted and not (record["labels"] or any(mask_names.values())) and not rules.keep_negatives:
        raise Rejection("no kept class", row.origin, ", ".join(sorted(unwanted)))
    for rule in rules.own:
        if value := rule.check(record, facts):
            raise Rejection(rule.name, row.origin, value, rule.remedy)
    return Cleaned(record, mask_names, repairs, unwanted, None if row.boxes is None else origins)


def states(row: Imported) -> bool:
    """Whether a record states anything of its image, if only that nothing is on it."""
    return any(stated is not None for stated in (row.labels, row.counts, row.boxes, row.mask))


def judge_image(row: Imported, facts: Facts, rules: Rules) -> list[Repair]:
    """Raise Rejection unless the image can be used and is the one annotated; returns what was wrong with its size."""
    for rule, value in row.problems:
        raise Rejection(rule, row.origin, value)
    if facts.sha256 is None:
        raise Rejection("missing image", row.origin, facts.reason or "")
    if facts.reason is not None:
        rule = "unreadable image" if facts.highest is None else "value range"
        raise Rejection(rule, row.origin, facts.reason)
    if facts.brightness is None:
        raise Rejection("wrong mask", row.origin, f"{row.image} is named as an image and as a mask")
    if not states(row):
        raise Rejection("no annotation", row.origin, row.image)
    for rule, fails, value in look_rules(facts, rules):
        if fails:
            raise Rejection(rule, row.origin, value)
    stated, true = (row.width, row.height), (facts.width, facts.height)
    if None in stated or stated == true:
        return []
    before, after = f"{stated[0]} x {stated[1]}", f"{true[0]} x {true[1]}"
    if rules.trust_image_size:
        return [Repair("wrong size", row.origin, before, after)]
    turned = ": turned, as by EXIF, so were the boxes drawn on it upright?" if stated == true[::-1] else ""
    raise Rejection("wrong size", row.origin, f"annotated for {before}, the image is {after}{turned}")


def look_rules(facts: Facts, rules: Rules) -> list[tuple[str, bool, str]]:
    """By what an image that can be read is still of no use: rule, whether it is broken, the value."""
    short, long = sorted((facts.width or 0, facts.height or 0))
    brightness, contrast, sharpness = facts.brightness or 0.0, facts.contrast or 0.0, facts.sharpness or 0.0
    size, luma = f"{facts.width} x {facts.height}", f"brightness {brightness:.1f}"

    found = [
        ("too small", short < rules.min_side, size, "min_side"),
        ("too large", long > rules.max_side, size, "max_side"),
        ("extreme shape", long > rules.max_aspect * short, size, "max_aspect"),
        ("too dark", brightness < rules.min_brightness, luma, "min_brightness"),
        ("too bright", brightness > rules.max_brightness, luma, "max_brightness"),
        ("blank", contrast < rules.min_contrast, f"contrast {contrast:.1f}", "min_contrast"),
        ("blurred", sharpness < rules.min_sharpness, f"sharpness {sharpness:.1f}", "min_sharpness"),
    ]
    return [(rule, fails, f"{is_}, clean.{limit} is {getattr(rules, limit):g}") for rule, fails, is_, limit in found]


def judge_mask(row: Imported, facts: Facts, mask: Facts | None) -> None:
    """Raise Rejection if the mask file that a record names cannot be used."""
    if row.mask is None or mask is None:
        return
    if mask.reason is not None:
        raise Rejection("unreadable mask", row.origin, f"{row.mask}: {mask.reason}")
    if (mask.width, mask.height) != (facts.width, facts.height):
        sizes = f"{mask.width} x {mask.height}, the image is {facts.width} x {facts.height}"
        raise Rejection("wrong mask", row.origin, f"{row.mask} is {sizes}")
    if unknown := numbers_in(mask, row).difference(row.mask_names or (), (0, VOID)):
        raise Rejection("unknown mask value", row.origin, f"{row.mask}: {as_text(min(unknown))}")


def numbers_in(mask: Facts, row: Imported) -> set[int]:
    """The numbers in a record's mask, as colours if its names are of colours."""
    return set((mask.colours if in_colour(row.mask_names or ()) else mask.values) or ())


def in_mask(row: Imported, mask: Facts | None) -> Names:
    """What the values that occur in a record's mask stand for. mask: its facts."""
    values = numbers_in(mask, row) if mask else set()
    return {value: name for value, name in (row.mask_names or {}).items() if value in values}


def wanted_names(
    row: Imported, mask: Facts | None, classes: ClassRules
) -> tuple[list[str] | None, list[Count] | None, Names, Counter[str]]:
    """Labels, counts, names of values in the mask, as wanted; how many of each class are left out. mask: its facts."""
    masked = in_mask(row, mask)
    stated = Counter(dict.fromkeys((*(row.labels or ()), *filter(None, masked.values())), 1))
    counted: Counter[str] = Counter()
    for count in row.counts or ():
        counted[count["name"]] += count["count"]
    wanted = {name: wanted_name(name, row.origin, classes) for name in (*stated, *counted)}
    totals: Counter[str] = Counter()
    for name, number in counted.items():
        totals[wanted[name] or ""] += number
    del totals[""]
    return (
        None if row.labels is None else sorted({ours for name in row.labels if (ours := wanted[name])}),
        None if row.counts is None else [Count(name=name, count=n) for name, n in sorted(totals.items()) if n],
        {value: name and (wanted[name] or "") for value, name in masked.items()},
        Counter({name: n for name, n in (stated | counted).items() if wanted[name] is None}),
    )


def clean_boxes(
    row: Imported, facts: Facts, rules: Rules, repairs: list[Repair]
) -> tuple[list[Box], list[str], Counter[str]]:
    """The wanted boxes in pixels, their origins, and how many of each class are not wanted; adds to `repairs`.

    Raises Rejection.
    """
    boxes: list[Box] = []
    unwanted: Counter[str] = Counter()
    origins: list[str] = []
    for box in row.boxes or ():
        name = wanted_name(box.name, box.origin, rules.classes)
        if name is None:
            unwanted[box.name] += 1
        else:
            boxes.append(_fit(box, name, row, facts, rules, repairs))
            origins.append(box.origin)
    doubled = doubles(boxes, rules.doubled_iou)
    for later, first in doubled.items():
        left_out = f"left out, as {origins[first]} is it"
        repairs.append(Repair("doubled box", origins[later], _in_words(_corners(boxes[later])), left_out))
    kept = [index for index in range(len(boxes)) if index not in doubled]
    return [boxes[index] for index in kept], [origins[index] for index in kept], unwanted


def wanted_name(name: str, origin: str, classes: ClassRules) -> str | None:
    """The name that a class has in the dataset; None if it is not wanted. Raises Rejection for one that is misspelt."""
    if not name.strip():
        raise Rejection("unknown category", origin, "a class without a name")
    wanted = classes.name(name)
    if wanted is None and (meant := classes.meant(name)):
        raise Rejection("misspelt class", origin, f"{name!r}, perhaps meant: {meant!r}")
    return wanted


def in_pixels(box: ImportedBox, row: Imported, facts: Facts) -> Corners:
    """The corners of a box of a record as its source states them, in pixels of the image."""
    x, y = (facts.width or 0, facts.height or 0) if row.normalized else (1, 1)
    return box.x1 * x, box.y1 * y, box.x2 * x, box.y2 * y


def _fit(box: ImportedBox, name: str, row: Imported, facts: Facts, rules: Rules, repairs: list[Repair]) -> Box:
    """The box in pixels with its corners in order, clipped to the image, with its mask; adds what that took."""
    stated, width, height = in_pixels(box, row, facts), facts.width or 0, facts.height or 0
    x1, y1, x2, y2 = repair_corners(stated, box.origin, width, height, repairs)
    if min(x2 - x1, y2 - y1) < rules.min_box - ROUNDING:
        value = f"{_in_words((x1, y1, x2, y2))} is narrower than clean.min_box, {rules.min_box:g} pixels"
        raise Rejection("box too small", box.origin, value)
    if (x2 - x1) * (y2 - y1) > rules.max_box_share * width * height:
        raise Rejection("box covers all", box.origin, f"{_in_words(stated)} in an image of {width} x {height}")
    segmentation = None
    if box.outline is not None:
        try:
            segmentation = to_rle(box.outline, width, height, row.normalized)
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


def doubles(boxes: Sequence[Box], threshold: float) -> dict[int, int]:
    """The boxes that overlap (IoU) one of their class before them by `threshold` or more, with the first such."""
    if threshold <= 0 or len(boxes) < 2:
        return {}
    corners = np.array([_corners(box) for box in boxes])
    sides = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])  # x, y, width, height
    found: dict[int, int] = {}
    overlap = np.tril(coco_mask.iou(sides, sides, [False] * len(boxes)) >= threshold, -1)
    for later, first in np.argwhere(overlap).tolist():
        one, other = boxes[first], boxes[later]
        if one["name"] == other["name"] and not (one["crowd"] or other["crowd"]):
            found.setdefault(later, first)
    return found


def _corners(box: Box) -> Corners:
    return box["x1"], box["y1"], box["x2"], box["y2"]


def _in_words(corners: Corners) -> str:
    return "(" + ", ".join(f"{value:g}" for value in corners) + ")"
