"""The rules for a record: pure functions of what a source states and what its image shows.

Default thresholds are meant for photographs: they reject what no annotator could have seen anything in.
"""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from Data_processing import own_rules
from Data_processing.cleaning.box_rules import BoxRules, clean_boxes
from Data_processing.cleaning.verdicts import Rejection, Repair
from Data_processing.shared.imported import Imported
from Data_processing.shared.inspected import Facts
from Datasets.format.classes import ClassRules
from Datasets.format.images import VOID
from Datasets.format.records import Count, Record, contradictions, empty_record, implied


@dataclass(frozen=True)
class ImageRules:
    """Which images can be used.

    trust_image_size: where the annotated size is wrong, take the true one. min_side, max_side: pixels of the shorter
    and of the longer side. max_aspect: longer by shorter side. min_contrast: standard deviation of luma. min_sharpness:
    variance of the Laplacian. min_brightness, max_brightness: mean luma. Luma is 0 to 255; sharpness is that of an
    image of 512 pixels of the longer side, nearly (image_facts.py). At 3, about half of the photographs blurred by a
    Gaussian of radius 3 are rejected.
    """

    trust_image_size: bool = False
    min_side: int = 16
    max_side: int = 30_000
    max_aspect: float = 20.0
    min_contrast: float = 2.0
    min_sharpness: float = 3.0
    min_brightness: float = 2.0
    max_brightness: float = 254.0  # products on white come close


@dataclass(frozen=True)
class OwnRule:
    """A rule of the team's. check: returns the value at fault of a record to reject, else None."""

    name: str
    check: Callable[[Record, Facts], str | None]
    remedy: str


def find_own_rules() -> tuple[OwnRule, ...]:
    """The modules of Data_processing/own_rules, by name; see the README there."""
    names = sorted(module.name for module in pkgutil.iter_modules(own_rules.__path__))
    modules = {name: importlib.import_module(f"{own_rules.__name__}.{name}") for name in names}
    return tuple(OwnRule(name.replace("_", " "), m.check, m.REMEDY) for name, m in modules.items())


@dataclass(frozen=True)
class Rules:
    """All that the clean stage judges by. keep_negatives: whether an image of which no kept class is left is kept."""

    images: ImageRules = field(default_factory=ImageRules)
    boxes: BoxRules = field(default_factory=BoxRules)
    keep_negatives: bool = True
    own: tuple[OwnRule, ...] = ()


@dataclass(frozen=True)
class Cleaned:
    """A record fit for training, what was repaired, and what was left out as not wanted.

    mask_names: the wanted name that each value in the record's mask file stands for. unwanted: of each class how many
    boxes, or how many by counts; 1 of a class that only labels or the mask show.
    """

    record: Record
    mask_names: dict[int, str]
    repairs: list[Repair] = field(default_factory=list)
    unwanted: Counter[str] = field(default_factory=Counter)


def clean_record(row: Imported, source: str, facts: Facts, mask: Facts | None, rules: Rules) -> Cleaned | Rejection:
    """Judge one record; if more than one thing is wrong with it, the first is named.

    facts: of its image. mask: of its mask file, if it names one.
    """
    verdict = judge_image(row, facts, rules.images)
    if isinstance(verdict, Rejection):
        return verdict
    fault = judge_mask(row, facts, mask)
    if fault:
        return fault
    assert facts.width is not None
    assert facts.height is not None
    cleaned = clean_boxes(row, facts.width, facts.height, rules.boxes)
    if isinstance(cleaned, Rejection):
        return cleaned
    names = named(row, mask, rules.boxes.classes)
    if isinstance(names, Rejection):
        return names
    known = {
        "width": facts.width,
        "height": facts.height,
        "sha256": facts.sha256,
        "group": row.group,
        "split": row.split,
    }
    said = names.labels is not None or names.counts is not None  # else labels come from the boxes and the mask
    shown = {*names.of_mask.values(), *(box["name"] for box in cleaned.boxes)}
    stated = {
        "labels": names.labels if said or mask is None else sorted(shown),
        "counts": names.counts,
        "boxes": None if row.boxes is None else cleaned.boxes,
        "mask": None if row.mask is None else {"bytes": None, "path": row.mask},
    }
    record = implied(Record(**{**empty_record(row.image, source), **known, **stated}))  # type: ignore[typeddict-item]
    unwanted = Counter(cleaned.unwanted) | names.unwanted
    against = contradictions(record) if said else []
    if against:
        return Rejection("contradiction", row.origin, against[0])
    if unwanted and not (record["labels"] or names.of_mask) and not rules.keep_negatives:
        return Rejection("no kept class", row.origin, ", ".join(sorted(unwanted)))
    for rule in rules.own:
        if value := rule.check(record, facts):
            return Rejection(rule.name, row.origin, value, rule.remedy)
    return Cleaned(record, names.of_mask, [*([verdict] if verdict else []), *cleaned.repairs], unwanted)


