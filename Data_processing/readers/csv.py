"""CSV: a table with a row a box, or a row an image and its label.

A row with a label but no box labels the whole image; a row with neither says that the image shows nothing. The file is
in UTF-8; its delimiter is an option, else what a first line such as `sep=;` says, else the one of comma, semicolon and
tab that the header has most of. With semicolons, boxes may have decimal commas.

The option `columns` says which column means what, of OURS; a preset says so for a widespread form: `tensorflow` (of
TensorFlow's detection tutorials and Roboflow), `vott` (xmin and its like beside our own names) and `openimages`
(https://storage.googleapis.com/openimages/web/download_v7.html; fractions, an ImageID without suffix). Without these
options, a preset or our own names are recognised by the header; and a table that has a column of 0 and 1 for each class
beside `image` or `filename`, as Roboflow writes several labels of an image.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice

from Data_processing.shared.annotation_files import only_file, pixels, read_text, split_named
from Data_processing.shared.files import SourceFiles, images_below, inside
from Data_processing.shared.image_names import ImageFinder, ambiguity, find_folder, without_suffix
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Datasets.format.files import visible
from Datasets.tools.errors import UserError

TRUTH = {"": False, "0": False, "-1": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
SEPARATOR = re.compile(r"sep=([,;\t|])\r?\n", re.IGNORECASE)  # a first line of Excel's
CORNERS = ("x1", "y1", "x2", "y2")
SIDES = ("x1", "y1", "box_width", "box_height")
OF_IMAGE = ("image_width", "image_height", "group", "split")
OURS = ("image", "label", *CORNERS, "box_width", "box_height", *OF_IMAGE, "crowd")
EDGES = {"x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"}
PRESETS = {
    "tensorflow": {"image": "filename", "image_width": "width", "image_height": "height", "label": "class", **EDGES},
    "vott": {**{name: name for name in ("image", "label", *OF_IMAGE, "crowd")}, **EDGES},
    "openimages": {
        **{"image": "ImageID", "label": "LabelName", "crowd": "IsGroupOf"},
        **{"x1": "XMin", "x2": "XMax", "y1": "YMin", "y2": "YMax"},
    },
}
NORMALIZED = {"openimages"}
OPTIONAL = {"crowd", *OF_IMAGE}  # columns of a preset that some of its files lack
LABEL_STUDIO = {"annotation_id", "lead_time"}  # columns of its CSV
NO_NAME = re.compile(r"-?\d*\.?\d+|.*\.(jpe?g|png|bmp|tiff?|webp)", re.IGNORECASE)  # of a table without a header
Rows = Iterable[tuple[int, list[str]]]  # each with its line
BINARY = {"0": False, "0.0": False, "1": True, "1.0": True}
BOXLIKE = re.compile(r"x|y|[xy]_?(min|max|[12])|(min|max)_?[xy]|b(nd)?_?box.*|left|top", re.IGNORECASE)


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The table: the file named, or the only .csv or .tsv. Raises UserError if that leaves none or several."""
    return only_file(files, visible(files.names(), {".csv", ".tsv"}), "CSV", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or as the source's files suggest) and the records."""
    where, text = f"{files.path}: {found[0]}", read_text(files, found[0])
    if not text.strip():
        raise UserError(f"{where}: is empty; its first line names the columns")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, options, where), strict=True)
    try:
        if SEPARATOR.match(text):
            next(lines)
        header = [name.strip() for name in next(lines, [])]
        rows: Rows = ((lines.line_num, fields) for fields in lines if any(map(str.strip, fields)))
        first = list(islice(rows, 1))
        rows = chain(first, rows)
        if first and (image := _image_beside_classes(header, first[0][1], options)):
            rows, header = _label_rows(rows, header, image, where), ["image", "label"]
            options = replace(options, columns={})
        table = Table(found[0], *_column_meanings(header, options, where), lines.dialect.delimiter == ";")
        for line, fields in rows:
            table.add(line, fields)
    except csv.Error as error:
        raise UserError(f"{where}:{lines.line_num}: no CSV: {error}; is a quotation mark left open?") from error
    known = list(images_below(files, ""))
    folder = find_folder(files, options, found[0], filter(None, table.rows), [*known, *map(without_suffix, known)])
    return folder, table.records(ImageFinder(files, options.images), ImageFinder(files, folder))


