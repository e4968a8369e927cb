"""VIA, the VGG Image Annotator, 1 and 2: its annotations exported as JSON, or a saved project.

Specification: the program's own code, https://gitlab.com/vgg/via. Coordinates are pixels, `theta` is in radians.

A region's class is its one attribute; of several the one called label, class, name, type or category, or what
`columns: [label=NAME]` says; where there is none, the one name in `classes`. Each check box that is on gives a box.
Where no image has a region, a file attribute chosen alike gives labels; else an image without any shows nothing.
Points and lines have no area, and are left out.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from Data_processing.shared.annotation_files import LeftOut, WrongFormat, add_shapes, decode_json, only_json
from Data_processing.shared.files import SourceFiles
from Data_processing.shared.image_names import row_namer
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import ellipse, encode, flat, outlined, turned
from Datasets.tools.errors import UserError

LIKELY = {"label", "labels", "class", "classes", "name", "type", "category"}
OWN = {"caption", "public_domain", "image_url"}  # file attributes that VIA makes by itself

find = only_json


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    stated: dict[str, Any] = decode_json(files, found[0], dict[str, Any], "VIA annotations")
    stated = stated.get("_via_img_metadata", stated)
    entries = {key: entry for key, entry in stated.items() if isinstance(entry, dict) and "regions" in entry}
    if not entries:
        raise WrongFormat(f"{files.path}: {found[0]}: no VIA annotations: no image in it has `regions`")
    drawn = [region for entry in entries.values() for region in _regions(entry)]
    kind, own = ("region_attributes", set()) if drawn else ("file_attributes", OWN)
    key = _class_attribute(drawn or entries.values(), kind, own, options, f"{files.path}: {found[0]}")
    named_row = row_namer(files, options)

    def boxes(region: Any, origin: str) -> list[ImportedBox]:
        names = _names(region, kind, key) if key else options.classes
        if not names:
            raise ValueError(f"no {key}, which names the class,")
        return [_box(region["shape_attributes"], name, origin) for name in names]

    def record(entry: dict[str, Any], origin: str) -> Imported:
        row = named_row(entry.get("filename"), found[0], origin)
        if drawn:
            add_shapes(row, _regions(entry), boxes)
        elif key:
            row.labels = _names(entry, kind, key)
        return row

    return options.images or "", (record(entry, f"{found[0]}: {name}") for name, entry in entries.items())


def _regions(entry: dict[str, Any]) -> list[Any]:
    """The regions of an image; in VIA 1 they are an object."""
    regions = entry["regions"]
    return list(regions.values()) if isinstance(regions, dict) else regions if isinstance(regions, list) else [regions]


def _attributes(stated: Any, kind: str) -> dict[str, Any]:
    attributes = stated.get(kind) if isinstance(stated, dict) else None
    return attributes if isinstance(attributes, dict) else {}


def _names(stated: Any, kind: str, key: str) -> list[str]:
    """What an attribute says: a text, a number, or of check boxes those that are on."""
    value = _attributes(stated, kind).get(key)
    each = [name for name, on in value.items() if on] if isinstance(value, dict) else [value]
    return [str(name).strip() for name in each if isinstance(name, str | int) and str(name).strip()]


def _class_attribute(stated: Iterable[Any], kind: str, own: set[str], options: ImportOptions, where: str) -> str | None:
    """The attribute that names classes; None where there is none. Raises UserError where that is not clear."""
    pairs = ((key, _names(each, kind, key)) for each in stated for key in _attributes(each, kind))
    keys, wanted = {key: None for key, names in pairs if names and key not in own}, options.columns.get("label")
    chosen = [key for key in keys if (key == wanted if wanted else len(keys) == 1 or key.lower() in LIKELY)]
    if len(chosen) != 1 and (keys or wanted):
        remedy = "set `columns: [label=NAME]` (--format via --columns label=NAME)"
        raise UserError(f"{where}: which of the {kind} names the class, {', '.join(keys) or 'none'}? {remedy}")
    if not own and not chosen and len(options.classes) != 1:
        remedy = "set `classes: [NAME]` (--format via --classes NAME) where all are of one class"
        raise UserError(f"{where}: no region has an attribute that names its class; {remedy}")
    return chosen[0] if chosen else None


def _box(shape: dict[str, Any], name: str, origin: str) -> ImportedBox:
    """Raises one of UNUSABLE."""
    kind, numbers = shape["name"], {key: float(value) for key, value in shape.items() if isinstance(value, int | float)}
    points = list(zip(shape.get("all_points_x", ()), shape.get("all_points_y", ()), strict=True))
    if kind == "polygon" and len(points) > 2:
        return outlined(name, encode([flat(points)]), origin)
    if kind == "rect":
        x, y = numbers["x"], numbers["y"]
        return ImportedBox(name, x, y, x + numbers["width"], y + numbers["height"], origin)
    if kind in ("point", "polyline", "line"):
        raise LeftOut(kind)
    if kind not in ("circle", "ellipse"):
        raise ValueError(f"a {kind!s:.40} of {len(points)} points")
    x, y = numbers["cx"], numbers["cy"]
    across, down = (numbers["r" if kind == "circle" else side] for side in ("rx", "ry"))
    polygon = turned(ellipse(x, y, across, down), math.degrees(numbers.get("theta", 0)), x, y)
    return outlined(name, encode([polygon]), origin)
