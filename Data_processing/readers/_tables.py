"""What the columns of a table mean, by the names that programs give them; and what a cell draws."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec
from PIL import Image

from Data_processing.shared.annotation_files import read_text
from Data_processing.shared.files import MissingFile, SourceFiles
from Data_processing.shared.imported import Imported, ImportOptions
from Datasets.format.images import FORMATS
from Datasets.tools.errors import UserError

CORNERS = ("x1", "y1", "x2", "y2")
SIDES = ("x1", "y1", "box_width", "box_height")
CENTRE = ("cx", "cy", "box_width", "box_height")
SHAPES = (CORNERS, SIDES, CENTRE)
ONE_CELL = ("bbox", "corners", "outline")
OF_IMAGE = ("image_width", "image_height", "group", "split")
# The names of columns that are known for each of ours, the likeliest first: in lower case, letters and digits only.
WORDS = {
    "image": "image filename imagename imagepath filepath path imagefile file img imgname imgpath imageid imgid id",
    "image_label": "imageidclassid imagelabel",
    "label": "classname categoryname labelname label class category labels classes species tag classid categoryid",
    "x1": "x1 xmin minx left xtl boxxmin boxx1 boxleft boxx x",
    "y1": "y1 ymin miny top ytl boxymin boxy1 boxtop boxy y",
    "x2": "x2 xmax maxx right xbr boxxmax boxx2 boxright",
    "y2": "y2 ymax maxy bottom ybr boxymax boxy2 boxbottom",
    "cx": "cx xcenter xcentre centerx centrex xc",
    "cy": "cy ycenter ycentre centery centrey yc",
    "box_width": "boxwidth boxw",
    "box_height": "boxheight boxh",
    "bbox": "box",
    "corners": "corners",
    "outline": "outline encodedpixels rle rlemask maskrle",
    "image_width": "imagewidth imgwidth imagew imgw",
    "image_height": "imageheight imgheight imageh imgh",
    "group": "group",
    "split": "split",
    "crowd": "crowd iscrowd isgroupof",
}
OURS = (*WORDS, "unused")
OPEN_IMAGES = {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"}  # whose boxes are fractions
OPEN_LABELS = {"ImageID", "LabelName"}  # of its other tables
DESCRIPTIONS = re.compile(r"(^|[/-])class-descriptions[^/]*\.csv$")  # its file of class ids and names
PRESETS = ("tensorflow", "vott", "openimages")
BOXLIKE = re.compile(r"[xy]\d?|[xy](min|max|c|cent.*)|(min|max|cent\w\w)[xy]|box.*|left|top|right|bottom")
NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?")
DRAWN = re.compile(r"[\[({].*\d|(MULTI)?POLYGON|(\S+[ ,]+)?-?[\d.]+([ ,]+-?[\d.]+){3}")  # as a shape in a cell begins


def class_descriptions(files: SourceFiles) -> dict[str, str]:
    """The names of Open Images' classes by their ids, such as /m/01g317, where the file that has them is there."""
    found = filter(DESCRIPTIONS.search, files.names())
    rows = (row for name in found for row in csv.reader(io.StringIO(read_text(files, name))))
    return {row[0]: row[1].strip() for row in rows if len(row) == 2 and row[1].strip()}


def column_meanings(
    header: Sequence[str], first: Sequence[Sequence[str]], options: ImportOptions, where: str
) -> dict[str, int]:
    """The numbers of the columns by our names: those that the options state, and those whose names are known.

    first: some rows. Raises UserError if boxes cannot be made of them, or something drawn would be left out.
    """
    shown = f"there are: {' '.join(', '.join(header[:12]).split()):.200}"
    named = dict(options.columns)
    if unknown := [ours for ours in named if ours not in OURS]:
        raise UserError(f"{where}: columns: {unknown[0]!r} is none of {', '.join(OURS)}")
    if options.preset is not None and options.preset not in PRESETS:
        raise UserError(f"{where}: preset {options.preset!r}: the presets are {', '.join(PRESETS)}")
    unused = [name for name in named.pop("unused", "").split("+") if name]
    free = {plain(name): name for name in reversed(header) if name not in {*named.values(), *unused}}
    for ours, words in WORDS.items():
        if ours not in named and (word := next(filter(free.__contains__, words.split()), "")):
            named[ours] = free.pop(word)
    _name_sides(named, free)
    if wrong := next((name for name in (*named.values(), *unused) if header.count(name) != 1), None):
        raise UserError(f"{where}: {header.count(wrong)} columns are called {wrong!r}; {shown}")
    if not {"image", "image_label"} & named.keys():
        remedy = "set `columns`, or write a first line that does, such as image,label,x1,y1,x2,y2"
        raise UserError(f"{where}: no column is known to name the image; {remedy}; {shown}")
    _check_shapes(named, options, where)
    _check_left_out({name: header.index(name) for name in header if name in {*free.values()}}, first, where)
    label = named.get("label")
    if label and options.label_separator is None and (cell := _drawn(first, header.index(label))):
        raise UserError(
            f"{where}: column {label} would name classes, but holds {cell!r:.60}; say by `columns` what it is "
            "(bbox, corners or outline), and which column names the class, or write a row a box"
        )
    if free and not {"label", "image_label", *ONE_CELL, *CORNERS, *CENTRE} & named.keys():
        raise UserError(f"{where}: no column is known to name a class; set `columns: [label=...]`; {shown}")
    return {ours: header.index(theirs) for ours, theirs in named.items()}


