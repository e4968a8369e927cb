"""LabelMe: one JSON file an image.

Specification: the program's own code, https://github.com/wkentaro/labelme (labelme/_label_file.py). Points are pixels,
0 at the outer edge of the first one. `imagePath` is relative to the JSON file's folder, or to the option `images`;
else the image of that name beside the JSON file is meant, or the one inside it (`imageData`), named FILE.json#NAME.

Shapes become boxes, all but upright rectangles with outlines; those of one label and one group_id are one object, as
for LabelMe's own converters. Points and lines have no area, and are left out; so are shapes called `__ignore__`, and
those called `_background_`, which LabelMe's converters draw over what lies below: they are cut out of the outlines
before them. Flags that are true are labels of the image; where there are some and nothing is drawn, boxes are not
known. Folders called train, val or test are splits.
"""

import base64
import codecs
import math
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from Data_processing.shared.annotation_files import files_below, folder_split, pixels
from Data_processing.shared.files import EMBEDDED, MissingFile, SourceFiles
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import (
    Polygon,
    bounds,
    cut_out,
    ellipse,
    encode,
    flat,
    from_crop,
    from_png,
    outlined,
    rectangle,
)

POLYGONS = {"polygon", "rotation", "oriented_rectangle", "quadrilateral"}
WITHOUT_AREA = {"point", "points", "line", "linestrip"}
RESERVED = {"__ignore__": "ignored region", "_background_": "background shape"}
TURNED = {"rotation", "oriented_rectangle"}


class Shape(msgspec.Struct):
    """An entry of `shapes`."""

    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None
    group_id: int | str | None = None
    mask: str | None = None


class LabelFile(msgspec.Struct, rename="camel"):
    """The parts of a file that are used; image_data is only looked at for whether it is there."""

    shapes: list[Shape]
    image_path: str | None = None
    image_width: float | None = None
    image_height: float | None = None
    flags: dict[str, Any] | None = None
    image_data: msgspec.Raw = msgspec.Raw()


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The JSON files of the folder `annotations`, or of the whole source. Raises UserError if there are none."""
    return files_below(files, ".json", "JSON", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    names = frozenset(files.names())
    return options.images or "", (_record(files, name, names, options.images) for name in found)


def _record(files: SourceFiles, file: str, names: frozenset[str], folder: str | None) -> Imported:
    try:
        content = msgspec.json.decode(files.read(file).removeprefix(codecs.BOM_UTF8), type=LabelFile)
    except (MissingFile, ValueError, RecursionError) as error:
        image = posixpath.splitext(file)[0]  # of which nothing is known; the JSON file itself is none
        return Imported(image, file, problems=[("malformed annotation", f"{file}: {error}")])
    row = Imported(_image(content, file, names, folder), file)
    row.split = folder_split(row.image)
    row.width, row.height = (pixels(side, row) for side in (content.image_width, content.image_height))
    flags = [name for name, value in (content.flags or {}).items() if value is True]
    boxes: list[ImportedBox] = []
    for origin, shapes in _objects(content.shapes, file):
        try:
            _add(boxes, row, shapes, origin)
        except ValueError as error:
            row.problems.append(("malformed box", f"{error} in {origin}"))
    row.boxes = boxes if content.shapes or not flags else None
    row.labels = sorted({*flags, *(box.name for box in boxes)}) if content.flags else None
    return row


def _image(content: LabelFile, file: str, names: frozenset[str], folder: str | None) -> str:
    """The file that `imagePath` means; where there is none, the image in the JSON file, if it has one."""
    own, name = posixpath.dirname(file), (content.image_path or "").replace("\\", "/")
    base = posixpath.basename(name) or "image"
    path = posixpath.normpath(posixpath.join(own if folder is None else folder, name))
    embedded = bytes(content.image_data) not in (b"", b"null", b'""')
    other = f"{file.removesuffix('.json')}{EMBEDDED}{base}" if embedded else path
    return next((place for place in (path, posixpath.join(own, base)) if place in names), other)


def _objects(shapes: list[Shape], file: str) -> Iterator[tuple[str, list[Shape]]]:
    """The shapes of each object, and what to call them."""
    objects: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, shape in enumerate(shapes, 1):
        alone = shape.group_id is None or shape.shape_type in WITHOUT_AREA
        objects[(number,) if alone else (shape.label, shape.group_id)].append(number)
    for numbers in objects.values():
        parts = [shapes[number - 1] for number in numbers]
        named = f"shape{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))}"
        yield f"{file}: {named} ({parts[0].shape_type or 'polygon'})", parts


def _add(boxes: list[ImportedBox], row: Imported, shapes: list[Shape], origin: str) -> None:
    """Add an object's box, or take the object out of the boxes before it. Raises ValueError, saying what is wrong."""
    first, alone = shapes[0], len(shapes) == 1
    if kind := RESERVED.get(first.label) or (first.shape_type in WITHOUT_AREA and first.shape_type):
        row.left_out.append(kind)
        if first.label != "_background_":
            return
    if not first.label.strip() or not all(shape.points for shape in shapes):
        raise ValueError("no points" if first.label.strip() else "no label")
    outline = _mask(first, row) if alone and first.shape_type == "mask" else encode(map(_polygon, shapes))
    if first.label == "_background_":
        for box in boxes:
            box.outline = box.outline and cut_out(box.outline, outline, row.width, row.height)
        return
    boxes.append(outlined(first.label, outline, origin))
    if alone and first.shape_type == "rectangle":
        boxes[-1].outline = None
    row.left_out += ["rotation"] * (first.shape_type in TURNED)


def _polygon(shape: Shape) -> Polygon:
    kind, points = shape.shape_type or "polygon", shape.points
    if kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        return ellipse(*points[0], radius, radius)
    if kind == "rectangle" and len(points) in (2, 4):
        return rectangle(*bounds(encode([flat(points)])))
    if kind in POLYGONS and len(points) > 2:
        return flat(points)
    raise ValueError(f"a {kind} of {len(points)} points{' in a group' * (kind == 'mask')}")


def _mask(shape: Shape, row: Imported) -> bytes:
    """The run lengths of a mask: a PNG in base64 of the pixels from the first to the last point, both included."""
    if len(shape.points) != 2:
        raise ValueError(f"a mask of {len(shape.points)} points")
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in shape.points)
    drawn = from_png(base64.b64decode(shape.mask or ""))
    if drawn.shape != (bottom - top + 1, right - left + 1):
        raise ValueError(f"a mask of {drawn.shape[::-1]} pixels between the points {shape.points}")
    return from_crop(drawn, left, top, row.width, row.height)
