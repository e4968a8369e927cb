"""Fourfold's JSON interchange form: an array with an array for each image, [image, labels, counts, boxes, mask].

Specification: Datasets/format/records.py. A trailing part may be missing, a missing part between is null;
neither is the same as an empty one. labels: a string or an array of strings. counts: {"car": 2}, or an array of such
objects. boxes: an array of {"name", "x1", "x2", "y1", "y2"} in pixels. mask: the path of a PNG file, relative as the
image is; classes.json beside the file says which class a value of its pixels stands for: {"car": 0} makes 1 a car.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import msgspec

from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.sources.annotation_files import CLASSES, decode_json, mask_names, only_file
from Data_processing.sources.files import SourceFiles, inside
from Datasets.format.files import visible
from Datasets.format.records import Count, is_safe_path
from Datasets.tools.errors import UserError

PARTS = ("image", "labels", "counts", "boxes", "mask")
MAX_COUNT = 2**31 - 1


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The file named, or metadata.json, or the only .json file that is not classes.json. Raises UserError."""
    names = [name for name in visible(files.names(), {".json"}) if PurePosixPath(name).name != CLASSES]
    own = [name for name in names if PurePosixPath(name).name == "metadata.json"]
    return only_file(files, own or names, "JSON", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, else the file's own, else the source) and the records."""
    file = found[0]
    entries: Any = decode_json(files, file, Any, "array of images")
    if not isinstance(entries, list):
        raise UserError(f"{files.path}: {file}: no array of images [{', '.join(PARTS)}]")
    names = files.names()
    own, folder = file.rpartition("/")[0], options.images
    if folder is None:
        present = set(names)
        first = (entry[0] for entry in entries if isinstance(entry, list) and entry and isinstance(entry[0], str))
        folder = own if any(inside(own, image) in present for image in first) else ""
    masks = any(isinstance(entry, list) and len(entry) == len(PARTS) and entry[4] is not None for entry in entries)
    classes = mask_names(files, own, names) if masks else None
    return folder, (_record(entry, f"{file}: entry {number}", folder, classes) for number, entry in enumerate(entries))


def _record(entry: Any, origin: str, folder: str, classes: dict[int, str] | None) -> Imported:
    if not isinstance(entry, list) or not 1 <= len(entry) <= len(PARTS) or not isinstance(entry[0], str):
        problem = f"{_short(entry)} is no array [{', '.join(PARTS)}] that begins with a file name"
        return Imported(origin, origin, problems=[("malformed annotation", problem)])
    image, labels, counts, boxes, mask = entry + [None] * (len(PARTS) - len(entry))
    row = Imported(inside(folder, image) if image else "", origin)
    try:
        row.labels = None if labels is None else _labels(labels)
        row.counts = None if counts is None else _counts(counts)
        row.mask = None if mask is None else _mask(mask, folder)
    except ValueError as error:
        row.problems.append(("malformed annotation", str(error)))
    row.mask_names = None if row.mask is None else classes
    if boxes is not None:
        _add_boxes(row, boxes)
    return row


def _labels(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"labels are neither a string nor strings: {_short(value)}")
    return names


def _counts(value: Any) -> list[Count]:
    parts = [value] if isinstance(value, dict) else value
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"counts are neither an object nor objects: {_short(value)}")
    counts = [Count(name=name, count=number) for part in parts for name, number in part.items()]
    for count in counts:
        if type(count["count"]) is not int or not 0 <= count["count"] <= MAX_COUNT or not count["name"]:
            raise ValueError(f"a count that is none: {_short(dict(count))}")
    return counts


def _mask(value: Any, folder: str) -> str:
    if not isinstance(value, str) or not is_safe_path(inside(folder, value)):
        raise ValueError(f"a mask that is no path inside the source: {_short(value)}")
    return inside(folder, value)


def _add_boxes(row: Imported, boxes: Any) -> None:
    if not isinstance(boxes, list):
        row.problems.append(("malformed annotation", f"boxes are no array: {_short(boxes)}"))
        return
    row.boxes = []
    for number, box in enumerate(boxes):
        origin = f"{row.origin}, box {number}"
        corners: list[Any] = [box.get(key) for key in ("x1", "y1", "x2", "y2")] if isinstance(box, dict) else []
        name = box.get("name") if corners else None
        if isinstance(name, str) and name and all(map(_is_coordinate, corners)):
            x1, y1, x2, y2 = map(float, corners)
            row.boxes.append(ImportedBox(name, x1, y1, x2, y2, origin))
        else:
            row.problems.append(("malformed box", f"{_short(box)} is no name, x1, y1, x2, y2 at {origin}"))


def _is_coordinate(value: Any) -> bool:
    """Whether it is a number that is finite as a float; an integer can be too large for one."""
    return type(value) in (int, float) and abs(value) < 1e300


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
