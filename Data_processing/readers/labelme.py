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
import math
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from Data_processing.shared import outlines
from Data_processing.shared.annotation_files import decode_json, files_below, folder_split
from Data_processing.shared.files import EMBEDDED, SourceFiles
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions, LeftOut
from Datasets.tools.errors import UserError

POLYGONS = {"polygon", "rotation", "oriented_rectangle", "quadrilateral"}
WITHOUT_AREA = {"point", "points", "line", "linestrip"}
RESERVED = {"__ignore__": "ignored region", "_background_": "background shape"}
TURNED = {"rotation", "oriented_rectangle"}
find = files_below


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


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    names = frozenset(files.names())
    return options.images or "", (_record(files, name, names, options.images) for name in found)


def _record(files: SourceFiles, file: str, names: frozenset[str], folder: str | None) -> Imported:
    try:
        content: LabelFile = decode_json(files, file, LabelFile, "file of LabelMe")
    except UserError as error:
        image = posixpath.splitext(file)[0]  # of which nothing is known; the JSON file itself is none
        return Imported(image, file, problems=[("malformed annotation", str(error))])
    row = Imported(_image(content, file, names, folder), file)
    row.split = folder_split(row.image)
    row.set_size(content.image_width, content.image_height)
    flags = [name for name, value in (content.flags or {}).items() if value is True]
    row.add_shapes(_objects(content.shapes, file), lambda shapes, origin: _boxes(shapes, row, origin))
    row.boxes = row.boxes if content.shapes or not flags else None
    if content.flags:
        row.add_labels(flags)
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


def _boxes(shapes: list[Shape], row: Imported, origin: str) -> list[ImportedBox]:
    """An object's box. Raises LeftOut, also for a background, which is cut out of the boxes before it; ValueError."""
    first, alone = shapes[0], len(shapes) == 1
    kind = RESERVED.get(first.label) or (first.shape_type if first.shape_type in WITHOUT_AREA else None)
    if kind and first.label != "_background_":
        raise LeftOut(kind)
    if not first.label.strip() or not all(shape.points for shape in shapes):
        raise ValueError("no points" if first.label.strip() else "no label")
    outline = _mask(first, row) if alone and first.shape_type == "mask" else outlines.encode(map(_polygon, shapes))
    if kind:
        for each in row.boxes or ():
            each.outline = each.outline and outlines.cut_out(each.outline, outline, row.width, row.height)
        raise LeftOut(kind)
    box = outlines.outlined(first.label, outline, origin)
    box.outline = None if alone and first.shape_type == "rectangle" else outline
    row.left_out += ["rotation"] * (first.shape_type in TURNED)
    return [box]


def _polygon(shape: Shape) -> outlines.Polygon:
    kind, points = shape.shape_type or "polygon", shape.points
    if kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        return outlines.ellipse(*points[0], radius, radius)
    if kind == "rectangle" and len(points) in (2, 4):
        return outlines.rectangle(*outlines.bounds(outlines.encode([outlines.flat(points)])))
    if kind in POLYGONS and len(points) > 2:
        return outlines.flat(points)
    raise ValueError(f"a {kind} of {len(points)} points{' in a group' * (kind == 'mask')}")


def _mask(shape: Shape, row: Imported) -> bytes:
    """The run lengths of a mask: a PNG in base64 of the pixels from the first to the last point, both included."""
    if len(shape.points) != 2:
        raise ValueError(f"a mask of {len(shape.points)} points")
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in shape.points)
    drawn = outlines.from_png(base64.b64decode(shape.mask or ""))
    if drawn.shape != (bottom - top + 1, right - left + 1):
        raise ValueError(f"a mask of {drawn.shape[::-1]} pixels between the points {shape.points}")
    return outlines.from_crop(drawn, left, top, row.width, row.height)
