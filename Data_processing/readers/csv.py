"""CSV: a table with a row an object, or a row an image and its label.

A row with a label but no box labels the whole image; a row with neither says that the image shows nothing. The file is
in UTF-8; its delimiter is an option, else what a first line such as `sep=;` says, else the one of comma, semicolon, tab
and | that the header has most of. With semicolons, boxes may have decimal commas.

Columns are known by the names that programs give them (_tables.py); the option `columns` says what others mean. A box
is in four columns (two corners; x, y, width, height; the centre), or in one cell: `bbox` is [x, y, width, height],
`corners` [x1, y1, x2, y2]. `outline` has run lengths of Kaggle: start and length in turn, pixels counted from 1,
column by column; an empty one says that nothing of its class is there. Open Images states fractions
(https://storage.googleapis.com/openimages/web/download_v7.html). A table may also have a column of 0 and 1 for each
class, as Roboflow writes several labels of an image; or, with `label_separator`, several labels in a field.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, product

from Data_processing.readers import _tables as tables
from Data_processing.shared.annotation_files import only_file, read_text, split_named
from Data_processing.shared.files import SourceFiles, inside
from Data_processing.shared.image_names import find_folder, match_nearly
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import outlined
from Datasets.format.files import visible
from Datasets.tools.errors import UserError

TRUTH = {"": False, "0": False, "-1": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
SEPARATOR = re.compile(r"sep=([,;\t|])\r?\n", re.IGNORECASE)  # a first line of Excel's
FIRST = 200  # rows that show what a column holds
SEVERAL = 10  # boxes that do not all look like two corners by chance
NOTHING = {"", "-1", "[]", "nan", "none", "null"}  # of a cell that could hold a shape
SIGNS = {"space": " ", "tab": "\t", "none": None}  # what label_separator may say in words
JOINED = re.compile(r"(.+\.\w{3,4})_(.+)")  # an image and a class in one cell, as Kaggle has them
Rows = Iterable[tuple[int, list[str]]]  # each with its line
BINARY = {"0": False, "0.0": False, "1": True, "1.0": True}


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The table: the file named, or the only .csv or .tsv. Raises UserError if that leaves none or several."""
    every = visible(files.names(), {".csv", ".tsv"})
    return only_file(files, (name for name in every if not tables.DESCRIPTIONS.search(name)), "CSV", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or as the source's files suggest) and the records."""
    where, text = f"{files.path}: {found[0]}", read_text(files, found[0])
    if not text.strip():
        raise UserError(f"{where}: is empty; its first line names the columns")
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # run lengths may be long
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, options, where), strict=True)
    try:
        if SEPARATOR.match(text):
            next(lines)
        header = [name.strip() for name in next(lines, [])]
        rows: Rows = ((lines.line_num, fields) for fields in lines if any(map(str.strip, fields)))
        first = list(islice(rows, FIRST))
        rows = chain(first, rows)
        if first and (image := _image_beside_classes(header, first[0][1], options)):
            rows, header, first = _label_rows(rows, header, image, where), ["image", "label"], []
            options = replace(options, columns={})
        columns = tables.column_meanings(header, [fields for _, fields in first], options, where)
        open_images = options.preset == "openimages" or tables.OPEN_IMAGES.issubset(header)
        normalized = open_images if options.normalized is None else options.normalized
        table = Table(found[0], columns, len(header), lines.dialect.delimiter == ";", normalized, options)
        table.described = tables.class_descriptions(files) if open_images or tables.OPEN_LABELS.issubset(header) else {}
        for line, fields in rows:
            table.add(line, fields)
    except csv.Error as error:
        raise UserError(f"{where}:{lines.line_num}: no CSV: {error}; is a quotation mark left open?") from error
    table.check(where)
    folder = find_folder(files, options, found[0], filter(None, table.rows))
    return folder, table.drawn(match_nearly(table.records(folder), files, options), files)


def _delimiter(text: str, options: ImportOptions, where: str) -> str:
    if options.delimiter is None:
        stated = SEPARATOR.match(text)
        return stated[1] if stated else max(",;\t|", key=text.partition("\n")[0].count)
    delimiter = "\t" if options.delimiter in ("tab", "\\t") else options.delimiter
    if len(delimiter) != 1 or delimiter in '"\r\n ':
        raise UserError(f"{where}: delimiter {delimiter!r}: one character, or tab")
    return delimiter


