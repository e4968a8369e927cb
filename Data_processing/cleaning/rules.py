"""What the clean stage judges records by: thresholds meant for photographs, the team's own rules; and its verdicts."""

import csv
import importlib
import io
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from typer import Option

from Data_processing import own_rules
from Data_processing.shared.inspected import Facts
from Datasets.format.classes import ClassRules
from Datasets.format.files import decode_text
from Datasets.format.records import Record
from Datasets.tools.errors import UserError

EXCLUDED_COLUMNS = ("source", "image", "sha256", "reason")

REMEDIES = {
    "outside the source": "correct the file name in the annotation",
    "second record": "delete all but one, or join them",
    "repeated id": "give each image its own id: their annotations cannot be distinguished",
    "unlisted image": "list the image in the annotation file, or delete these annotations",
    "unknown category": "add the category to the annotation file, or correct the id",
    "malformed annotation": "correct the annotation file",
    "malformed box": "draw the box again",
    "malformed segmentation": "draw the object again",
    "missing image": "add the image, correct its name, or delete its annotation",
    "unmatched labels": "name the label file as its image is named, or delete it",
    "ambiguous image": "name the image with its folder, or set the source's `images`",
    "unreadable image": "replace the image file",
    "value range": "correct `range` in the source's entry, or replace the image file",
    "no annotation": "annotate it in a source with `corrects`, or list it in the file that clean.exclude names",
    "wrong size": "correct the annotated size; if only that is wrong and the boxes fit, set clean.trust_image_size",
    "resized image": "annotate the image in its own size, or export fractions, as YOLO has them",
    "too small": "use a larger image, or lower clean.min_side",
    "too large": "use a smaller image, or raise clean.max_side",
    "extreme shape": "crop it, or raise clean.max_aspect",
    "blank": "use an image that shows something, or lower clean.min_contrast",
    "blurred": "use a sharper image, or lower clean.min_sharpness",
    "too dark": "use a brighter image, or lower clean.min_brightness",
    "too bright": "use a darker image, or raise clean.max_brightness",
    "unreadable mask": "replace the mask file",
    "wrong mask": "use the mask of this image",
    "several masks": "set the source's `annotations` to the right ones, or `instances` if each is of objects",
    "unknown mask value": "say what class the value stands for, or draw the mask again",
    "misspelt class": "correct the name, or list it in clean.rename or clean.drop",
    "no kept class": "nothing, or set clean.without_kept to negative",
    "box without area": "draw the box again",
    "box outside": "draw the box again",
    "box too small": "draw the box again, or lower clean.min_box",
    "box covers all": "draw the box again, or raise clean.max_box_share",
    "impossible box": "draw the box again",
    "contradiction": "make labels, counts and boxes agree",
    "conflicting duplicates": "annotate the copies of one image alike, or keep one; if the newer source corrects the "
    "other, write `corrects: [OTHER]` into its entry in params.yaml",
    "excluded": "nothing, or delete its line in the file that clean.exclude names",
}


class Rejection(Exception):
    """Raised by a rule. rule: its name. origin: file and line or id. value: what is at fault. remedy: what helps."""

    def __init__(self, rule: str, origin: str, value: str, remedy: str = "") -> None:
        super().__init__(rule, origin, value, remedy)
        self.rule, self.origin, self.value, self.remedy = rule, origin, value, remedy or REMEDIES[rule]


@dataclass(frozen=True)
class Repair:
    """What was repaired: the rule, the file and line or id, the value before and after."""

    rule: str
    origin: str
    before: str
    after: str


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


def read_exclusions(path: Path) -> dict[str, str]:
    """The reason of each SOURCE/IMAGE or sha256 in a CSV file of EXCLUDED_COLUMNS. Raises UserError."""
    text = decode_text(path.read_bytes(), path)
    lines = csv.DictReader(io.StringIO(text, newline=None), delimiter=";" if ";" in text.partition("\n")[0] else ",")
    header = [name.strip().lower() for name in lines.fieldnames or ()]
    columns, found = ",".join(EXCLUDED_COLUMNS), dict[str, str]()
    if header and not ("reason" in header and {"image", "sha256"}.intersection(header)):
        raise UserError(f"{path}: its first line is {','.join(header)!r:.80}; it must name the columns, {columns}")
    lines.fieldnames = header
    for line in lines:
        source, image, sha256, reason = ((line.get(column) or "").strip() for column in EXCLUDED_COLUMNS)
        keys = [key for key in (f"{source}/{image}" if source and image else image, sha256.lower()) if key]
        if not any((source, *keys, reason)):
            continue
        if not keys or not reason:
            raise UserError(f"{path}: line {lines.line_num}: needs an image or sha256, and a reason ({columns})")
        found |= dict.fromkeys(keys, reason)
    return found


@dataclass(frozen=True)
class Rules:
    """All that a record is judged by; those with a help are options of the command.

    min_sharpness is for images of 512 pixels; 3 rejects about half of photographs blurred by a Gaussian of radius 3.
    """

    classes: ClassRules = field(default_factory=ClassRules)
    keep_negatives: bool = True  # images of which no kept class is left
    own: tuple[OwnRule, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)  # SOURCE/IMAGE or sha256 to the reason
    trust_image_size: Annotated[bool, Option(help="take the true size where the annotated one differs")] = False
    min_side: Annotated[int, Option(min=1, help="pixels of the shorter side")] = 16
    max_side: Annotated[int, Option(min=1, help="pixels of the longer side")] = 30_000
    max_aspect: Annotated[float, Option(min=1, help="longer by shorter side")] = 20.0
    min_contrast: Annotated[float, Option(help="standard deviation of luma")] = 2.0
    min_sharpness: Annotated[float, Option(help="variance of the Laplacian")] = 3.0
    min_brightness: Annotated[float, Option(help="mean luma, 0 to 255")] = 2.0
    max_brightness: Annotated[float, Option(help="mean luma, 0 to 255")] = 254.0  # products on white come close
    max_box_share: Annotated[float, Option(min=0, max=1, help="of the image's area")] = 1.0
    min_box: Annotated[float, Option(min=0, help="pixels of a box's shorter side")] = 2.0
    doubled_iou: Annotated[float, Option(min=0, max=1, help="doubled boxes; 0: none")] = 0.95
