"""What the columns of a CSV file mean: as the options say, else as its header shows.

The option `columns` says which column means what: image, label; x1, y1 with x2, y2 or box_width, box_height;
image_width, image_height, group, split, crowd. A preset says so for a widespread form: `tensorflow` (of TensorFlow's
detection tutorials and Roboflow; pixels), `vott` (of VoTT and many scripts: xmin and its like beside our own names;
pixels) and `openimages` (https://storage.googleapis.com/openimages/web/download_v7.html; fractions, an ImageID without
suffix). Where nothing is said, a preset or our own names are recognised by the header; and a table that has a column
of 0 and 1 for each class beside `image` or `filename`, as Roboflow writes several labels of an image.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from Data_processing.shared.imported import ImportOptions
from Datasets.tools.errors import UserError

CORNERS = ("x1", "y1", "x2", "y2")
SIDES = ("x1", "y1", "box_width", "box_height")
OF_IMAGE = ("image_width", "image_height", "group", "split")
OURS = ("image", "label", *CORNERS, "box_width", "box_height", *OF_IMAGE, "crowd")
PRESETS = {
    "tensorflow": {
        **{"image": "filename", "image_width": "width", "image_height": "height", "label": "class"},
        **{"x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"},
    },
    "vott": {
        **{name: name for name in ("image", "label", *OF_IMAGE, "crowd")},
        **{"x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"},
    },
    "openimages": {
        **{"image": "ImageID", "label": "LabelName", "crowd": "IsGroupOf"},
        **{"x1": "XMin", "x2": "XMax", "y1": "YMin", "y2": "YMax"},
    },
}
NORMALIZED = {"openimages"}
OPTIONAL = {"crowd", *OF_IMAGE}  # columns of a preset that some of its files lack
LABEL_STUDIO = {"annotation_id", "lead_time"}  # columns of its CSV
NO_NAME = re.compile(r"-?\d*\.?\d+|.*\.(jpe?g|png|bmp|tiff?|webp)", re.IGNORECASE)  # of a table without a header
BINARY = {"0": False, "0.0": False, "1": True, "1.0": True}
BOXLIKE = re.compile(r"x|y|[xy]_?(min|max|[12])|(min|max)_?[xy]|b(nd)?_?box.*|left|top", re.IGNORECASE)


def column_meanings(header: Sequence[str], options: ImportOptions, where: str) -> tuple[dict[str, int], int, bool]:
    """Our names of the columns there are, with their numbers; how many there are in all; whether boxes are fractions.

    Raises UserError if the options or the header do not make sense.
    """
    if options.preset is not None and options.preset not in PRESETS:
        raise UserError(f"{where}: preset {options.preset!r}: the presets are {', '.join(PRESETS)}")
    preset = options.preset if options.preset or options.columns else _recognised(header)
    named = {**PRESETS.get(preset or "", {}), **options.columns}
    if not named:
        named = {name: name for name in OURS if name in header}
    told = " ".join(", ".join(header[:12]).split())
    for ours, theirs in list(named.items()):
        if ours not in OURS:
            raise UserError(f"{where}: columns: {ours!r} is none of {', '.join(OURS)}")
        if header.count(theirs) > 1 or (theirs not in header and (ours in options.columns or ours not in OPTIONAL)):
            raise UserError(f"{where}: {header.count(theirs)} columns are called {theirs!r}; there are: {told:.200}")
        if theirs not in header:
            del named[ours]
    if "image" not in named:
        remedy = "write a first line that does, such as image,label,x1,y1,x2,y2"
        if not any(map(NO_NAME.fullmatch, header)):
            remedy = "set `preset` or `columns`"
        raise UserError(f"{where}: no column is known to name the image; {remedy}; there are: {told:.200}")
    _check_box_columns(named, where)
    if not preset and not options.columns:
        _check_left_out(header, named, where)
    normalized = preset in NORMALIZED if options.normalized is None else options.normalized
    return {ours: header.index(theirs) for ours, theirs in named.items()}, len(header), normalized


def _recognised(header: Sequence[str]) -> str | None:
    if {"image", "label", *CORNERS} <= set(header):
        return None
    fitting = (
        name for name, columns in PRESETS.items() if {columns[c] for c in columns if c not in OPTIONAL} <= set(header)
    )
    return next(fitting, None)


def _check_box_columns(named: Mapping[str, str], where: str) -> None:
    stated = {*CORNERS, *SIDES}.intersection(named)
    if stated not in ({*CORNERS}, {*SIDES}, set()):
        raise UserError(
            f"{where}: columns {', '.join(sorted(stated))} make no box: x1, y1 and x2, y2, or box_width, box_height"
        )
    if stated and "label" not in named:
        raise UserError(f"{where}: no column is known to name a box's class; set `columns: [label=...]`")


def _check_left_out(header: Sequence[str], named: Mapping[str, str], where: str) -> None:
    """Raise UserError for boxes under other names beside ours, which would be left out without a word, or as text."""
    if LABEL_STUDIO.issubset(header):
        raise UserError(
            f"{where}: looks like Label Studio's CSV, whose regions are text; export the project as JSON, or say by "
            "`columns` which column is a label"
        )
    left_out = [name for name in header if BOXLIKE.fullmatch(name) and name not in named]
    if left_out and not {*CORNERS, *SIDES}.intersection(named):
        kept = ", ".join(f"{name}={name}" for name in named)
        raise UserError(
            f"{where}: columns {', '.join(left_out)[:100]} look like boxes; say which are which: "
            f"`columns: [{kept}, x1=...]`, or without x1 and its like to leave them out"
        )


Rows = Iterable[tuple[int, list[str]]]  # each with its line


def image_beside_classes(header: Sequence[str], first: Sequence[str], options: ImportOptions) -> str | None:
    """The column that names the image, if all others of a table, by its first row, say of a class each 0 or 1."""
    image = options.columns.get("image") or next((name for name in ("image", "filename") if name in header), None)
    others = [cell.strip() for name, cell in zip(header, first, strict=False) if name != image]
    told = options.preset or options.columns.keys() - {"image"} or set(OURS).intersection(header) - {"image"}
    alike = len(first) == len(header) == len(others) + 1 > 2 and BINARY.keys() >= set(others)
    return image if alike and not told else None


def label_rows(rows: Rows, header: Sequence[str], image: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of an image and a label, from those with a column for each class. Raises UserError, naming the line."""
    for line, fields in rows:
        stated = dict(zip(header, map(str.strip, fields), strict=False))
        name = stated.pop(image, "")
        if len(fields) != len(header) or not BINARY.keys() >= set(stated.values()):
            raise UserError(f"{where}:{line}: is not {image} and {len(header) - 1} times 0 or 1, as the first row is")
        yield from ((line, [name, label]) for label in [label for label in stated if BINARY[stated[label]]] or [""])
