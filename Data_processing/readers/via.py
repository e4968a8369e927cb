"""VIA, the VGG Image Annotator, 1 and 2: its annotations exported as JSON, or a saved project.

Specification: the program's own code, https://gitlab.com/vgg/via. Coordinates are pixels, `theta` is in radians.
A region's class is its one attribute; of several the one in LIKELY, or what `columns: [label=NAME]` says; where there
is none, the one name in `classes`. Each check box that is on gives a box. Points and lines have no area, and are left
out.
"""

import math
from collections.abc import Iterator
from typing import Any

from Data_processing.shared.annotation_files import WrongFormat, decode_json, only_one
from Data_processing.shared.files import SourceFiles
from Data_processing.shared.image_names import row_namer
from Data_processing.shared.imported import UNUSABLE, Imported, ImportedBox, ImportOptions, LeftOut
from Data_processing.shared.outlines import ellipse, encode, flat, outlined, turned
from Datasets.tools.errors import UserError

LIKELY = {"label", "labels", "class", "classes", "name", "type", "category"}
find = only_one


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    stated: dict[str, Any] = decode_json(files, found[0], dict[str, Any], "VIA annotations")
    where, named_row = f"{files.path}: {found[0]}", row_namer(files, options)
    try:
        entries = stated.get("_via_img_metadata", stated)
        stated_regions = {name: entry["regions"] for name, entry in entries.items()}  # which VIA 1 has in an object
        drawn = {name: [*(r.values() if isinstance(r, dict) else r)] for name, r in stated_regions.items()}
        key = _class_attribute([region for regions in drawn.values() for region in regions], options, where)
    except UNUSABLE as error:
        raise WrongFormat(f"{where}: no VIA annotations: {error!r:.200}") from error

    def boxes(region: dict[str, Any], origin: str) -> list[ImportedBox]:
        names = _names(region, key) if key else options.classes
        if not names:
            raise ValueError(f"no {key}, which names the class,")
        return [_box(region["shape_attributes"], name, origin) for name in names]

    def records() -> Iterator[Imported]:
        for name, regions in drawn.items():
            row = named_row(entries[name].get("filename"), found[0], f"{found[0]}: {name}")
            row.add_shapes(row.numbered(regions), boxes)
            yield row

    return options.images or "", records()


def _names(region: dict[str, Any], key: str) -> list[str]:
    """What an attribute says: a text or, of check boxes, those that are on."""
    value = region["region_attributes"].get(key)
    each = [name for name, on in value.items() if on] if isinstance(value, dict) else [value]
    return [str(name).strip() for name in each if isinstance(name, str | int) and str(name).strip()]


def _class_attribute(drawn: list[Any], options: ImportOptions, where: str) -> str | None:
    """The attribute that names classes; None if `classes` does. Raises UserError where that is not clear."""
    keys = list(dict.fromkeys(key for region in drawn for key in region["region_attributes"] if _names(region, key)))
    if not drawn:
        raise UserError(f"{where}: no region is drawn in it; write labels of images as a table (csv)")
    if not keys and len(options.classes) != 1:
        remedy = "set `classes: [NAME]` (--format via --classes NAME) where all are of one class"
        raise UserError(f"{where}: no region has an attribute that names its class; {remedy}")
    likely = keys if len(keys) == 1 else [key for key in keys if key.lower() in LIKELY]
    chosen = [key for key in keys if key == options.columns["label"]] if options.columns else likely
    if len(chosen) != 1 and keys:
        remedy = "set `columns: [label=NAME]` (--format via --columns label=NAME)"
        raise UserError(f"{where}: which attribute names the class, {', '.join(keys)}? {remedy}")
    return chosen[0] if chosen else None


def _box(shape: dict[str, Any], name: str, origin: str) -> ImportedBox:
    """Raises one of UNUSABLE."""
    kind = shape["name"]
    if kind in ("point", "polyline", "line"):
        raise LeftOut(kind)
    if kind == "polygon":
        return outlined(name, encode([flat(zip(shape["all_points_x"], shape["all_points_y"], strict=True))]), origin)
    if kind == "rect":
        x, y, width, height = (float(shape[side]) for side in ("x", "y", "width", "height"))
        return ImportedBox(name, x, y, x + width, y + height, origin)
    across, down = ("r", "r") if kind == "circle" else ("rx", "ry")
    x, y, width, height = (float(shape[side]) for side in ("cx", "cy", across, down))
    polygon = turned(ellipse(x, y, width, height), math.degrees(shape.get("theta", 0)), x, y)
    return outlined(name, encode([polygon]), origin)
