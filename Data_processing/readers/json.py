"""Fourfold's JSON interchange form: an array with an array for each image, [image, labels, counts, boxes, mask].

A trailing part may be missing, a missing part between is null; neither is the same as an empty one. labels: a string or
an array of strings. counts: {"car": 2}, or an array of such objects. boxes: an array of {"name", "x1", "x2", "y1",
"y2"} in pixels. mask: the path of a PNG file, relative as the image is; classes.json beside the file says which class a
value of its pixels stands for: {"car": 0} makes 1 a car.
"""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any

import msgspec

from Data_processing.shared.annotation_files import CLASSES, decode_json, mask_names, only_file
from Data_processing.shared.files import SourceFiles, inside
from Data_processing.shared.image_names import find_folder
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Datasets.format.files import visible
from Datasets.format.records import Count, is_safe_path

Name = Annotated[str, msgspec.Meta(min_length=1)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Box(msgspec.Struct):
    """An object; only Parquet files state the last two."""

    name: Name
    x1: float
    y1: float
    x2: float
    y2: float
    crowd: bool | None = None
    segmentation: dict[str, Any] | None = None


class Entry(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An image; a box is converted by itself, so that a wrong one is a problem of its own."""

    image: str
    labels: Name | list[Name] | None = None
    counts: dict[Name, Number] | list[dict[Name, Number]] | None = None
    boxes: list[Any] | None = None
    mask: str | None = None


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The file named, or metadata.json, or the only .json file that is not classes.json. Raises UserError."""
    names = [name for name in visible(files.names(), {".json"}) if PurePosixPath(name).name != CLASSES]
    own = [name for name in names if PurePosixPath(name).name == "metadata.json"]
    return only_file(files, own or names, "JSON", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or as the source's files suggest) and the records."""
    file, names = found[0], set(files.names())
    entries: list[Any] = decode_json(files, file, list[Any], "array of images")
    named = [entry for entry in entries if isinstance(entry, list) and entry and isinstance(entry[0], str)]
    folder = find_folder(files, options, file, (entry[0] for entry in named))
    classes = mask_names(files, file, names) if any(entry[4:5] not in ([], [None]) for entry in named) else {}
    return folder, (_record(entry, f"{file}: entry {number}", folder, classes) for number, entry in enumerate(entries))


def _record(stated: Any, origin: str, folder: str, classes: dict[int, str]) -> Imported:
    try:
        entry = msgspec.convert(stated, Entry)
    except msgspec.ValidationError as error:
        return Imported(origin, origin, problems=[("malformed annotation", f"{error} in {stated!s:.80}")])
    row = Imported(inside(folder, entry.image) if entry.image else "", origin)
    row.labels = [entry.labels] if isinstance(entry.labels, str) else entry.labels
    if entry.counts is not None:
        counts = [entry.counts] if isinstance(entry.counts, dict) else entry.counts
        row.counts = [Count(name=name, count=number) for part in counts for name, number in part.items()]
    add_mask(row, None if entry.mask is None else inside(folder, entry.mask), classes)
    add_boxes(row, entry.boxes)
    return row


def add_mask(row: Imported, path: str | None, names: dict[int, str]) -> None:
    """Add a mask, if there is one. names: what the values of its pixels mean."""
    if path is not None and is_safe_path(path):
        row.mask, row.mask_names = path, names
    elif path is not None:
        row.problems.append(("outside the source", f"mask {path!r:.200}"))


def add_boxes(row: Imported, boxes: Iterable[Any] | None) -> None:
    """Add boxes, if there may be some, and the problems of what is none."""
    if boxes is None:
        return
    row.boxes = []
    for number, stated in enumerate(boxes):
        origin = f"{row.origin}, box {number}"
        try:
            box = msgspec.convert(stated, Box)
        except msgspec.ValidationError as error:
            row.problems.append(("malformed box", f"{error} in {stated!s:.80} at {origin}"))
            continue
        outline = None if box.segmentation is None else msgspec.json.encode(box.segmentation)
        row.boxes.append(ImportedBox(box.name, box.x1, box.y1, box.x2, box.y2, origin, bool(box.crowd), outline))
