"""Supervisely: DATASET/ann/IMAGE.json for each image in DATASET/img; meta.json is not needed.

Specification: https://docs.supervisely.com/customization-and-integration/00_ann_format_navi. A rectangle's corners are
the first and the last pixel in it, as whole numbers; what has decimals counts as edges. Bitmaps are PNGs, compressed
again, from `origin` on. Points, lines and graphs have no area, and are left out. An image's tags are its labels, those
called train, val or test its split; with tags and no objects, boxes are not known.
"""

import base64
import zlib
from collections.abc import Callable, Iterator
from posixpath import basename, dirname, join, splitext
from typing import Any

from Data_processing.shared.annotation_files import decode_json, files_below, split_named
from Data_processing.shared.files import SourceFiles
from Data_processing.shared.image_names import row_namer
from Data_processing.shared.imported import UNUSABLE, Imported, ImportedBox, ImportOptions, LeftOut
from Data_processing.shared.outlines import MAX_MASK, cut_out, encode, flat, from_crop, from_png, outlined
from Datasets.tools.errors import UserError


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The JSON files in folders called ann, else all, of the folder named. Raises UserError if there are none."""
    every = files_below(files, options)
    return [name for name in every if basename(dirname(name)) == "ann"] or every


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    named_row = row_namer(files, options)
    return options.images or "", (_record(files, file, named_row) for file in found)


def _record(files: SourceFiles, file: str, named_row: Callable[[Any, str, str], Imported]) -> Imported:
    name = splitext(basename(file))[0]
    row = named_row(name, join(dirname(dirname(file)), "img", name), file)
    try:
        content: dict[str, Any] = decode_json(files, file, dict[str, Any], "annotation of Supervisely")
        row.set_size(content["size"]["width"], content["size"]["height"])
        tags = [tag["name"] + (f": {tag['value']}" if tag.get("value") else "") for tag in content["tags"]]
        labels = [tag for tag in tags if not split_named(tag)]
        row.split = next(filter(None, map(split_named, tags)), row.split)
        if content["objects"] or not labels:
            row.add_shapes(row.numbered(content["objects"]), lambda shape, origin: [_box(shape, row, origin)])
        if labels:
            row.add_labels(labels)
    except (UserError, *UNUSABLE) as error:
        row.problems.append(("malformed annotation", f"{error!s:.200}"))
    return row


def _box(shape: Any, row: Imported, origin: str) -> ImportedBox:
    """Raises one of UNUSABLE."""
    name, kind = str(shape["classTitle"]), shape["geometryType"]
    if kind in ("point", "line", "graph", "cuboid"):
        raise LeftOut(kind)
    if kind == "bitmap":
        packed = zlib.decompressobj().decompress(base64.b64decode(shape["bitmap"]["data"]), MAX_MASK)
        left, top = shape["bitmap"]["origin"]
        return outlined(name, from_crop(from_png(packed), left, top, row.width, row.height), origin)
    points = [float(number) for number in flat(shape["points"]["exterior"])]
    if kind == "rectangle":
        x1, x2, y1, y2 = *sorted(points[0::2]), *sorted(points[1::2])
        beyond = all(number.is_integer() for number in points)  # the last pixel's far edge
        return ImportedBox(name, x1, y1, x2 + beyond, y2 + beyond, origin)
    if kind != "polygon" or len(points) < 6:
        raise ValueError(f"a {kind!s:.40} of {len(points) // 2} points")
    outline, holes = encode([points]), [flat(hole) for hole in shape["points"]["interior"]]
    outline = cut_out(outline, encode(holes), row.width, row.height) if holes else outline
    return outlined(name, outline, origin)