def _delimiter(text: str, options: ImportOptions, where: str) -> str:
    if options.delimiter is None:
        stated = SEPARATOR.match(text)
        return stated[1] if stated else max(",;\t", key=text.partition("\n")[0].count)
    delimiter = "\t" if options.delimiter in ("tab", "\\t") else options.delimiter
    if len(delimiter) != 1 or delimiter in '"\r\n ':
        raise UserError(f"{where}: delimiter {delimiter!r}: one character, or tab")
    return delimiter


def _column_meanings(header: Sequence[str], options: ImportOptions, where: str) -> tuple[dict[str, int], int, bool]:
    """Our names of the columns there are, with their numbers; how many there are in all; whether boxes are fractions.

    Raises UserError if the options or the header do not make sense.
    """
    if options.preset is not None and options.preset not in PRESETS:
        raise UserError(f"{where}: preset {options.preset!r}: the presets are {', '.join(PRESETS)}")
    preset = options.preset if options.preset or options.columns else _recognised(header)
    named = {**PRESETS.get(preset or "", {}), **options.columns}
    if not named:
        named = {name: name for name in OURS if name in header}
    shown = " ".join(", ".join(header[:12]).split())
    for ours, theirs in list(named.items()):
        if ours not in OURS:
            raise UserError(f"{where}: columns: {ours!r} is none of {', '.join(OURS)}")
        if header.count(theirs) > 1 or (theirs not in header and (ours in options.columns or ours not in OPTIONAL)):
            raise UserError(f"{where}: {header.count(theirs)} columns are called {theirs!r}; there are: {shown:.200}")
        if theirs not in header:
            del named[ours]
    if "image" not in named:
        remedy = "write a first line that does, such as image,label,x1,y1,x2,y2"
        if not any(map(NO_NAME.fullmatch, header)):
            remedy = "set `preset` or `columns`"
        raise UserError(f"{where}: no column is known to name the image; {remedy}; there are: {shown:.200}")
    _check_box_columns(named, where)
    if not preset and not options.columns:
        _check_left_out(header, named, where)
    normalized = preset in NORMALIZED if options.normalized is None else options.normalized
    return {ours: header.index(theirs) for ours, theirs in named.items()}, len(header), normalized


def _recognised(header: Sequence[str]) -> str | None:
    if not {"image", "label", *CORNERS} <= set(header):
        for name, columns in PRESETS.items():
            if {theirs for ours, theirs in columns.items() if ours not in OPTIONAL} <= set(header):
                return name
    return None


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


def _image_beside_classes(header: Sequence[str], first: Sequence[str], options: ImportOptions) -> str | None:
    """The column that names the image, if all others of a table, by its first row, say of a class each 0 or 1."""
    image = options.columns.get("image") or next((name for name in ("image", "filename") if name in header), None)
    others = [cell.strip() for name, cell in zip(header, first, strict=False) if name != image]
    other = options.preset or options.columns.keys() - {"image"} or set(OURS).intersection(header) - {"image"}
    alike = len(first) == len(header) == len(others) + 1 > 2 and BINARY.keys() >= set(others)
    return image if alike and not other else None


