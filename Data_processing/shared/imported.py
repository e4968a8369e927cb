"""What readers return and the import stage writes: records as a source states them, and where each statement stands.

The Parquet file has the record's columns, nothing corrected yet, and some more: origins, the place of the record and of
each of its boxes, for messages; outlines, what the source draws around the object of each box (see outlines.py);
normalized, whether boxes and outlines are in fractions of the image's width and height instead of pixels; mask_names,
the classes of the mask's pixel values; and problems, statements that no record can have, such as an annotation of an
image that the source does not list. Of a mask it has the path only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise
from operator import attrgetter
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from Datasets.format.records import BOX_TYPE, SCHEMA, Count
from Datasets.tools.errors import UserError

IMPORTED_SCHEMA = pa.schema(
    [
        *SCHEMA,
        pa.field("origins", pa.struct({"image": pa.string(), "boxes": pa.list_(pa.string())})),
        pa.field("outlines", pa.list_(pa.binary())),
        pa.field("normalized", pa.bool_()),
        pa.field("mask_names", pa.map_(pa.int32(), pa.string())),
        pa.field("problems", pa.list_(pa.struct({"rule": pa.string(), "value": pa.string()}))),
    ]
)
BATCH = 5000
FEW_PIXELS = 2  # in which all boxes of a source cannot be
MAX_SIDE = 1_000_000  # pixels; a larger stated width or height is an error, whatever else it is


class ImportedBox(msgspec.Struct, gc=False):
    """One object as a source states it: corners in pixels or fractions, and the file and line or id for messages."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    origin: str
    crowd: bool = False
    outline: bytes | None = None


