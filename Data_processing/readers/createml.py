"""CreateML: Apple's JSON, [{"image": NAME, "annotations": [{"label": NAME, "coordinates": {x, y, width, height}}]}].

Specification: https://developer.apple.com/documentation/createml. x and y are the box's centre, in pixels or, with
`normalized: true`, in fractions. Other names are `imagefilename` and `annotation`. Annotations without coordinates, or
texts, are labels of the image; one that has these alone says nothing of boxes.
"""

from collections.abc import Iterator
from typing import Any

from Data_processing.shared.annotation_files import WrongFormat, decode_json, only_one
from Data_processing.shared.files import SourceFiles
from Data_processing.shared.image_names import row_namer
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions

find = only_one


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    entries: list[dict[str, Any]] = decode_json(files, found[0], list[dict[str, Any]], "CreateML annotations")
    images = [entry.get("image", entry.get("imagefilename")) for entry in entries]
    if not any(images):
        raise WrongFormat(f"{files.path}: {found[0]}: no CreateML annotations: no entry has an `image`")
    named_row = row_namer(files, options)

    def records() -> Iterator[Imported]:
        for number, (entry, image) in enumerate(zip(entries, images, strict=True), 1):
            row = named_row(image, found[0], f"{found[0]}: entry {number}")
            row.normalized = bool(options.normalized)
            stated = entry.get("annotations", entry.get("annotation"))
            every = stated if isinstance(stated, list) else [stated]
            boxes = [each for each in every if isinstance(each, dict) and each.get("coordinates") is not None]
            if boxes or not every:
                row.add_shapes(row.numbered(boxes), _box)
            if len(boxes) < len(every):
                others = [each for each in every if each not in boxes]
                row.add_labels([each.get("label") if isinstance(each, dict) else each for each in others])
            yield row

    return options.images or "", records()


def _box(annotation: dict[str, Any], origin: str) -> list[ImportedBox]:
    """Raises one of UNUSABLE."""
    x, y, width, height = (float(annotation["coordinates"][side]) for side in ("x", "y", "width", "height"))
    return [ImportedBox(annotation["label"], x - width / 2, y - height / 2, x + width / 2, y + height / 2, origin)]
