"""Fourfold's JSON interchange form: an array with an array for each image, [image, labels, counts, boxes, mask].

A trailing part may be missing, a missing part between is null; neither is the same as an empty one. labels: a string or
an array of strings. counts: {"car": 2}, or an array of such objects. boxes: an array of {"name", "x1", "x2", "y1",
"y2"} in pixels. mask: the path of a PNG file, relative as the image is; classes.json beside the file says which class a
value of its pixels stands for: {"car": 0} makes 1 a car.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated

import msgspec

from Data_processing.shared.annotation_files import CLASSES, decode_json, mask_names, only_file
from Data_processing.shared.files import SourceFiles, inside
from Data_processing.shared.image_names import guess_folder
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Datasets.format.files import visible
from Datasets.format.records import Count, is_safe_path

Name = Annotated[str, msgspec.Meta(min_length=1)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Box(msgspec.Struct):
    """An object."""

    name: Name
    x1: float
    y1: float
    x2: float
    y2: float


class Entry(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An image; a box is decoded by itself, so that a wrong one is a problem of its own."""

    image: str
    labels: Name | list[Name] | None = None
    counts: dict[Name, Number] | list[dict[Name, Number]] | None = None
    boxes: list[msgspec.Raw] | None = None
    mask: str | None = None


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The file named, or metadata.json, or the only .json file that is not classes.json. Raises UserError."""
    names = [name for name in visible(files.names(), {".json"}) if PurePosixPath(name).name != CLASSES]
    own = [name for name in names if PurePosixPath(name).name == "metadata.json"]
    return only_file(files, own or names, "JSON", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or as the source's files suggest) and the records."""
    file, names = found[0], set(files.names())
    parts: list[msgspec.Raw] = decode_json(files, file, list[msgspec.Raw], "array of images")
    entries = [_decode(part) for part in parts]
    whole = [entry for entry in entries if isinstance(entry, Entry)]
    own, folder = file.rpartition("/")[0], options.images
    if folder is None:
        folder = guess_folder(files, file, (entry.image for entry in whole), names)
    classes = mask_names(files, own, names) if any(entry.mask is not None for entry in whole) else {}
    return folder, (_record(entry, f"{file}: entry {number}", folder, classes) for number, entry in enumerate(entries))


def _decode(part: msgspec.Raw) -> Entry | str:
    """The entry, or why it is none."""
    try:
        return msgspec.json.decode(part, type=Entry)
    except msgspec.DecodeError as error:
        return f"{error} in {_short(part)}"


def _record(entry: Entry | str, origin: str, folder: str, classes: dict[int, str]) -> Imported:
    if isinstance(entry, str):
        return Imported(origin, origin, problems=[("malformed annotation", entry)])
    row = Imported(inside(folder, entry.image) if entry.image else "", origin)
    row.labels = [entry.labels] if isinstance(entry.labels, str) else entry.labels
    if entry.counts is not None:
        counts = [entry.counts] if isinstance(entry.counts, dict) else entry.counts
        row.counts = [Count(name=name, count=number) for part in counts for name, number in part.items()]
    if entry.mask is not None:
        row.mask, row.mask_names = inside(folder, entry.mask), classes
        if not is_safe_path(row.mask):
            row.mask, row.mask_names = None, None
            row.problems.append(("malformed annotation", f"a mask that is no path inside the source: {entry.mask:.80}"))
    if entry.boxes is not None:
        row.boxes = []
        for number, part in enumerate(entry.boxes):
            place = f"{origin}, box {number}"
            try:
                box = msgspec.json.decode(part, type=Box)
                row.boxes.append(ImportedBox(box.name, box.x1, box.y1, box.x2, box.y2, place))
            except msgspec.DecodeError as error:
                row.problems.append(("malformed box", f"{error} in {_short(part)} at {place}"))
    return row


def _short(part: msgspec.Raw) -> str:
    text = bytes(part).decode(errors="replace")
    return text if len(text) <= 80 else f"{text[:77]}..."
