"""What readers return and the import stage writes: records as a source states them, nothing corrected yet.

The Parquet file has the fields of Imported, with those of ImportedBox in `boxes`, and the source's name.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from typer import Option

from Data_processing.shared.parallel import batched
from Datasets.format.images import Range
from Datasets.format.records import Count
from Datasets.tools.errors import UserError

CORNERS = ("x1", "y1", "x2", "y2")
BOX_FIELDS = pa.struct(
    {
        "name": pa.string(),
        **dict.fromkeys(CORNERS, pa.float64()),
        "origin": pa.string(),
        "crowd": pa.bool_(),
        "outline": pa.binary(),
    }
)
IMPORTED_SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "origin": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "group": pa.string(),
        "split": pa.string(),
        "labels": pa.list_(pa.string()),
        "counts": pa.list_(pa.struct({"name": pa.string(), "count": pa.int32()})),
        "boxes": pa.list_(BOX_FIELDS),
        "normalized": pa.bool_(),
        "mask": pa.string(),
        "mask_names": pa.map_(pa.int32(), pa.string()),
        "problems": pa.list_(pa.struct({"rule": pa.string(), "value": pa.string()})),
    }
)
NAMES = ["boxes.list.element.name", "labels.list.element", "counts.list.element.name"]
BATCH = 5000
FEW_PIXELS = 2  # in which all boxes of a source cannot be
UNUSABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, zlib.error)  # what wrong values raise
MAX_SIDE = 1_000_000  # pixels; a larger stated width or height is an error, whatever else it is


class ImportedBox(msgspec.Struct, gc=False):
    """One object as a source states it: corners in pixels or fractions.

    origin: the file and line or id, for messages. outline: what the source draws around the object (see outlines.py).
    """

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    origin: str
    crowd: bool = False
    outline: bytes | None = None


class LeftOut(Exception):
    """A shape without area, which no box stands for; the message is its kind."""


@dataclass(slots=True)
class Imported:
    """A record as a source states it; None is what it does not state.

    origin: file and line or id. mask: the path inside the source of an image file of the image's size; mask_names:
    what its pixels stand for, as mask_values.py says; 0 without a name is background, 255 without one not annotated,
    unless the names are of colours. normalized: whether boxes and outlines are in fractions of the image's width and
    height. problems: pairs of a rule of cleaning/rules.py and the value at fault, of statements that no record can
    have. left_out: the kinds of shapes that no box stands for, such as `point`, which are only counted.
    """

    image: str
    origin: str
    width: int | None = None
    height: int | None = None
    group: str | None = None
    split: str | None = None
    labels: list[str] | None = None
    counts: list[Count] | None = None
    boxes: list[ImportedBox] | None = None
    normalized: bool = False
    mask: str | None = None
    mask_names: Mapping[int, str | None] | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def numbered(self, shapes: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """What to call each shape in a message, and the shape."""
        return ((f"{self.origin}, shape {number}", shape) for number, shape in enumerate(shapes, 1))

    def add_shapes(
        self, shapes: Iterable[tuple[str, Any]], boxes_of: Callable[[Any, str], Iterable[ImportedBox]]
    ) -> None:
        """Add the boxes that a function makes of each shape and its name, and the problems of what is no shape.

        boxes_of: raises LeftOut, or one of UNUSABLE. shapes: each behind what to call it in a message.
        """
        self.boxes = []
        for origin, shape in shapes:
            try:
                made = list(boxes_of(shape, origin))
                if not all(isinstance(box.name, str) for box in made):
                    raise ValueError(f"the class {made[0].name!r:.40}")
                self.boxes += made
            except LeftOut as kind:
                self.left_out.append(str(kind))
            except UNUSABLE as error:
                reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                self.problems.append(("malformed box", f"{reason:.200} in {origin}"))

    def add_labels(self, names: Sequence[Any]) -> None:
        """Add labels of the whole image to those of its boxes; a problem where one is no text."""
        if not all(isinstance(name, str) and name for name in names):
            self.problems.append(("malformed annotation", f"labels {names[:3]!s:.100}"))
        else:
            self.labels = sorted({*names, *(box.name for box in self.boxes or ())})

    def set_size(self, width: Any, height: Any) -> None:
        """State the image's size in pixels. None where it is null, blank, 0 or senseless; the last is a problem."""
        self.width, self.height = self._pixels(width), self._pixels(height)

    def _pixels(self, stated: Any) -> int | None:
        try:
            value = float((stated.strip() if isinstance(stated, str) else stated) or 0)
        except UNUSABLE:
            value = -1
        if 1 <= value <= MAX_SIDE:
            return int(value)
        if value:
            self.problems.append(("malformed annotation", f"a width or height of {stated!s:.80} pixels"))
        return None


def in_words(left_out: Mapping[str, int]) -> str:
    """How many of each kind, as `12 points, 3 polylines`."""
    return ", ".join(f"{number} {kind.rstrip('s')}{'s' * (number > 1)}" for kind, number in left_out.items())


