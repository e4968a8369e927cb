"""Fourfold's JSON interchange form: an array with an array for each image, [image, labels, counts, boxes, mask].

A trailing part may be missing, a missing part between is null; neither is the same as an empty one. labels: a string or
an array of strings. counts: {"car": 2}, or an array of such objects. boxes: an array of {"name", "x1", "x2", "y1",
"y2"} in pixels. mask: the path of a PNG file, relative as the image is; classes.json beside the file says which class a
value of its pixels stands for: {"car": 0} makes 1 a car.
"""

from collections.abc import Iterator
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
    file = found[0]
    entries: list[Any] = decode_json(files, file, list[Any], "array of images")
    named = [entry for entry in entries if isinstance(entry, list) and entry and isinstance(entry[0], str)]
    folder = find_folder(files, options, file, (entry[0] for entry in named))
    classes = mask_names(files, file) if any(entry[4:5] not in ([], [None]) for entry in named) else {}
    return folder, (record(entry, f"{file}: entry {number}", folder, classes) for number, entry in enumerate(entries))


def record(stated: Any, origin: str, folder: str, classes: dict[int, str]) -> Imported:
    """The record of an entry, with its problems if it is none. classes: what the values of masks' pixels mean."""
    try:
        entry = msgspec.convert(stated, Entry)
    except msgspec.ValidationError as error:
        return Imported(origin, origin, problems=[("malformed annotation", f"{error} in {stated!s:.80}")])
    row = Imported(inside(folder, entry.image) if entry.image else "", origin)
    row.labels = [entry.labels] if isinstance(entry.labels, str) else entry.labels
    if entry.counts is not None:
        counts = [entry.counts] if isinstance(entry.counts, dict) else entry.counts
        row.counts = [Count(name=name, count=number) for part in counts for name, number in part.items()]
    if entry.mask is not None:
        row.mask, row.mask_names = inside(folder, entry.mask), classes
        if not is_safe_path(row.mask):
            row.problems.append(("outside the source", f"mask {row.mask!r:.200}"))
            row.mask = row.mask_names = None
    if entry.boxes is not None:
        row.add_shapes(((f"{origin}, box {number}", box) for number, box in enumerate(entry.boxes)), _box)
    return row


def _box(stated: Any, origin: str) -> list[ImportedBox]:
    """Raises ValueError."""
    box = msgspec.convert(stated, Box)
    outline = None if box.segmentation is None else msgspec.json.encode(box.segmentation)
    return [ImportedBox(box.name, box.x1, box.y1, box.x2, box.y2, origin, bool(box.crowd), outline)]
