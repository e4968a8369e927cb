"""LabelMe: one JSON file an image.

Specification: the program's own code, https://github.com/wkentaro/labelme (labelme/_label_file.py). Points are pixels,
0 at the outer edge of the first one. `imagePath` is relative to the JSON file's folder, or to the option `images`;
where no such file is, the image of that name beside the JSON file is meant, else the one inside it (`imageData`), which
is then named FILE.json#NAME, else the one of the source whose path ends so.

Polygons, circles (as polygons of 64 points), rectangles, turned rectangles and masks become boxes with outlines; a
rectangle's outline is its box. Shapes of one label and one group_id are one object, as for LabelMe's own converters.
Points and lines have no area: each becomes a box without any at its first point, which the clean stage rejects if it
wants the class, and else leaves out. Flags that are true are labels of the image; where there are some and nothing is
drawn, boxes are not known. Folders called train, val or test are splits.
"""

import base64
import codecs
import io
import math
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from PIL import Image, UnidentifiedImageError

from Data_processing.shared.annotation_files import folder_split, pixels
from Data_processing.shared.files import EMBEDDED, MissingFile, SourceFiles, folder_name
from Data_processing.shared.image_names import ImageFinder
from Data_processing.shared.imported import MAX_SIDE, Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import MAX_MASK, Polygon, bounds, ellipse, encode, from_crop, rectangle
from Datasets.format.files import visible
from Datasets.tools.errors import UserError

POLYGONS = {"polygon", "rotation", "oriented_rectangle", "quadrilateral"}
WITHOUT_AREA = {"point", "points", "line", "linestrip"}


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
    folder = folder_name(options.annotations or ".")
    names = list(visible(files.names(), {".json"}, folder))
    if not names:
        raise UserError(f"{files.path}: no JSON files in the folder {folder or '.'}; set `annotations`")
    return names


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    names, finder = frozenset(files.names()), ImageFinder(files, options.images)
    return options.images or "", (_record(files, name, names, finder) for name in found)


def _record(files: SourceFiles, file: str, names: frozenset[str], finder: ImageFinder) -> Imported:
    try:
        content = msgspec.json.decode(files.read(file).removeprefix(codecs.BOM_UTF8), type=LabelFile)
    except (MissingFile, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        image = posixpath.splitext(file)[0]  # of which nothing is known; the JSON file itself is none
        return Imported(image, file, problems=[("malformed annotation", f"{file}: {error}")])
    row = Imported(_image(content, file, names, finder), file)
    row.split = folder_split(row.image)
    row.width, row.height = (pixels(side, row) for side in (content.image_width, content.image_height))
    flags = [name for name, value in (content.flags or {}).items() if value is True]
    boxes: list[ImportedBox] = []
    for shapes in _objects(content.shapes):
        try:
            boxes.append(_box(shapes, file, row))
        except ValueError as error:
            row.problems.append(("malformed box", f"{error} in {_origin(file, shapes)}"))
    row.boxes = boxes if content.shapes or not flags else None
    row.labels = sorted({*flags, *(box.name for box in boxes)}) if content.flags else None
    return row


def _image(content: LabelFile, file: str, names: frozenset[str], finder: ImageFinder) -> str:
    """The file that `imagePath` means or ends in; where there is none, the image in the JSON file, if it has one."""
    own = posixpath.dirname(file)
    name = (content.image_path or "").replace("\\", "/")
    base = posixpath.basename(name) or "image"
    folder = own if finder.folder is None else finder.folder
    paths = [posixpath.normpath(posixpath.join(folder, name)), posixpath.join(folder, base), posixpath.join(own, base)]
    embedded = bytes(content.image_data) not in (b"", b"null", b'""')
    present = [path for path in paths if path in names]
    if not present and not embedded:
        present = finder.by_end(name)
    return (present or [f"{file.removesuffix('.json')}{EMBEDDED}{base}" if embedded else paths[0]])[0]


def _objects(shapes: list[Shape]) -> list[list[tuple[int, Shape]]]:
    """The shapes, numbered from 1, those of one object together."""
    objects: dict[tuple[Any, ...], list[tuple[int, Shape]]] = defaultdict(list)
    for number, shape in enumerate(shapes, 1):
        alone = shape.group_id is None or shape.shape_type in WITHOUT_AREA
        objects[(number,) if alone else (shape.label, shape.group_id)].append((number, shape))
    return list(objects.values())


def _origin(file: str, shapes: list[tuple[int, Shape]]) -> str:
    numbers = " and ".join(str(number) for number, _ in shapes)
    return f"{file}: shape{'s' * (len(shapes) > 1)} {numbers} ({shapes[0][1].shape_type or 'polygon'})"


def _box(shapes: list[tuple[int, Shape]], file: str, row: Imported) -> ImportedBox:
    """Raises ValueError, saying what is wrong."""
    first, origin = shapes[0][1], _origin(file, shapes)
    if not first.label.strip():
        raise ValueError("no label")
    if not all(shape.points for _, shape in shapes):
        raise ValueError("no points")
    if first.shape_type in WITHOUT_AREA:
        return ImportedBox(first.label, *first.points[0], *first.points[0], origin)
    if len(shapes) == 1 and first.shape_type == "rectangle":
        return ImportedBox(first.label, *bounds(encode([_polygon(first)])), origin)
    if any(shape.shape_type == "mask" for _, shape in shapes):
        if len(shapes) > 1:
            raise ValueError("a mask in a group with other shapes")
        outline = _mask(first, row)
    else:
        outline = encode(_polygon(shape) for _, shape in shapes)
    return ImportedBox(first.label, *bounds(outline), origin, outline=outline)


def _polygon(shape: Shape) -> Polygon:
    kind, points = shape.shape_type or "polygon", shape.points
    if kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        return ellipse(*points[0], radius, radius)
    if kind == "rectangle" and len(points) in (2, 4):
        x1, y1, x2, y2 = bounds(encode([[value for point in points for value in point]]))
        return rectangle(x1, y1, x2, y2)
    if kind in POLYGONS and len(points) > 2:
        return [value for point in points for value in point]
    raise ValueError(f"a {kind} of {len(points)} points")


def _mask(shape: Shape, row: Imported) -> bytes:
    """The run lengths of a mask: a PNG in base64 of the pixels from the first to the last point, both included."""
    if row.width is None or row.height is None:
        raise ValueError("a mask without imageWidth and imageHeight")
    if len(shape.points) != 2 or not all(abs(value) <= MAX_SIDE for point in shape.points for value in point):
        raise ValueError(f"a mask with the points {shape.points[:3]}")
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in shape.points)
    size = right - left + 1, bottom - top + 1
    try:
        image = Image.open(io.BytesIO(base64.b64decode(shape.mask or "")), formats=["PNG"])
        if image.size != size or size[0] * size[1] > MAX_MASK:
            raise ValueError(f"a mask of {image.size} pixels between points for {size}")
        pixels = np.asarray(image.convert("L")) > 0
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError("a mask that is no PNG") from error  # Pillow's words hold an address, another each time
    return from_crop(pixels, left, top, row.width, row.height)
