"""The rules for a record: pure functions of what a source states and what its image shows.

Default thresholds are meant for photographs: they reject what no annotator could have seen anything in.
"""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from Data_processing import own_rules
from Data_processing.cleaning.box_rules import BoxRules, clean_boxes, wanted_name
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


def clean_record(row: Imported, source: str, facts: Facts, mask: Facts | None, rules: Rules) -> Cleaned:
    """Judge one record; if more than one thing is wrong with it, Rejection is raised for the first.

    facts: of its image. mask: of its mask file, if it names one.
    """
    repairs = judge_image(row, facts, rules.images)
    judge_mask(row, facts, mask)
    width, height = facts.width or 0, facts.height or 0
    cleaned, names = clean_boxes(row, width, height, rules.boxes), wanted_names(row, mask, rules.boxes.classes)
    record = empty_record(row.image, source)
    record |= {"width": width, "height": height, "sha256": facts.sha256, "group": row.group, "split": row.split}
    record |= {"labels": names.labels, "counts": names.counts}
    if row.boxes is not None:
        record["boxes"] = cleaned.boxes
    if row.mask is not None:
        record["mask"] = {"bytes": None, "path": row.mask}
    as_a_whole = names.labels is not None or names.counts is not None
    if not as_a_whole and mask is not None:
        record["labels"] = sorted({*names.of_mask.values(), *(box["name"] for box in cleaned.boxes)})
    record = implied(record)
    unwanted = Counter(cleaned.unwanted) | names.unwanted
    if as_a_whole and (found := contradictions(record)):
        raise Rejection("contradiction", row.origin, found[0])
    if unwanted and not (record["labels"] or names.of_mask) and not rules.keep_negatives:
        raise Rejection("no kept class", row.origin, ", ".join(sorted(unwanted)))
    for rule in rules.own:
        if value := rule.check(record, facts):
            raise Rejection(rule.name, row.origin, value, rule.remedy)
    return Cleaned(record, names.of_mask, [*repairs, *cleaned.repairs], unwanted)


def judge_image(row: Imported, facts: Facts, rules: ImageRules) -> list[Repair]:
    """Raise Rejection unless the image can be used and is the one annotated; returns what was wrong with its size."""
    for rule, value in row.problems:
        raise Rejection(rule, row.origin, value)
    if facts.sha256 is None:
        raise Rejection("missing image", row.origin, facts.reason or "")
    if facts.reason is not None:
        raise Rejection("unreadable image", row.origin, facts.reason)
    if facts.brightness is None:
        raise Rejection("wrong mask", row.origin, f"{row.image} is named as an image and as a mask")
    if all(stated is None for stated in (row.labels, row.counts, row.boxes, row.mask)):
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


def look_rules(facts: Facts, rules: ImageRules) -> list[tuple[str, bool, str]]:
    """By what an image that can be read is still of no use: rule, whether it is broken, the value."""
    short, long = sorted((facts.width or 0, facts.height or 0))
    brightness, contrast, sharpness = facts.brightness or 0.0, facts.contrast or 0.0, facts.sharpness or 0.0
    size, luma = f"{facts.width} x {facts.height}", f"brightness {brightness:.1f}"

    def value(measured: str, limit: str) -> str:
        return f"{measured}, clean.{limit} is {getattr(rules, limit):g}"

    return [
        ("too small", short < rules.min_side, value(size, "min_side")),
        ("too large", long > rules.max_side, value(size, "max_side")),
        ("extreme shape", long > rules.max_aspect * short, value(size, "max_aspect")),
        ("too dark", brightness < rules.min_brightness, value(luma, "min_brightness")),
        ("too bright", brightness > rules.max_brightness, value(luma, "max_brightness")),
        ("blank", contrast < rules.min_contrast, value(f"contrast {contrast:.1f}", "min_contrast")),
        ("blurred", sharpness < rules.min_sharpness, value(f"sharpness {sharpness:.1f}", "min_sharpness")),
    ]


def judge_mask(row: Imported, facts: Facts, mask: Facts | None) -> None:
    """Raise Rejection if the mask file that a record names cannot be used."""
    if row.mask is None or mask is None:
        return
    if mask.reason is not None:
        raise Rejection("unreadable mask", row.origin, f"{row.mask}: {mask.reason}")
    if (mask.width, mask.height) != (facts.width, facts.height):
        sizes = f"{mask.width} x {mask.height}, the image is {facts.width} x {facts.height}"
        raise Rejection("wrong mask", row.origin, f"{row.mask} is {sizes}")
    if unknown := set(mask.values or ()).difference(row.mask_names or (), (0, VOID)):
        raise Rejection("unknown mask value", row.origin, f"{row.mask}: {min(unknown)}")


@dataclass(frozen=True)
class Names:
    """Labels and counts under their wanted names, those of the values in the mask, and how many are left out."""

    labels: list[str] | None
    counts: list[Count] | None
    of_mask: dict[int, str]
    unwanted: Counter[str]


def wanted_names(row: Imported, mask: Facts | None, classes: ClassRules) -> Names:
    """What a record states of its image as a whole, in wanted names. mask: facts of its mask file, if any."""
    values = set(mask.values or ()) if mask else set()
    in_mask = {value: name for value, name in (row.mask_names or {}).items() if value in values}
    stated = Counter(dict.fromkeys((*(row.labels or ()), *in_mask.values()), 1))
    counted: Counter[str] = Counter()
    for count in row.counts or ():
        counted[count["name"]] += count["count"]
    wanted = {name: wanted_name(name, row.origin, classes) for name in (*stated, *counted)}
    totals: Counter[str] = Counter()
    for name, number in counted.items():
        totals[wanted[name] or ""] += number
    del totals[""]
    return Names(
        None if row.labels is None else sorted({ours for name in row.labels if (ours := wanted[name])}),
        None if row.counts is None else [Count(name=name, count=n) for name, n in sorted(totals.items()) if n],
        {value: ours for value, name in in_mask.items() if (ours := wanted[name])},
        Counter({name: n for name, n in (stated | counted).items() if wanted[name] is None}),
    )