@dataclass(slots=True)
class Imported:
    """A record as a source states it; None is what it does not state.

    origin: file and line or id. mask: the path inside the source of a PNG file of the image's size; mask_names: the
    class that a value of its pixels stands for; 0 is background, 255 not annotated. problems: pairs
    of a rule of cleaning/verdicts.py and the value at fault.
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
    mask_names: Mapping[int, str] | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ImportOptions:
    """What a source's entry in params.yaml says beside its format and path.

    annotations: the file or folder of annotations, or a pattern of files. images: the folder of images ("" for the
    source itself). columns: of a CSV file, our name to the file's; preset: a set of them; normalized: whether its
    boxes are fractions; delimiter: between its fields. None and {} leave it to the reader.
    """

    annotations: str | None = None
    images: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    preset: str | None = None
    normalized: bool | None = None
    delimiter: str | None = None


def write_imported(
    rows: Iterable[Imported], source: str, path: Path, *, source_path: Path = Path(), images: str = ""
) -> int:
    """Write the rows of a source to a Parquet file and return their number.

    source_path: the directory or archive read. images: the folder of it that the images are in.
    Raises UserError if boxes in pixels must be fractions.
    """
    schema = IMPORTED_SCHEMA.with_metadata({"source_path": source_path.as_posix(), "images": images})
    iterator, count, farthest = iter(rows), 0, -math.inf
    options = {"compression": "zstd", "use_dictionary": ["source", *NAMES], "write_statistics": False}
    with pq.ParquetWriter(path, schema, **options) as writer, ThreadPoolExecutor(1) as thread:
        written = thread.submit(bool)
        while batch := list(islice(iterator, BATCH)):
            prepared = to_arrow(batch, source).replace_schema_metadata(schema.metadata)
            farthest = max(farthest, _farthest(prepared))
            written.result()
            written = thread.submit(writer.write_batch, prepared)  # compresses while the next batch is made
            count += len(batch)
        written.result()
    if 0 < farthest <= FEW_PIXELS:
        raise UserError(
            f"{source}: no box reaches further than {farthest:g} pixels into its image; if they are fractions of its "
            "size, a table can say so by `normalized: true`, all else must have pixels"
        )
    return count


def _farthest(batch: pa.RecordBatch) -> float:
    """The largest coordinate of boxes; infinity if some are in fractions, -infinity if there are none."""
    if pc.any(batch["normalized"]).as_py():
        return math.inf
    boxes = batch["boxes"].flatten()
    return max((pc.max(boxes.field(n)).as_py() or -math.inf for n in ("x1", "y1", "x2", "y2")), default=-math.inf)


def images_folder(path: Path) -> str:
    """The folder of the source that the images are in, "" for the source itself."""
    return pq.read_schema(path).metadata[b"images"].decode()


def source_path(path: Path) -> str:
    """The directory or archive that the records were imported from."""
    return pq.read_schema(path).metadata[b"source_path"].decode()


NAMES = ("boxes.list.element.name", "labels.list.element", "counts.list.element.name")
PLAIN = ("image", "width", "height", "group", "split", "labels", "counts", "normalized")


def to_arrow(rows: Sequence[Imported], source: str) -> pa.RecordBatch:
    """Rows as IMPORTED_SCHEMA has them; made column by column, several times as fast as row by row."""
    boxes = [box for row in rows for box in row.boxes or ()]
    offsets = pa.array([0, *accumulate(len(row.boxes or ()) for row in rows)], pa.int32())
    unknown = pa.array([row.boxes is None for row in rows], pa.bool_())

    def of_boxes(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array(list(map(attrgetter(name), boxes)), kind)

    def lists(values: pa.Array) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, values, mask=unknown)

    segmentation = BOX_TYPE.field("segmentation")
    corners = [of_boxes(column.name, column.type) for column in BOX_TYPE if column != segmentation]
    drawn = pa.StructArray.from_arrays([*corners, pa.nulls(len(boxes), segmentation.type)], fields=list(BOX_TYPE))
    origins = [pa.array([row.origin for row in rows], pa.string()), lists(of_boxes("origin", pa.string()))]
    values = {
        **{name: [getattr(row, name) for row in rows] for name in PLAIN},
        "source": [source] * len(rows),
        "mask": [None if row.mask is None else {"path": row.mask} for row in rows],
        "mask_names": [None if row.mask_names is None else list(row.mask_names.items()) for row in rows],
        "problems": [[{"rule": rule, "value": value} for rule, value in row.problems] for row in rows],
    }
    columns = {
        "boxes": lists(drawn),
        "origins": pa.StructArray.from_arrays(origins, fields=list(IMPORTED_SCHEMA.field("origins").type)),
        "outlines": lists(of_boxes("outline", pa.binary())),
    }
    nothing = [None] * len(rows)
    for column in IMPORTED_SCHEMA:
        if column.name not in columns:
            columns[column.name] = pa.array(values.get(column.name, nothing), column.type)
    return pa.record_batch({name: columns[name] for name in IMPORTED_SCHEMA.names}, IMPORTED_SCHEMA)


def from_arrow(batch: pa.RecordBatch) -> list[Imported]:
    """The rows that to_arrow was given."""
    values = batch["boxes"].flatten()
    origins, outlines = (c.flatten().to_pylist() for c in (batch["origins"].field("boxes"), batch["outlines"]))
    corners = [values.field(name).to_pylist() for name in ("name", "x1", "y1", "x2", "y2")]
    boxes = list(map(ImportedBox, *corners, origins, values.field("crowd").to_pylist(), outlines))
    ends = [0, *batch["boxes"].value_lengths().fill_null(0).to_numpy().cumsum().tolist()]
    stated = batch["boxes"].is_valid().to_pylist()
    of_image = [boxes[a:b] if known else None for (a, b), known in zip(pairwise(ends), stated, strict=True)]
    plain = {name: batch[name].to_pylist() for name in PLAIN}
    problems = [[(p["rule"], p["value"]) for p in found] for found in batch["problems"].to_pylist()]
    rows = (dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True))
    origin, masks = batch["origins"].field("image").to_pylist(), pc.struct_field(batch["mask"], "path").to_pylist()
    names = [None if pairs is None else dict(pairs) for pairs in batch["mask_names"].to_pylist()]
    return [
        Imported(origin=o, boxes=b, mask=m, mask_names=n, problems=p, **row)
        for o, b, m, n, p, row in zip(origin, of_image, masks, names, problems, rows, strict=True)
    ]
