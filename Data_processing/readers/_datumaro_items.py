"""Prints what Datumaro reads, a line of JSON an item. Run by the Python of an environment that has Datumaro:

    PYTHON -I Data_processing/readers/_datumaro_items.py DIRECTORY FORMAT

`image`: the path inside DIRECTORY, or null; `id`; `subset`; `annotations`: each with `type`, `label` (a name or null),
`group` (0 for none), and of areas `crowd`, `box` [x1, y1, x2, y2] in pixels, `rotation` (CVAT's, of a box about its
centre, clockwise in degrees) and `outline`, COCO's `segmentation`.
Imports nothing of this project, which the other environment does not have. An error is one line on stderr, exit code 1.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def describe(shape: Any, names: list[str]) -> dict[str, Any]:
    """An annotation as a mapping; one that has no area is without box and outline."""
    from datumaro.components import annotation
    from datumaro.util.mask_tools import mask_to_rle

    index = getattr(shape, "label", None)
    found: dict[str, Any] = {"type": shape.type.name, "label": None if index is None else names[index]}
    found["group"] = shape.group
    drawn: Any = tuple(getattr(annotation, name, ()) for name in ("Polygon", "Ellipse", "RotatedBbox"))
    if isinstance(shape, annotation.Mask):
        lengths = mask_to_rle(shape.image)
        found["outline"] = {name: [int(number) for number in lengths[name]] for name in ("size", "counts")}
    elif isinstance(shape, drawn):
        points = shape.as_polygon()  # x, y, x, y, ... or pairs
        flat = [float(number) for point in points for number in (point if hasattr(point, "__len__") else [point])]
        found["outline"] = [flat]
    elif not isinstance(shape, annotation.Bbox):
        return found
    x, y, width, height = map(float, shape.get_bbox())
    rotation = shape.attributes.get("rotation")
    found["box"] = [x, y, x + width, y + height]
    found["crowd"] = bool(shape.attributes.get("is_crowd", False))
    found["rotation"] = rotation if shape.type.name == "bbox" and isinstance(rotation, int | float) else 0
    return found


def causes(error: BaseException | None) -> str:
    """The messages of an error and of those that it came from, in one line."""
    messages = []
    while error is not None:
        messages.append(" ".join(str(error).split()) or type(error).__name__)
        error = error.__cause__ or error.__context__
    return ": ".join(dict.fromkeys(messages))


def main() -> None:
    """The command."""
    directory, form = Path(sys.argv[1]).resolve(), sys.argv[2]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not for the reader of the items
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset
    from datumaro.components.environment import Environment

    known = sorted(Environment().importers)
    if form not in known:
        sys.exit(f"Datumaro knows no format {form}; it knows {', '.join(known)}")
    dataset = Dataset.import_from(str(directory), form)
    labels = dataset.categories().get(AnnotationType.label)
    names = [] if labels is None else [category.name for category in labels]
    for item in dataset:
        file = Path(getattr(item.media, "path", None) or directory).resolve()
        inside = file != directory and file.is_relative_to(directory)
        image = file.relative_to(directory).as_posix() if inside else None
        annotations = [describe(shape, names) for shape in item.annotations]
        print(json.dumps({"image": image, "id": item.id, "subset": item.subset, "annotations": annotations}), file=out)
    out.close()


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        sys.exit(causes(error))