@dataclass(frozen=True)
class ImportOptions:
    """What a source's entry in params.yaml says beside its format and path.

    images: "" is the source itself. columns: our name to the file's. None and what is empty leave it to the reader or
    the stage.
    """

    annotations: Annotated[str | None, Option(help="the annotation file, or the folder; * for any text")] = None
    images: Annotated[str | None, Option(help="folder of the images; `.` for the source itself")] = None
    columns: Mapping[str, str] = field(default_factory=dict)
    preset: Annotated[str | None, Option(help="csv: tensorflow, vott or openimages; datumaro: its name")] = None
    normalized: Annotated[bool | None, Option(help="boxes in fractions of the size")] = None
    delimiter: Annotated[str | None, Option(help="csv: between fields; tab")] = None
    label_separator: Annotated[str | None, Option(help="csv: between the labels in one field")] = None
    classes: Annotated[list[str], Option(help="names in the order of numbers or values")] = field(default_factory=list)
    ignore: Annotated[int | None, Option(help="masks: value of pixels that are not annotated")] = None
    instances: Annotated[bool | None, Option(help="masks: each value is an object")] = None
    range: Annotated[list[str], Option(help="black and white above 8 bits, or `image`")] = field(default_factory=list)
    split: Annotated[str | None, Option(help="train, val or test, where all its images belong")] = None
    corrects: Annotated[list[str], Option(help="source whose annotations these replace")] = field(default_factory=list)
    license: str | None = None  # SPDX

    def value_range(self) -> Range:
        """What becomes 0 and 255 of images of more than 8 bits, as `range` says. Raises UserError."""
        if not self.range or [*self.range] == ["image"]:
            return self.range[0] if self.range else None
        with suppress(ValueError):
            low, high = map(float, self.range)
            if -math.inf < low < high < math.inf:
                return low, high
        raise UserError(f"range: {' '.join(self.range)}: neither `image` nor two numbers, darkest and brightest")


@dataclass(frozen=True)
class About:
    """Where records come from: the directory or archive, the folder of it with the images, the source's entry.

    images: "" for the source itself; None if the records name all.
    """

    path: str
    images: str | None
    options: ImportOptions


def write_imported(rows: Iterable[Imported], source: str, path: Path, about: About) -> int:
    """Write the rows of a source to a Parquet file and return their number.

    about: for the stages that follow. Raises UserError if boxes in pixels must be fractions.
    """
    schema = IMPORTED_SCHEMA.with_metadata({"about": msgspec.json.encode(about)})
    count, farthest = 0, -math.inf
    encoding = {"compression": "zstd", "use_dictionary": NAMES, "write_statistics": False}
    with pq.ParquetWriter(path, schema, **encoding) as writer, ThreadPoolExecutor(1) as thread:
        written = thread.submit(bool)
        for batch in batched(rows, BATCH):
            prepared = to_arrow(batch).replace_schema_metadata(schema.metadata)
            farthest = max(farthest, _farthest(prepared))
            written.result()
            written = thread.submit(writer.write_batch, prepared)  # compresses while the next batch is made
            count += len(batch)
        written.result()
    if 0 < farthest <= FEW_PIXELS:
        raise UserError(
            f"{source}: no box reaches further than {farthest:g} pixels into its image; if they are fractions of its "
            "size, a table or COCO can say so by `normalized: true`, all else must have pixels"
        )
    return count


def _farthest(batch: pa.RecordBatch) -> float:
    """The largest coordinate of boxes; infinity if some are in fractions, -infinity if there are none."""
    if pc.any(batch["normalized"]).as_py():
        return math.inf
    boxes = batch["boxes"].flatten()
    return max((pc.max(boxes.field(name)).as_py() or -math.inf for name in CORNERS), default=-math.inf)


def read_about(path: Path) -> About:
    """What a file of records says of its source."""
    return msgspec.json.decode(pq.read_schema(path).metadata[b"about"], type=About)


def to_arrow(rows: Sequence[Imported]) -> pa.RecordBatch:
    """Rows as IMPORTED_SCHEMA has them; boxes are made field by field, several times as fast as one by one."""
    boxes = [box for row in rows for box in row.boxes or ()]
    fields = [pa.array(list(map(attrgetter(column.name), boxes)), column.type) for column in BOX_FIELDS]
    ends = pa.array([0, *accumulate(len(row.boxes or ()) for row in rows)], pa.int32())
    drawn = pa.StructArray.from_arrays(fields, fields=list(BOX_FIELDS))
    unknown = pa.array([row.boxes is None for row in rows], pa.bool_())
    others = [column for column in IMPORTED_SCHEMA if column.name != "boxes"]
    columns = {column.name: pa.array(list(map(attrgetter(column.name), rows)), column.type) for column in others}
    columns["boxes"] = pa.ListArray.from_arrays(ends, drawn, mask=unknown)
    return pa.RecordBatch.from_pydict(columns, IMPORTED_SCHEMA)


def from_arrow(batch: pa.RecordBatch) -> list[Imported]:
    """The rows that to_arrow was given."""
    drawn = batch["boxes"].flatten()
    boxes = list(map(ImportedBox, *(drawn.field(name).to_pylist() for name in ImportedBox.__struct_fields__)))
    lengths = batch["boxes"].value_lengths().to_pylist()
    ends = accumulate(length or 0 for length in lengths)
    others = batch.drop_columns("boxes").to_pylist(maps_as_pydicts="strict")
    rows = [Imported(**values) for values in others]
    for row, length, end in zip(rows, lengths, ends, strict=True):
        row.boxes = None if length is None else boxes[end - length : end]
        row.problems = [(problem["rule"], problem["value"]) for problem in row.problems]  # type: ignore[call-overload]
    return rows