def _name_sides(named: dict[str, str], free: dict[str, str]) -> None:
    """Width and height: of the box, where nothing else ends it, else of the image."""
    for side in ("width", "height"):
        of_box = [word for word in (side[0], side) if word in free and not {"x2", f"box_{side}"} & named.keys()]
        if of_box and {"x1", "cx"} & named.keys():
            named[f"box_{side}"] = free.pop(of_box[0])
        if side in free:
            named.setdefault(f"image_{side}", free.pop(side))


def plain(name: str) -> str:
    """A column's name as WORDS has it."""
    return re.sub(r"^(b|bnd|bounding)(?=box)", "", re.sub(r"[\W_]", "", name.casefold()))


def shape_of(named: Mapping[str, object]) -> tuple[str, ...]:
    """The columns that make the box, or () if none do."""
    return next((shape for shape in SHAPES if named.keys() >= {*shape}), ())


def _check_shapes(named: Mapping[str, str], options: ImportOptions, where: str) -> None:
    stated = [named[name] for name in dict.fromkeys(chain(*SHAPES)) if name in named]
    if stated and not shape_of(named):
        remedy = "x1, y1 with x2, y2 or box_width, box_height, or cx, cy with the latter"
        raise UserError(
            f"{where}: columns {', '.join(stated)} make no box; say by `columns: [OURS=NAME]` which are {remedy}; or "
            f"`unused={'+'.join(stated)}` to leave them out"
        )
    drawn, labelled = stated or {*ONE_CELL} & named.keys(), {"label", "image_label"} & named.keys()
    if labelled and options.classes:
        raise UserError(f"{where}: classes: a column names them, {named[min(labelled)]}; clean.rename changes names")
    if drawn and not labelled and len(options.classes) != 1:
        one = "or, where all are of one, `classes: [NAME]` (--classes)"
        raise UserError(f"{where}: no column is known to name a box's class; set `columns: [label=...]`, {one}")


def _check_left_out(columns: Mapping[str, int], first: Sequence[Sequence[str]], where: str) -> None:
    """Raise UserError for columns that look as if they drew something, and mean nothing to us."""
    left_out = [name for name, at in columns.items() if BOXLIKE.fullmatch(plain(name)) or _drawn(first, at)]
    if left_out:
        raise UserError(
            f"{where}: columns {', '.join(left_out)[:100]} look like boxes, lists or run lengths; say by `columns: "
            "[OURS=NAME]` what they are: x1, y1, x2, y2, box_width, box_height, cx, cy; in one cell bbox for x, y, "
            "width, height, corners for x1, y1, x2, y2, outline for run lengths; or `unused="
            f"{'+'.join(left_out)}` to leave them out"
        )


def _drawn(first: Sequence[Sequence[str]], number: int) -> str | None:
    """A cell of a column that looks as if it held a shape."""
    cells = (fields[number].strip() for fields in first if number < len(fields))
    return next(filter(DRAWN.match, cells), None)


def parts_of(text: str, sign: str) -> list[str]:
    """What is between the signs."""
    return [part for part in map(str.strip, text.split(sign)) if part]


def boxes_in(cell: str) -> list[list[float]]:
    """The boxes of a cell, four numbers each. Raises ValueError."""
    values, words = list(map(float, NUMBER.findall(cell))), re.findall("[a-z]+", NUMBER.sub("", cell.lower()))
    if not values or len(values) % 4 or words not in ([], ["x", "y", "width", "height"] * (len(values) // 4)):
        raise ValueError(f"{cell!r:.80} is not four numbers for each box")
    return [values[at : at + 4] for at in range(0, len(values), 4)]


def outline_in(cell: str, row: Imported, files: SourceFiles) -> bytes:
    """A cell's run lengths as an outline; they need the image's size. Raises ValueError."""
    numbers = [int(number) for number in cell.replace(",", " ").split()]
    if not (row.width and row.height):
        try:
            row.width, row.height = Image.open(io.BytesIO(files.read(row.image)), formats=FORMATS).size
        except (MissingFile, OSError, Image.DecompressionBombError) as error:
            raise ValueError("run lengths without image_width, image_height or an image that can be read") from error
    counts, end, total = [], 1, row.width * row.height
    for start, length in sorted(zip(numbers[::2], numbers[1::2], strict=True)):
        if start < end or length < 1 or start + length > total + 1:
            raise ValueError(f"run lengths that overlap or leave the {row.width} x {row.height} pixels at {start}")
        counts += [start - end, length]
        end = start + length
    return msgspec.json.encode({"size": [row.height, row.width], "counts": [*counts, total + 1 - end]})
