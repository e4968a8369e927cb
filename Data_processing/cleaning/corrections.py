"""Corrections: records of one source replace the annotations of another's images, which stay where they are."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from posixpath import basename
from typing import NamedTuple

import msgspec
import pyarrow.parquet as pq

from Data_processing.cleaning.records import in_mask, in_pixels, states
from Data_processing.cleaning.rules import Repair
from Data_processing.shared.image_names import without_suffix
from Data_processing.shared.imported import About, Imported, ImportedBox, from_arrow
from Data_processing.shared.inspected import Facts
from Datasets.format.classes import ClassRules
from Datasets.format.files import TASK_DIGITS
from Datasets.tools.errors import UserError
from Datasets.tools.params import as_yaml

ALIKE = 64  # of 256 bits of the perceptual hash: images of one name that differ in more are two
OF_TASK = re.compile(f"-([0-9a-f]{{{TASK_DIGITS}}})$")  # an image's stem, as Datasets/tasks.py writes it
Place = tuple[str, str]  # a source and an image in it


@dataclass
class Source:
    """What the earlier stages wrote of a source: images of all records, mask files that these name, facts of each."""

    name: str
    imported: Path
    images: list[str]
    masks: set[str]
    facts: dict[str, Facts]
    about: About


class Correction(NamedTuple):
    """A record, its source, and the facts of its image and its mask."""

    source: str
    row: Imported
    fact: Facts
    mask: Facts | None


def find_corrections(sources: Sequence[Source]) -> dict[Place, Correction]:
    """The correction of each image, of several the last. Takes the images that are other sources' out of `sources`.

    Prints how many there are. Raises UserError for a source that there is not, and for tasks of one not named.
    """
    found: dict[Place, Correction] = {}
    named = {source.name: source for source in sources}
    for source in (each for each in sources if each.about.options.corrects):
        others, here, records = targets(source, named), dict[Place, Correction](), 0
        places = find_places(source, [named[name] for name in others])
        check_tasks(source, places, [each for name, each in named.items() if name not in (source.name, *others)])
        for batch in pq.ParquetFile(source.imported).iter_batches():
            for row in (row for row in from_arrow(batch) if row.image in places and states(row)):
                for other in {here[place].row.origin for place in places[row.image] if place in here}:
                    row.problems.append(("second record", f"in {source.name}, which corrects it; also {other}"))
                mask = source.facts[row.mask] if row.mask else None
                by = Correction(source.name, row, source.facts[row.image], mask)
                here |= dict.fromkeys(places[row.image], by)
                records += 1
        found |= here
        source.images = [image for image in source.images if image not in places]
        for image in places.keys() - source.masks:
            del source.facts[image]
        print(f"{source.name}: {records} records correct {', '.join(source.about.options.corrects)}", end="")
        new = source.images
        print(f"; {len(new)} images, such as {new[0]}, are not there and count as new" if new else "")
    return found


def targets(source: Source, named: Mapping[str, Source]) -> list[str]:
    """The sources that a source corrects, also through those that it names. Raises UserError for one that is none."""
    found = list(source.about.options.corrects)
    for name in found:  # which grows
        if name not in named or name == source.name:
            raise UserError(f"sources.{source.name}.corrects: {name!r} is no other source in params.yaml")
        found += [each for each in named[name].about.options.corrects if each not in (*found, source.name)]
    return found


def check_tasks(source: Source, places: Collection[str], rest: Sequence[Source]) -> None:
    """Raise UserError where labelling tasks of images of `rest`, sources that it does not correct, came back, too."""
    left = {
        digits: image
        for image in source.images
        if image not in places
        for digits in OF_TASK.findall(without_suffix(image))
    }
    facts = [(other.name, (fact.sha256 or "")[:TASK_DIGITS]) for other in rest for fact in other.facts.values()]
    if found := {name: left[digits] for name, digits in facts if digits in left}:
        name, image = next(iter(found.items()))
        every = as_yaml([*source.about.options.corrects, *found])
        raise UserError(f"sources.{source.name}: {image} is a task of {name}'s image; write `corrects: {every}` there")


def find_places(source: Source, others: Sequence[Source]) -> dict[str, list[Place]]:
    """Where in `others` a source's images are: the same file, or else the one alike of its path, or of its stem.

    The same file is also what the name of a labelling task's image, as Datasets/tasks.py writes it, says.
    """
    known: dict[Place, list[tuple[Place, int]]] = defaultdict(list)
    for target in others:
        for image, fact in target.facts.items():
            for key in _keys(fact, (fact.sha256 or "")[:TASK_DIGITS]) if fact.phash else ():
                known[key].append(((target.name, image), int.from_bytes(fact.phash or b"")))
    named = {image: "".join(OF_TASK.findall(without_suffix(image))) for image in source.facts}
    mine = Counter(key for image in {*source.images} for key in _keys(source.facts[image], named[image]))
    places = {}
    for image, fact in source.facts.items():
        look = int.from_bytes(fact.phash or b"")
        for key in _keys(fact, named[image]):
            same = [place for place, other in known[key] if not fact.phash or (look ^ other).bit_count() <= ALIKE]
            if same and (key[0] == "sha256" or (len(same) == 1 and mine[key] < 2)):
                places[image] = same
                break
    return places


def _keys(fact: Facts, digits: str) -> list[Place]:
    """What an image may be found by, the surest first. digits: the first ones of its sha256, if known."""
    file = [("sha256", known) for known in (fact.sha256, digits) if known]
    return [*file, ("path", fact.image), ("stem", without_suffix(basename(fact.image)))]


def corrected(
    old: Imported, fact: Facts, mask: Facts | None, by: Correction, classes: ClassRules
) -> tuple[Imported, Facts | None, list[Repair]]:
    """The record with a correction's annotations, the facts of its mask, and what has changed.

    Where its boxes are of the classes that were there, an old mask stays, and with such a mask alone old boxes; so does
    the outline of a box that it does not move. fact, mask: of the record's image and mask.
    """
    row, seen = by.row, by.mask
    boxes = row.boxes and [msgspec.structs.replace(box, origin=f"{by.source}: {box.origin}") for box in row.boxes]
    problems = [problem for problem in row.problems if problem[0] != "missing image"]
    new = replace(row, image=old.image, group=old.group, split=old.split, boxes=boxes, problems=problems)
    new.origin = f"{by.source}: {row.origin}"
    sizes = [(each.width, each.height) for each in (by.fact, fact)]
    if by.fact.width and sizes[0] != sizes[1] and boxes and not new.normalized:
        drawn_on, ours = (f"{width} x {height}" for width, height in sizes)
        problems.append(("resized image", f"the correction is of one of {drawn_on}, the image is {ours}"))
    if new.width is None and not new.normalized:
        new.width, new.height = by.fact.width, by.fact.height  # in whose pixels it is
    if new.normalized != old.normalized and not any(box.outline for box in boxes or ()):
        in_units(new, old.normalized, fact)
    drawn = [{classes.name(box.name) for box in each.boxes or ()} for each in (old, row)]
    in_masks = [in_mask(old, mask).values(), in_mask(row, seen).values()]
    masked = [{classes.name(name) for name in names if name} for names in in_masks]
    if row.boxes is None and row.labels is None and row.counts is None and masked[0] == masked[1]:
        new.boxes, new.normalized, new.width, new.height = old.boxes, old.normalized, old.width, old.height
    if row.mask is None and row.boxes is not None and drawn[0] == drawn[1]:
        new.mask, new.mask_names, seen = old.mask, old.mask_names, mask
    gone, added = changed(old, new, fact, classes)
    if seen is not mask:
        gone, added = [*gone, f"mask {old.mask or 'none'}"], [*added, f"mask {new.mask or 'none'}"]
    repair = Repair("corrected", new.origin, ", ".join(gone) or "nothing", ", ".join(added) or "nothing")
    return new, seen, [repair] if gone or added else []


def in_units(row: Imported, normalized: bool, fact: Facts) -> None:
    """Turn the boxes of a record, which have no outlines, into fractions of the image or pixels. fact: of the image."""
    width, height = fact.width or 1, fact.height or 1
    across, down = (1 / width, 1 / height) if normalized else (width, height)
    for box in row.boxes or ():
        box.x1, box.y1, box.x2, box.y2 = box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down
    row.normalized = normalized


def changed(old: Imported, new: Imported, fact: Facts, classes: ClassRules) -> tuple[list[str], list[str]]:
    """What only the old or only the new record states, in words. A box in the place of an old one takes its outline."""
    before, after = listed(old, fact, classes), listed(new, fact, classes)
    outlines = {words[words.rindex("(") :]: box.outline for words, box in before.items() if box}
    for words, box in after.items():
        if box and box.outline is None and old.normalized == new.normalized:
            box.outline = outlines.get(words[words.rindex("(") :])
    return [words for words in before if words not in after], [words for words in after if words not in before]


def listed(row: Imported, fact: Facts, classes: ClassRules) -> dict[str, ImportedBox | None]:
    """What the report calls each box, or else each count or label, of a record; with the box. CVAT has two decimals."""
    corners = [", ".join(f"{round(v, 2):.5g}" for v in in_pixels(box, row, fact)) for box in row.boxes or ()]
    boxes = zip(row.boxes or (), corners, strict=True)
    counts = [f"{count['count']} {count['name']}" for count in row.counts or ()] or row.labels or ()
    return dict.fromkeys(counts) if row.boxes is None else {f"{classes.ours(b.name)} ({at})": b for b, at in boxes}
