"""Records to and from the JSON interchange form.

A file is an array with an array for each image: `[image, labels, counts, boxes, mask]`.
labels: a string or an array of strings. counts: an object `{"car": 2}` or an array of such objects. boxes: an array of
`{"name", "x1", "x2", "y1", "y2"}`, in the record's coordinates. mask: a path. A trailing part may be missing; a missing
part between is null. The form cannot say: source, size, sha256, group, split, crowd, segmentation.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from Datasets.errors import UserError
from Datasets.records import Box, Count, Record, empty_record

PARTS = ("image", "labels", "counts", "boxes", "mask")


def to_json(record: Record) -> list[Any]:
    """One record as an array, without the missing parts at its end."""
    counts, boxes, mask = record["counts"], record["boxes"], record["mask"]
    entry = [
        record["image"],
        record["labels"],
        None if counts is None else {c["name"]: c["count"] for c in counts},
        None if boxes is None else [{key: box[key] for key in ("name", "x1", "x2", "y1", "y2")} for box in boxes],
        None if mask is None else mask["path"],
    ]
    while entry[-1] is None:
        entry.pop()
    return entry


def from_json(entry: Any, source: str, where: str) -> Record:
    """One array as a record of `source`. Raises UserError that begins with `where` and names the part at fault."""
    if not isinstance(entry, list) or not 1 <= len(entry) <= len(PARTS) or not isinstance(entry[0], str):
        raise UserError(f"{where}: {_short(entry)} is no array [{', '.join(PARTS)}] that begins with a file name")
    image, labels, counts, boxes, mask = entry + [None] * (len(PARTS) - len(entry))
    record = empty_record(image, source)
    try:
        record["labels"] = None if labels is None else _labels(labels)
        record["counts"] = None if counts is None else _counts(counts)
        record["boxes"] = None if boxes is None else [_box(box) for box in boxes]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: {image}: {error!r} in {_short(entry)}") from error
    record["mask"] = None if mask is None else {"bytes": None, "path": str(mask)}
    return record


def write_json(records: Iterable[Record], path: Path) -> None:
    """Write a file of records, one a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for number, record in enumerate(records):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(to_json(record), ensure_ascii=False))
        file.write("\n]\n")


def read_json(path: Path, source: str) -> list[Record]:
    """Read a file of records. Raises UserError naming the file and the entry."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}; was the file cut off?") from error
    if not isinstance(entries, list):
        raise UserError(f"{path}: holds no array of images")
    return [from_json(entry, source, f"{path}: entry {number}") for number, entry in enumerate(entries)]


def _labels(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"labels are neither a string nor strings: {_short(value)}")
    return names


def _counts(value: Any) -> list[Count]:
    parts = [value] if isinstance(value, dict) else value
    return [Count(name=name, count=int(n)) for part in parts for name, n in part.items()]


def _box(value: dict[str, Any]) -> Box:
    x1, y1, x2, y2 = (float(value[key]) for key in ("x1", "y1", "x2", "y2"))
    return Box(name=str(value["name"]), x1=x1, y1=y1, x2=x2, y2=y2, crowd=False, segmentation=None)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
