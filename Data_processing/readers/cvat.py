"""CVAT for images 1.1: one XML file of images, each with its shapes and tags.

Specification: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/. Coordinates are pixels, 0 at the outer
edge of the first one; rotations are degrees, clockwise, about the shape's centre. An image's subset is its split.

Boxes, polygons, ellipses and masks become boxes, all but upright boxes with outlines; tags are labels of the image.
Points, polylines, cuboids and skeletons are no areas, and are left out. The elements `attribute` are left out.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from lxml import etree

from Data_processing.shared.annotation_files import WrongFormat, only_one, parse_xml, split_named
from Data_processing.shared.files import MissingFile, SourceFiles, inside
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions, LeftOut
from Data_processing.shared.outlines import alternating, ellipse, encode, flat, from_crop, outlined, turned, turned_box

WITHOUT_AREA = ("points", "polyline", "cuboid", "skeleton")
SHAPES = ("box", "polygon", "ellipse", "mask", *WITHOUT_AREA)
find = partial(only_one, suffix=".xml", kind="XML")


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records.

    Raises UserError for a file that is not CVAT's.
    """
    try:
        root = parse_xml(files.read(found[0]), "annotations")
        if root.find("track") is not None:
            raise ValueError("it has tracks, which belong to CVAT for video")
        if root.find("image") is None:
            raise ValueError("it has no <image>")
    except (MissingFile, ValueError) as error:
        where = f"{files.path}: {found[0]}"
        raise WrongFormat(f"{where}: {error}; is it CVAT's format `CVAT for images 1.1`, whole?") from error
    return options.images or "", _records(root, found[0], options.images or "")


def _records(root: etree._Element, file: str, folder: str) -> Iterator[Imported]:
    drawn = any(root.find(f"image/{shape}") is not None for shape in SHAPES)
    tagged = root.find("image/tag") is not None
    for number, element in enumerate(root.iterfind("image"), 1):
        origin = f"{file}: image {element.get('id', f'number {number}')}"
        row = Imported(inside(folder, (element.get("name") or origin).strip()), origin)
        row.set_size(element.get("width"), element.get("height"))
        row.split = split_named((element.get("subset") or "").strip())
        row.add_shapes(_shapes(element, origin), partial(_boxes, row))
        row.boxes = row.boxes if drawn or not tagged else None
        if tagged:
            row.add_labels(list(filter(None, (tag.get("label") for tag in element.iterfind("tag")))))
        yield row


def _shapes(element: etree._Element, image: str) -> Iterator[tuple[str, Any]]:
    numbers: Counter[str] = Counter()
    for shape in element.iterchildren(etree.Element):
        numbers[shape.tag] += 1
        if shape.tag not in ("tag", "attribute"):
            yield f"{image}, {shape.tag} {numbers[shape.tag]}", shape


def _boxes(row: Imported, shape: etree._Element, origin: str) -> list[ImportedBox]:
    """Raises LeftOut, or ValueError, saying what is wrong."""
    if shape.tag in WITHOUT_AREA:
        raise LeftOut(shape.tag)
    label = (shape.get("label") or "").strip()
    if not label:
        raise ValueError("no label")
    if shape.tag == "box":
        x1, y1, x2, y2 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
        degrees = float(shape.get("rotation", 0))
        row.left_out += ["rotation"] * bool(degrees)
        return [turned_box(label, (x1, y1, x2, y2), degrees, origin)]
    if shape.tag == "polygon":
        points = _points(shape.get("points") or "")
        if len(points) < 6:
            raise ValueError(f"a polygon of {len(points) // 2} points")
        outline = encode([points])
    elif shape.tag == "ellipse":
        x, y, radius_x, radius_y = _numbers(shape, "cx", "cy", "rx", "ry")
        outline = encode([turned(ellipse(x, y, radius_x, radius_y), float(shape.get("rotation", 0)), x, y)])
    elif shape.tag == "mask":  # run lengths of background and object in turn, row by row, of the rectangle it fills
        left, top, width, height = (int(shape.get(key) or "") for key in ("left", "top", "width", "height"))
        counts = [int(text) for text in (shape.get("rle") or "").split(",")]
        outline = from_crop(alternating(counts, width, height), left, top, row.width, row.height)
    else:
        raise ValueError("a shape of a kind that is not known")
    return [outlined(label, outline, origin)]


def _points(text: str) -> list[float]:
    pairs = [[float(value) for value in pair.split(",")] for pair in text.split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"points {text[:60]!r}")
    return flat(pairs)


def _numbers(shape: etree._Element, *keys: str) -> list[float]:
    return [float(shape.get(key, "")) for key in keys]