def _label_rows(rows: Rows, header: Sequence[str], image: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of an image and a label, from those with a column for each class. Raises UserError, naming the line."""
    for line, fields in rows:
        stated = dict(zip(header, map(str.strip, fields), strict=False))
        name = stated.pop(image, "")
        if len(fields) != len(header) or not BINARY.keys() >= set(stated.values()):
            raise UserError(f"{where}:{line}: is not {image} and {len(header) - 1} times 0 or 1, as the first row is")
        yield from ((line, [name, label]) for label in [label for label in stated if BINARY[stated[label]]] or [""])


class Table:
    """The rows of a table, joined by image as they come; one image's need not follow each other."""

    def __init__(self, file: str, columns: Mapping[str, int], width: int, normalized: bool, commas: bool) -> None:
        self.rows: dict[str, Imported] = {}
        self._file, self._columns, self._width, self._normalized = file, columns, width, normalized
        self._commas = commas  # whether numbers may have decimal commas
        self._corners = SIDES if "box_width" in columns else CORNERS if "x1" in columns else ()
        self._stated: dict[str, tuple[dict[str, str], int]] = {}  # of each image as a whole, and the line that did
        self._empty: dict[str, int] = {}  # the line that says that an image shows nothing

    def add(self, line: int, fields: list[str]) -> None:
        """Add a row of the file."""
        cells = {ours: fields[number].strip() for ours, number in self._columns.items() if number < len(fields)}
        image, origin = cells.get("image", ""), f"{self._file}:{line}"
        row = self.rows.setdefault(image, Imported(image, origin, normalized=self._normalized))
        if len(fields) != self._width:
            value = f"{len(fields)} fields at {origin}, the header has {self._width}"
            row.problems.append(("malformed annotation", value))
            return
        self._state(row, image, cells, line)
        if any(cells[name] for name in self._corners):
            row.boxes = row.boxes or []
            try:
                row.boxes.append(self._box(cells, origin))
            except ValueError as error:
                row.problems.append(("malformed box", f"{error!s:.200} at {origin}"))
        elif cells.get("label"):
            row.labels = [*(row.labels or ()), cells["label"]]
        else:
            self._empty.setdefault(image, line)

    def records(self, anywhere: ImageFinder, within: ImageFinder) -> Iterator[Imported]:
        """All records. within: finds images in their folder; anywhere: those that names lead out of it to."""
        for image, row in self.rows.items():
            if not image:
                row.problems.insert(0, ("malformed annotation", f"no image is named at {row.origin}"))
            found = _full_names(image, anywhere, within) if image else [row.origin]
            row.image, row.problems = found[0], [*ambiguity(image, found), *row.problems]
            if image in self._empty and (row.labels is not None or row.boxes is not None):
                place = f"{self._file}:{self._empty[image]}"
                row.problems.append(("contradiction", f"{place} says that it shows nothing, other lines that it does"))
            elif image in self._empty and self._corners:
                row.boxes = []
            elif image in self._empty and "label" in self._columns:
                row.labels = []
            if row.labels is not None:
                row.labels = sorted({*row.labels, *(box.name for box in row.boxes or ())})
            yield row

    def _box(self, cells: Mapping[str, str], origin: str) -> ImportedBox:
        stated = [cells[name].replace(",", ".") if self._commas else cells[name] for name in self._corners]
        x1, y1, x2, y2 = map(float, stated)
        if self._corners == SIDES:
            x2, y2 = x1 + x2, y1 + y2
        crowd = TRUTH.get(cells.get("crowd", "").lower())
        if not cells["label"]:
            raise ValueError("a box without a class")
        if crowd is None:
            raise ValueError(f"crowd is {cells['crowd']!r:.80}, neither 0 nor 1")
        return ImportedBox(cells["label"], x1, y1, x2, y2, origin, crowd)

    def _state(self, row: Imported, image: str, cells: Mapping[str, str], line: int) -> None:
        """What a row says of its image as a whole, which all rows of an image must say alike."""
        stated = {name: cells[name] for name in OF_IMAGE if name in cells}
        first, first_line = self._stated.setdefault(image, (stated, line))
        if first != stated:
            values = f"{[*stated.values()]} at {self._file}:{line}, but {[*first.values()]} at line {first_line}"
            row.problems.append(("contradiction", f"{values:.300}"))
        if first_line != line:
            return
        row.width = pixels(stated.get("image_width"), row)
        row.height = pixels(stated.get("image_height"), row)
        row.group = stated.get("group") or None
        row.split = split_named(stated.get("split", ""))
        if stated.get("split") and row.split is None:
            row.problems.append(("malformed annotation", f"split {stated['split']!r:.80}: not train, val or test"))


def _full_names(name: str, anywhere: ImageFinder, within: ImageFinder) -> list[str]:
    """The path inside the source of the image that a table means by a name, or several.

    A name without an image's suffix means the image of that stem, or, where there is none, a .jpg; one that leads out
    of the source, such as a URL, the image that it ends in.
    """
    if outside := anywhere.by_end_if_outside(name):
        return outside
    path, found = inside(within.folder or "", name), within.find(name)
    if len(found) == 1:
        return found
    return [path if found or without_suffix(path) != path else f"{path}.jpg"]  # of several, none
