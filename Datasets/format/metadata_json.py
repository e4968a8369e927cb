"""Records in the JSON interchange form; Data_processing/readers/json.py reads it.

A file is an array with an array for each image: `[image, labels, counts, boxes, mask]`.
labels: a string or an array of strings. counts: an object `{"car": 2}` or an array of such objects. boxes: an array of
`{"name", "x1", "x2", "y1", "y2"}`, in the record's coordinates. mask: a path. A trailing part may be missing; a missing
part between is null. The form cannot say: source, size, sha256, group, split, crowd, segmentation.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from Datasets.format.records import Record


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


def write_json(records: Iterable[Record], path: Path) -> None:
    """Write a file of records, one a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for number, record in enumerate(records):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(to_json(record), ensure_ascii=False))
        file.write("\n]\n")
