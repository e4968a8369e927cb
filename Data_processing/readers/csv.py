"""CSV: a table with a row a box, or a row an image and its label; what its columns mean is in csv_columns.py.

A row with a label but no box labels the whole image; a row with neither says that the image shows nothing. The file is
in UTF-8; its delimiter is an option, else what a first line such as `sep=;` says, else the one of comma, semicolon and
tab that the header has most of. With semicolons, boxes may have decimal commas.
"""

import csv
import io
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from operator import itemgetter

from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.sources.annotation_files import (
    ImageFinder,
    ambiguity,
    guess_folder,
    only_file,
    parse_numbers,
    pixels,
    read_text,
    split_named,
)
from Data_processing.sources.csv_columns import (
    CORNERS,
    OF_IMAGE,
    SIDES,
    column_meanings,
    image_beside_classes,
    label_rows,
)
from Data_processing.sources.files import MissingFile, SourceFiles, images_below, inside
from Datasets.format.file_names import IMAGE_SUFFIXES, visible
from Datasets.tools.errors import UserError

TRUTH = {"": False, "0": False, "-1": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
SEPARATOR = re.compile(r"sep=([,;\t|])\r?\n", re.IGNORECASE)  # a first line of Excel's
DELIMITERS = {",": ",", ";": ";", "\t": "\t", "\\t": "\t", "tab": "\t"}


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The table: the file named, or the only .csv or .tsv. Raises UserError if that leaves none or several."""
    return only_file(files, visible(files.names(), {".csv", ".tsv"}), "CSV", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or as the source's files suggest) and the records."""
    where, text = f"{files.path}: {found[0]}", _text(files, found[0])
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, options, where), strict=True)
    try:
        if SEPARATOR.match(text):
            next(lines)
        header = [name.strip() for name in next(lines, [])]
        rows = _numbered(lines)
        first = list(islice(rows, 1))
        rows = chain(first, rows)
        if first and (image := image_beside_classes(header, first[0][1], options)):
            rows, header = label_rows(rows, header, image, where), ["image", "label"]
            options = replace(options, columns={})
        table = Table(found[0], *column_meanings(header, options, where), lines.dialect.delimiter == ";")
        for start, fields in rows:
            table.add(start, fields)
    except csv.Error as error:
        raise UserError(f"{where}:{lines.line_num}: no CSV: {error}; is a quotation mark left open?") from error
    folder, full_names = _image_names(files, found[0], options, table.rows)
    return folder, table.records(full_names)


