"""The rules that the clean stage judges by: pure functions of what a source states and what its images show."""

from dataclasses import dataclass
from typing import Any

from Data_processing.imported import Imported
from Datasets.classes import ClassRules
from Datasets.records import Box, Record, box_problem, contradictions, implied

REMEDIES = {
    "outside the source": "correct the file name in the annotation",
    "second record": "delete one of the two, or join them",
    "unlisted image": "list the image in the annotation file, or delete these annotations",
    "unknown category": "add the category to the annotation file, or correct the id",
    "malformed annotation": "correct the annotation file",
    "malformed box": "draw the box again",
    "malformed segmentation": "draw the object again",
    "missing image": "deliver the image, or delete its annotation",
    "unreadable image": "deliver the image again",
    "no annotation": "annotate the image, or delete it",
    "wrong size": "correct the annotated size; if only that is wrong and the boxes fit, set clean.trust_image_size",
    "misspelt class": "correct the name, or list it in clean.rename or clean.drop",
    "box without area": "draw the box again",
    "box outside": "draw the box again",
    "impossible box": "draw the box again",
    "contradiction": "make labels, counts and boxes agree",
}


@dataclass(frozen=True)
class Rejection:
    """Why a record is left out: the rule, where it stands, the value at fault, and what to do about it."""

    rule: str
    origin: str
    value: str

    @property
    def remedy(self) -> str:
        return REMEDIES[self.rule]


@dataclass(frozen=True)
class Repair:
    """What was mended: the rule, where it stands, and the value before and after."""

    rule: str
    origin: str
    before: str
    after: str


def judge_image(row: Imported, facts: dict[str, Any], trust_image_size: bool) -> Rejection | Repair | None:
    """Whether the image can be used and is the one that was annotated; a Repair if only the stated size was wrong.

    facts: the image's row of the inspect stage.
    """
    record = row.record
    if row.problems:
        return Rejection(row.problems[0][0], row.origin, row.problems[0][1])
    if facts["sha256"] is None:
        return Rejection("missing image", row.origin, facts["reason"])
    if facts["reason"] is not None:
        return Rejection("unreadable image", row.origin, facts["reason"])
    if not any(record[kind] is not None for kind in ("labels", "counts", "boxes", "mask")):
        return Rejection("no annotation", row.origin, record["image"])
    stated, true = (record["width"], record["height"]), (facts["width"], facts["height"])
    if None in stated or stated == true:
        return None
    before, after = f"{stated[0]} x {stated[1]}", f"{true[0]} x {true[1]}"
    if trust_image_size:
        return Repair("wrong size", row.origin, before, after)
    return Rejection("wrong size", row.origin, f"annotated for {before}, the image is {after}")


def map_class(box: Box, origin: str, classes: ClassRules) -> Box | Rejection | None:
    """The box under its wanted name; None if its class is not wanted."""
    name = classes.name(box["name"])
    if name is not None:
        return Box(**{**box, "name": name})
    meant = classes.meant(box["name"])
    return Rejection("misspelt class", origin, f"{box['name']!r}, perhaps meant: {meant!r}") if meant else None


def repair_box(box: Box, origin: str, width: int, height: int) -> tuple[Box | Rejection, list[Repair]]:
    """The box with its corners in order and clipped to the image, and what was done for that."""
    repairs = []
    x1, x2 = sorted((box["x1"], box["x2"]))
    y1, y2 = sorted((box["y1"], box["y2"]))
    mended = Box(**{**box, "x1": x1, "y1": y1, "x2": x2, "y2": y2})
    if mended != box:
        repairs.append(Repair("swapped corners", origin, corners(box), corners(mended)))
    if x1 == x2 or y1 == y2:
        return Rejection("box without area", origin, corners(box)), []
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return Rejection("box outside", origin, f"{corners(box)} in an image of {width} x {height}"), []
    inside = {"x1": max(0.0, x1), "y1": max(0.0, y1), "x2": min(float(width), x2), "y2": min(float(height), y2)}
    clipped = Box(**{**mended, **inside})  # type: ignore[typeddict-item]
    if clipped != mended:
        repairs.append(Repair("clipped box", origin, corners(mended), corners(clipped)))
    problem = box_problem(clipped, width, height)
    return (Rejection("impossible box", origin, f"{corners(box)} {problem}"), []) if problem else (clipped, repairs)


def clean_boxes(
    row: Imported, width: int, height: int, classes: ClassRules
) -> tuple[list[Box] | Rejection, list[Repair], list[str]]:
    """The wanted boxes of a record, mended, or what is wrong with one; what was mended; the names of boxes left out."""
    boxes: list[Box] = []
    repairs: list[Repair] = []
    unwanted: list[str] = []
    for box, origin in zip(row.record["boxes"] or [], row.box_origins, strict=True):
        mapped = map_class(box, origin, classes)
        if isinstance(mapped, Rejection):
            return mapped, [], []
        if mapped is None:
            unwanted.append(box["name"])
            continue
        mended, done = repair_box(mapped, origin, width, height)
        if isinstance(mended, Rejection):
            return mended, [], []
        boxes.append(_fitting_segmentation(mended, width, height))
        repairs += done
    return boxes, repairs, unwanted


def clean_record(
    row: Imported, facts: dict[str, Any], classes: ClassRules, trust_image_size: bool = False
) -> tuple[Record | Rejection, list[Repair], list[str]]:
    """A record fit for training or the first reason against it; what was mended; the names of boxes left out."""
    verdict = judge_image(row, facts, trust_image_size)
    if isinstance(verdict, Rejection):
        return verdict, [], []
    record = row.record
    width, height = facts["width"], facts["height"]
    repairs = [verdict] if verdict else []
    unwanted: list[str] = []
    boxes = record["boxes"]
    if boxes is not None:
        cleaned, done, unwanted = clean_boxes(row, width, height, classes)
        if isinstance(cleaned, Rejection):
            return cleaned, [], []
        boxes = cleaned
        repairs += done
    known = {"width": width, "height": height, "sha256": facts["sha256"], "boxes": boxes}
    complete = implied(Record(**{**record, **known}))  # type: ignore[typeddict-item]
    against = contradictions(complete)
    return (Rejection("contradiction", row.origin, against[0]) if against else complete), repairs, unwanted


def corners(box: Box) -> str:
    """A box's coordinates for a message."""
    return "(" + ", ".join(f"{box[key]:g}" for key in ("x1", "y1", "x2", "y2")) + ")"


def _fitting_segmentation(box: Box, width: int, height: int) -> Box:
    """Run lengths of another size than the image's say nothing of it."""
    rle = box["segmentation"]
    return box if rle is None or rle["size"] == [height, width] else Box(**{**box, "segmentation": None})