def judge_image(row: Imported, facts: Facts, rules: ImageRules) -> Rejection | Repair | None:
    """Whether the image can be used and is the one that was annotated; a Repair if only the stated size was wrong."""
    if row.problems:
        return Rejection(row.problems[0][0], row.origin, row.problems[0][1])
    if facts.sha256 is None:
        return Rejection("missing image", row.origin, facts.reason or "")
    if facts.reason is not None:
        return Rejection("unreadable image", row.origin, facts.reason)
    if facts.brightness is None:
        return Rejection("wrong mask", row.origin, f"{row.image} is named as an image and as a mask")
    if all(stated is None for stated in (row.labels, row.counts, row.boxes, row.mask)):
        return Rejection("no annotation", row.origin, row.image)
    fault = next(judge_look(facts, rules), None)
    if fault:
        return Rejection(fault[0], row.origin, fault[1])
    stated, true = (row.width, row.height), (facts.width, facts.height)
    if None in stated or stated == true:
        return None
    before, after = f"{stated[0]} x {stated[1]}", f"{true[0]} x {true[1]}"
    if rules.trust_image_size:
        return Repair("wrong size", row.origin, before, after)
    turned = ": turned, as by EXIF, so were the boxes drawn on it upright?" if stated == true[::-1] else ""
    return Rejection("wrong size", row.origin, f"annotated for {before}, the image is {after}{turned}")


def judge_look(facts: Facts, rules: ImageRules) -> Iterator[tuple[str, str]]:
    """The rules, each with the value at fault, by which an image that can be read is still of no use."""
    assert facts.width is not None
    assert facts.height is not None
    short, long = sorted((facts.width, facts.height))
    size = f"{facts.width} x {facts.height}"
    if short < rules.min_side:
        yield "too small", f"{size}, clean.min_side is {rules.min_side}"
    if long > rules.max_side:
        yield "too large", f"{size}, clean.max_side is {rules.max_side}"
    if long > rules.max_aspect * short:
        yield "extreme shape", f"{size}, clean.max_aspect is {rules.max_aspect:g}"
    assert facts.brightness is not None
    assert facts.contrast is not None
    assert facts.sharpness is not None
    if facts.brightness < rules.min_brightness:
        yield "too dark", f"brightness {facts.brightness:.1f}, clean.min_brightness is {rules.min_brightness:g}"
    if facts.brightness > rules.max_brightness:
        yield "too bright", f"brightness {facts.brightness:.1f}, clean.max_brightness is {rules.max_brightness:g}"
    if facts.contrast < rules.min_contrast:
        yield "blank", f"contrast {facts.contrast:.1f}, clean.min_contrast is {rules.min_contrast:g}"
    if facts.sharpness < rules.min_sharpness:
        yield "blurred", f"sharpness {facts.sharpness:.1f}, clean.min_sharpness is {rules.min_sharpness:g}"


def judge_mask(row: Imported, facts: Facts, mask: Facts | None) -> Rejection | None:
    """Whether the mask file that a record names, if it does, can be used."""
    if row.mask is None or mask is None:
        return None
    if mask.reason is not None:
        return Rejection("unreadable mask", row.origin, f"{row.mask}: {mask.reason}")
    if (mask.width, mask.height) != (facts.width, facts.height):
        sizes = f"{mask.width} x {mask.height}, the image is {facts.width} x {facts.height}"
        return Rejection("wrong mask", row.origin, f"{row.mask} is {sizes}")
    unknown = set(mask.values or ()).difference(row.mask_names or (), (0, VOID))
    return Rejection("unknown mask value", row.origin, f"{row.mask}: {min(unknown)}") if unknown else None


@dataclass(frozen=True)
class Names:
    """Labels and counts under their wanted names, those of the values in the mask, and how many are left out."""

    labels: list[str] | None
    counts: list[Count] | None
    of_mask: dict[int, str]
    unwanted: Counter[str]


def named(row: Imported, mask: Facts | None, classes: ClassRules) -> Names | Rejection:
    """What a record states of its image as a whole, in wanted names. mask: facts of its mask file, if any."""
    values = set(mask.values or ()) if mask else set()
    of_mask = {value: name for value, name in (row.mask_names or {}).items() if value in values}
    stated = Counter(dict.fromkeys((*(row.labels or ()), *of_mask.values()), 1))
    counted: Counter[str] = Counter()
    for count in row.counts or ():
        counted[count["name"]] += count["count"]
    for name in (*stated, *counted):
        if not name.strip():
            return Rejection("unknown category", row.origin, "a class without a name")
        if meant := classes.meant(name):
            return Rejection("misspelt class", row.origin, f"{name!r}, perhaps meant: {meant!r}")
    labels = None if row.labels is None else sorted({ours for name in row.labels if (ours := classes.name(name))})
    totals: Counter[str] = Counter()
    for name, number in counted.items():
        totals[classes.name(name) or ""] += number
    del totals[""]
    counts = None if row.counts is None else [Count(name=name, count=n) for name, n in sorted(totals.items()) if n]
    wanted = {value: ours for value, name in of_mask.items() if (ours := classes.name(name))}
    unwanted = Counter({name: n for name, n in (stated | counted).items() if classes.name(name) is None})
    return Names(labels, counts, wanted, unwanted)