def _numbered(lines: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the line that each begins at."""
    start = lines.line_num + 1  # type: ignore[attr-defined]
    for fields in lines:
        if any(map(str.strip, fields)):
            yield start, fields
        start = lines.line_num + 1  # type: ignore[attr-defined]


def _text(files: SourceFiles, file: str) -> str:
    try:
        text = read_text(files, file)
    except MissingFile as error:
        raise UserError(f"{files.path}: {error}") from error
    if not text.strip():
        raise UserError(f"{files.path}: {file}: is empty; its first line names the columns")
    return text


def _delimiter(text: str, options: ImportOptions, where: str) -> str:
    if options.delimiter is None and (stated := SEPARATOR.match(text)):
        return stated[1]
    if options.delimiter is None:
        header = text.partition("\n")[0]
        return max(",;\t", key=header.count)
    if options.delimiter not in DELIMITERS and (len(options.delimiter) != 1 or options.delimiter in '"\r\n '):
        raise UserError(f"{where}: delimiter {options.delimiter!r}: one character, or tab")
    return DELIMITERS.get(options.delimiter, options.delimiter)


class Table:
    """The rows of a table, joined by image as they come; one image's need not follow each other."""

    def __init__(self, file: str, columns: Mapping[str, int], width: int, normalized: bool, commas: bool) -> None:
        self.rows: dict[str, Imported] = {}
        self._file, self._columns, self._width, self._normalized = file, columns, width, normalized
        self._commas = commas  # whether numbers may have decimal commas
        self._sides = "box_width" in columns
        box = [columns[name] for name in (SIDES if self._sides else CORNERS) if name in columns]
        self._box = itemgetter(*box) if box else None
        self._label, self._crowd = columns.get("label"), columns.get("crowd")
        self._of_image = [columns[name] for name in OF_IMAGE if name in columns]
        self._stated: dict[str, tuple[list[str], int]] = {}
        self._empty: dict[str, int] = {}  # the line that says that an image shows nothing

    def add(self, line: int, fields: list[str]) -> None:
        """Add a row of the file."""
        if len(fields) != self._width:
            self._malformed(line, fields)
            return
        image, origin = fields[self._columns["image"]].strip(), f"{self._file}:{line}"
        row = self.rows.get(image)
        if row is None:
            row = self.rows[image] = Imported(image, origin, normalized=self._normalized)
        self._state(row, image, fields, line)
        label = "" if self._label is None else fields[self._label].strip()
        stated = self._box(fields) if self._box else ()
        if any(map(str.strip, stated)):
            self._draw(row, label, stated, fields, origin)
        elif label:
            row.labels = [*(row.labels or ()), label]
        else:
            self._empty.setdefault(image, line)

    def records(self, full_names: Callable[[str], list[str]]) -> Iterator[Imported]:
        """All records; full_names: from the name that the table gives to the path inside the source, or several."""
        for image, row in self.rows.items():
            if not image:
                row.problems.insert(0, ("malformed annotation", f"no image is named at {row.origin}"))
            found = full_names(image) if image else [row.origin]
            row.image, row.problems = found[0], [*ambiguity(image, found), *row.problems]
            if image in self._empty:
                self._leave_empty(row, self._empty[image])
            if row.labels is not None:
                row.labels = sorted({*row.labels, *(box.name for box in row.boxes or ())})
            yield row

    def _leave_empty(self, row: Imported, line: int) -> None:
        if row.labels is not None or row.boxes is not None:
            place = f"{self._file}:{line}"
            row.problems.append(("contradiction", f"{place} says that it shows nothing, other lines that it does"))
        elif self._box:
            row.boxes = []
        elif "label" in self._columns:
            row.labels = []

    def _malformed(self, line: int, fields: list[str]) -> None:
        place = self._columns["image"]
        image, origin = fields[place].strip() if place < len(fields) else "", f"{self._file}:{line}"
        row = self.rows.setdefault(image, Imported(image, origin, normalized=self._normalized))
        row.problems.append(("malformed annotation", f"{len(fields)} fields at {origin}, the header has {self._width}"))

    def _draw(self, row: Imported, label: str, stated: Sequence[str], fields: list[str], origin: str) -> None:
        row.boxes = row.boxes or []
        assert isinstance(row.boxes, list)
        if self._commas:
            stated = [text.replace(",", ".") for text in stated]
        try:
            x1, y1, x2, y2 = parse_numbers(stated)
            if not label:
                raise ValueError("a box without a class")
            crowd = self._crowd is not None and TRUTH[fields[self._crowd].strip().lower()]
        except ValueError as error:
            row.problems.append(("malformed box", f"{error!s:.200} at {origin}"))
        except KeyError as error:
            row.problems.append(("malformed box", f"crowd is {error!s:.80} at {origin}, neither 0 nor 1"))
        else:
            if self._sides:
                x2, y2 = x1 + x2, y1 + y2
            row.boxes.append(ImportedBox(label, x1, y1, x2, y2, origin, crowd))

    def _state(self, row: Imported, image: str, fields: list[str], line: int) -> None:
        """What a row says of its image as a whole, which all rows of an image must say alike."""
        values = [fields[number] for number in self._of_image]
        first = self._stated.get(image)
        if first is not None:
            if first[0] != values:
                told = f"{values} at {self._file}:{line}, but {first[0]} at line {first[1]}"
                row.problems.append(("contradiction", f"{told:.300}"))
            return
        self._stated[image] = (values, line)
        text = dict(zip((name for name in OF_IMAGE if name in self._columns), map(str.strip, values), strict=True))
        row.width = pixels(text.get("image_width", ""), row)
        row.height = pixels(text.get("image_height", ""), row)
        row.group = text.get("group") or None
        if split := text.get("split"):
            row.split = split_named(split)
            if row.split is None:
                row.problems.append(("malformed annotation", f"split {split!r:.80} is none of train, val and test"))


def _image_names(
    files: SourceFiles, file: str, options: ImportOptions, images: Iterable[str]
) -> tuple[str, Callable[[str], list[str]]]:
    """The folder of the images, and from a table's name of an image to its path inside the source, or several.

    A name without an image's suffix means the image of that stem, or, where there is none, a .jpg; one that leads out
    of the source, such as a URL, the image that it ends in.
    """
    present = set(images_below(files, ""))
    by_stem: dict[str, list[str]] = defaultdict(list)
    for path in present:
        by_stem[path.rpartition(".")[0]].append(path)
    folder = options.images
    if folder is None:
        folder = guess_folder(files, file, filter(None, images), present.union(by_stem))
    finder = ImageFinder(files, options.images)

    def full_names(name: str) -> list[str]:
        if ended := finder.by_end_if_outside(name):
            return ended
        path = inside(folder, name)
        if posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES:
            return [path]
        found = by_stem.get(path, [])
        return found if len(found) == 1 else [path if found else f"{path}.jpg"]  # of several, none

    return folder, full_names
