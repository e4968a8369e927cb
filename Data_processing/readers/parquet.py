"""Fourfold's records in Parquet: a curated dataset, some of its shards, or a file with columns of the record's schema.

Schema: Datasets/format/records.py; `image` is a path, or a struct that holds one. Images and masks inside a directory
of shards are read from there (sources.files.Shards); masks inside other Parquet files are left out, with a warning. A
column may be missing, which is all null. group and split are kept; source and sha256 are not, as this source has its
own. classes.json beside the file says what the pixels of masks mean: id + 1.
"""

import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from Data_processing.shared.annotation_files import mask_names
from Data_processing.shared.files import MissingFile, SourceFiles, folder_name, inside
from Data_processing.shared.image_names import guess_folder
from Data_processing.shared.imported import MAX_SIDE, Imported, ImportedBox, ImportOptions
from Datasets.format.files import visible
from Datasets.format.records import SCHEMA, SPLITS, Count, is_safe_path
from Datasets.tools.errors import UserError, one_line

ANNOTATIONS = ("labels", "counts", "boxes", "mask")
UNUSABLE = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError)  # what pyarrow raises for a damaged file


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """All Parquet files, or the one that is named, or those below the folder that is named. Raises UserError."""
    names = list(visible(files.names(), {".parquet"}))
    chosen = folder_name(options.annotations or "")
    found = [name for name in names if not chosen or name == chosen or name.startswith(f"{chosen}/")]
    if not found:
        raise UserError(
            f"{files.path}: no Parquet files{f' called {chosen}, or in it' if chosen else ''}; those that there are: "
            f"{', '.join(names[:5]) or 'none'}"
        )
    return found


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or as the source's files suggest) and the records."""
    folder, names = options.images, set(files.names())
    if folder is None:
        first = [name for name in _table(files, found[0])["image"].to_pylist() if name]
        folder = guess_folder(files, found[0], first, names)
    return folder, chain.from_iterable(_records(files, file, folder, names) for file in found)


def _table(files: SourceFiles, file: str) -> pa.Table:
    """The columns of SCHEMA, in its types, `image` as a path. Raises UserError if they are not that."""
    where = f"{files.path}: {file}"
    try:
        parquet = pq.ParquetFile(pa.BufferReader(files.read(file)))
        there = parquet.schema_arrow
        if "image" not in there.names or not set(ANNOTATIONS).intersection(there.names):
            raise UserError(f"{where}: no records: its columns are {_line(', '.join(there.names[:12])) or 'none'}")
        kind = there.field("image").type
        path = "image.path" if pa.types.is_struct(kind) else "image"
        table = parquet.read(
            columns=[path, *(name for name in SCHEMA.names if name in there.names and name != "image")]
        )
        table.validate(full=True)
    except MissingFile as error:
        raise UserError(f"{files.path}: {error}") from error
    except UNUSABLE as error:
        raise UserError(f"{where}: no whole Parquet file: {_line(error)}; was it cut off? Fetch it again") from error
    columns = {name: _column(table, name, where) for name in SCHEMA.names if name not in ("source", "sha256")}
    return pa.table(columns)


def _column(table: pa.Table, name: str, where: str) -> pa.ChunkedArray:
    kind = SCHEMA.field(name).type
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table[name]
    try:
        if name == "image" and pa.types.is_struct(column.type):
            column = pc.struct_field(column, "path")
        return column.cast(kind)
    except UNUSABLE as error:
        raise UserError(f"{where}: column {name} is {_line(column.type)}, not {_line(kind)}: {_line(error)}") from error


def _line(text: Any) -> str:
    return one_line(text)[:200]


def _records(files: SourceFiles, file: str, folder: str, names: set[str]) -> Iterator[Imported]:
    table = _table(files, file)
    masks = _masks(files, file, table, folder, names)
    meanings = mask_names(files, file.rpartition("/")[0], names) if any(masks) else None
    stated = table.drop_columns(["mask"]).to_pylist()
    for number, (record, mask) in enumerate(zip(stated, masks, strict=True)):
        origin, image = f"{file}: row {number}", record["image"]
        row = Imported(inside(folder, image) if image else origin, origin)
        if not image:
            row.problems.append(("malformed annotation", "no image is named"))
        _state(row, record)
        if record["boxes"] is not None:
            row.boxes = []
            for index, box in enumerate(record["boxes"]):
                _add_box(row, row.boxes, box or {}, f"{origin}, box {index}")
        if mask is not None:
            row.mask, row.mask_names = mask, meanings
            if not is_safe_path(mask):
                row.problems.append(("outside the source", f"mask {mask!r:.200}"))
        yield row


def _state(row: Imported, record: dict[str, Any]) -> None:
    """Set what the record states of the image as a whole."""
    for side in ("width", "height"):
        if record[side] is not None and not 0 < record[side] <= MAX_SIDE:
            row.problems.append(("malformed annotation", f"a {side} of {record[side]} pixels"))
        else:
            setattr(row, side, record[side])
    if record["split"] in (None, *SPLITS):
        row.split = record["split"]
    else:
        row.problems.append(("malformed annotation", f"split {record['split']!r:.80} is none of {', '.join(SPLITS)}"))
    if all(record["labels"] or ()) and all(map(_is_count, record["counts"] or ())):
        row.labels, row.counts = record["labels"], record["counts"]
    else:
        row.problems.append(("malformed annotation", "a label or count without a name, or a count below 0"))
    row.group = record["group"]


def _is_count(count: Count | None) -> bool:
    return count is not None and bool(count["name"]) and count["count"] is not None and count["count"] >= 0


def _add_box(row: Imported, boxes: list[ImportedBox], box: dict[str, Any], origin: str) -> None:
    x1, y1, x2, y2 = (box.get(key) for key in ("x1", "y1", "x2", "y2"))
    if not box.get("name") or x1 is None or y1 is None or x2 is None or y2 is None:
        row.problems.append(("malformed box", f"a box without a name, x1, y1, x2 or y2 at {origin}"))
        return
    outline = None if box["segmentation"] is None else msgspec.json.encode(box["segmentation"])
    boxes.append(ImportedBox(box["name"], x1, y1, x2, y2, origin, bool(box["crowd"]), outline))


def _masks(files: SourceFiles, file: str, table: pa.Table, folder: str, names: set[str]) -> list[str | None]:
    """The path of each mask inside the source; none for one that is only inside the Parquet file."""
    column = table["mask"].combine_chunks()
    paths = [None if path is None else inside(folder, path) for path in pc.struct_field(column, "path").to_pylist()]
    within = pc.struct_field(column, "bytes").is_valid().to_pylist()
    left_out = sum(kept and path not in names for path, kept in zip(paths, within, strict=True))
    if left_out:
        advice = "to keep them, provide them as files at the path that the record names"
        print(
            f"warning: {files.path}: {file}: {left_out} masks inside the file are left out; {advice}", file=sys.stderr
        )
    return [None if kept and path not in names else path for path, kept in zip(paths, within, strict=True)]
