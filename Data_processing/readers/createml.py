"""CreateML: Apple's JSON, [{"image": NAME, "annotations": [{"label": NAME, "coordinates": {x, y, width, height}}]}].

Specification: https://developer.apple.com/documentation/createml. x and y are the box's centre, in pixels or, with
`normalized: true`, in fractions. Other names are `imagefilename` and `annotation`. Annotations without coordinates, or
texts, are labels of the image; one that has these alone says nothing of boxes.
"""

from collections.abc import Iterator
from typing import Any

from Data_processing.shared.annotation_files import WrongFormat, add_shapes, decode_json, only_json
from Data_processing.shared.files import SourceFiles
from Data_processing.shared.image_names import row_namer
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions

find = only_json


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    entries: list[dict[str, Any]] = decode_json(files, found[0], list[dict[str, Any]], "CreateML annotations")
    if not any(_named(entry) for entry in entries):
        raise WrongFormat(f"{files.path}: {found[0]}: no CreateML annotations: no entry has an `image`")
    named_row = row_namer(files, options)

    def record(entry: dict[str, Any], origin: str) -> Imported:
        row = named_row(_named(entry), found[0], origin)
        row.normalized = bool(options.normalized)
        stated = entry.get("annotations", entry.get("annotation"))
        every = stated if isinstance(stated, list) else [stated]
        labels = [each.get("label") if isinstance(each, dict) else each for each in every if not _is_box(each)]
        if not all(isinstance(name, str) and name for name in labels):
            row.problems.append(("malformed annotation", f"labels {labels[:3]!s:.100}"))
        if not labels or len(labels) < len(every):
            add_shapes(row, list(filter(_is_box, every)), _box)
        row.labels = sorted({*map(str, labels), *(box.name for box in row.boxes or ())}) if labels else None
        return row

    return options.images or "", (record(entry, f"{found[0]}: entry {n}") for n, entry in enumerate(entries, 1))


def _named(entry: dict[str, Any]) -> Any:
    return entry.get("image", entry.get("imagefilename"))


def _is_box(annotation: Any) -> bool:
    return isinstance(annotation, dict) and annotation.get("coordinates") is not None


def _box(annotation: dict[str, Any], origin: str) -> list[ImportedBox]:
    """Raises one of UNUSABLE."""
    x, y, width, height = (float(annotation["coordinates"][side]) for side in ("x", "y", "width", "height"))
    return [ImportedBox(annotation["label"], x - width / 2, y - height / 2, x + width / 2, y + height / 2, origin)]