def _image_beside_classes(header: Sequence[str], first: Sequence[str], options: ImportOptions) -> str | None:
    """The column that names the image, if all others of a table, by its first row, say of a class each 0 or 1."""
    known = (name for word in tables.WORDS["image"].split() for name in header if tables.plain(name) == word)
    image = options.columns.get("image") or next(known, None)
    others = [cell.strip() for name, cell in zip(header, first, strict=False) if name != image]
    other = options.preset or options.columns.keys() - {"image"} or set(tables.OURS).intersection(header) - {"image"}
    other = other or set(tables.WORDS["label"].split()).intersection(map(tables.plain, header))
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
    """The rows of a table, joined by image.

    columns: their numbers, by our names; width: how many there are. commas: whether numbers may have decimal ones.
    """

    def __init__(
        self, file: str, columns: Mapping[str, int], width: int, commas: bool, normalized: bool, options: ImportOptions
    ) -> None:
        self.rows: dict[str, Imported] = {}
        self._file, self._columns, self._width, self._commas = file, columns, width, commas
        self._normalized, self._options, self._box = normalized, options, tables.shape_of(columns)
        self._separator = SIGNS.get(options.label_separator or "none", options.label_separator)
        self.described: Mapping[str, str] = {}  # the names of classes that have ids
        self._labels: set[str] = set()
        self._like_corners: list[bool] = []  # of each box in a cell
        self._stated: dict[str, tuple[dict[str, str], int]] = {}  # of each image as a whole, and the line that did
        self._empty: dict[str, int] = {}  # the line that says that an image shows nothing
        # Class, cell, origin, crowd; by the record's origin.
        self._outlines: dict[str, list[tuple[str, str, str, bool]]] = defaultdict(list)

    def add(self, line: int, fields: list[str]) -> None:
        """Add a row of the file."""
        cells = {ours: fields[number].strip() for ours, number in self._columns.items() if number < len(fields)}
        if joined := JOINED.fullmatch(cells.get("image_label", "")):
            cells |= {"image": joined[1], "label": joined[2]}
        image, origin = cells.get("image", ""), f"{self._file}:{line}"
        row = self.rows.setdefault(image, Imported(image, origin, normalized=self._normalized))
        if len(fields) != self._width:
            row.problems.append(("malformed annotation", f"{len(fields)} fields at {origin}, not {self._width}"))
            return
        self._state(row, image, cells, line)
        cell = next((name for name in tables.ONE_CELL if cells.get(name, "").lower() not in NOTHING), "")
        if cell or any(cells[name] for name in self._box):
            row.boxes = row.boxes or []
            try:
                row.boxes += self._drawn_in(row, cells, cell, origin)
            except ValueError as error:
                row.problems.append(("malformed box", f"{error!s:.200} at {origin}"))
        elif "outline" in cells:  # nothing of this class
            row.boxes = row.boxes or []
        elif cells.get("label"):
            row.labels = [*(row.labels or ()), *self._names(cells)]
        else:
            self._empty.setdefault(image, line)

    def check(self, where: str) -> None:
        """Raise UserError for labels that seem to be several, and for boxes in a cell that may be two corners."""
        for sign in "|;, " if self._options.label_separator is None else "":
            parts = {label: tables.parts_of(label, sign) for label in self._labels if sign in label}
            known = Counter(chain(self._labels, *parts.values()))
            for label, some in parts.items():
                alone = self._labels.issuperset(some) if sign in ", " else any(known[part] > 1 for part in some)
                if len(some) > 1 and alone:
                    raise UserError(
                        f"{where}: the label {label!r:.80} is made of others; set `label_separator: "
                        f"{'space' if sign == ' ' else repr(sign)}`, or `none` if it is one class"
                    )
        if len(self._like_corners) >= SEVERAL and all(self._like_corners):
            raise UserError(
                f"{where}: the boxes in one cell may be x, y, width, height or x1, y1, x2, y2; say which: `columns: "
                "[bbox=NAME]` or `columns: [corners=NAME]`"
            )

    def records(self, folder: str) -> Iterator[Imported]:
        """All records, without outlines, of images in a folder."""
        for image, row in self.rows.items():
            if not image:
                row.problems.insert(0, ("malformed annotation", f"no image is named at {row.origin}"))
            row.image = inside(folder, image) if image else row.origin
            if image in self._empty and (row.labels is not None or row.boxes is not None):
                place = f"{self._file}:{self._empty[image]}"
                row.problems.append(("contradiction", f"{place} says that it shows nothing, other lines that it does"))
            elif image in self._empty and (self._box or {*tables.ONE_CELL} & self._columns.keys()):
                row.boxes = []
            elif image in self._empty and "label" in self._columns:
                row.labels = []
            yield row

    def drawn(self, rows: Iterable[Imported], files: SourceFiles) -> Iterator[Imported]:
        """The records with their outlines."""
        for row in rows:
            for name, cell, origin, crowd in self._outlines.get(row.origin, ()):
                try:
                    row.boxes = [*(row.boxes or ()), outlined(name, tables.outline_in(cell, row, files), origin, crowd)]
                except ValueError as error:
                    row.problems.append(("malformed box", f"{error!s:.200} at {origin}"))
            if row.labels is not None:
                row.labels = sorted({*row.labels, *(box.name for box in row.boxes or ())})
            yield row

    def _names(self, cells: Mapping[str, str]) -> list[str]:
        """The classes of a row."""
        label = cells.get("label", "" if "image_label" in cells else "".join(self._options.classes))
        label = self.described.get(label, label)
        self._labels.add(label)
        if label[:1] == "[" and label[-1:] == "]":
            return [part.strip("'\"") for part in tables.parts_of(label[1:-1], ",")]
        return tables.parts_of(label, self._separator) if self._separator else [label] if label else []

    def _drawn_in(self, row: Imported, cells: Mapping[str, str], cell: str, origin: str) -> list[ImportedBox]:
        """The boxes of a row. cell: the column that has them all, if one has; outlines wait. Raises ValueError."""
        crowd, names = TRUTH.get(cells.get("crowd", "").lower()), self._names(cells)
        if not names:
            raise ValueError("a box without a class")
        if crowd is None:
            raise ValueError(f"crowd is {cells['crowd']!r:.80}, neither 0 nor 1")
        if cell == "outline":
            self._outlines[row.origin] += [(name, cells[cell], origin, crowd) for name in names]
            return []
        stated = [cells[name].replace(",", ".") if self._commas else cells[name] for name in self._box]
        found = tables.boxes_in(cells[cell]) if cell else [[*map(float, stated)]]
        if cell == "bbox" and cell not in self._options.columns:
            self._like_corners += [x2 > x1 and y2 > y1 for x1, y1, x2, y2 in found]
        if not cell and self._box == tables.CENTRE:
            found = [[x - width / 2, y - height / 2, width, height] for x, y, width, height in found]
        if cell == "bbox" or (not cell and self._box != tables.CORNERS):
            found = [[x, y, x + width, y + height] for x, y, width, height in found]
        return [ImportedBox(name, x1, y1, x2, y2, origin, crowd) for name, (x1, y1, x2, y2) in product(names, found)]

    def _state(self, row: Imported, image: str, cells: Mapping[str, str], line: int) -> None:
        """What a row says of its image as a whole, which all rows of an image must say alike."""
        stated = {name: cells[name] for name in tables.OF_IMAGE if name in cells}
        first, first_line = self._stated.setdefault(image, (stated, line))
        if first != stated:
            values = f"{[*stated.values()]} at {self._file}:{line}, but {[*first.values()]} at line {first_line}"
            row.problems.append(("contradiction", f"{values:.300}"))
        if first_line != line:
            return
        row.set_size(stated.get("image_width"), stated.get("image_height"))
        row.group = stated.get("group") or None
        row.split = split_named(stated.get("split", ""))
        if stated.get("split") and row.split is None:
            row.problems.append(("malformed annotation", f"split {stated['split']!r:.80}: not train, val or test"))
