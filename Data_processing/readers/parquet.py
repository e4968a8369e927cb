"""Fourfold's records in Parquet: a curated dataset, some of its shards, or a file with columns of the record's schema.

Schema: Datasets/format/records.py; `image` is a path, or a struct that holds one. Images and masks inside a directory
of shards are read from there (shared/files.py); masks inside other Parquet files are left out, with a warning. A
column may be missing, which is all null. group and split are kept; source and sha256 are not, as this source has its
own. classes.json beside the file says what the pixels of masks mean: id + 1. A file of others, whose column of images
is a struct of bytes and path, is read as Hugging Face means it (huggingface.py).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from Data_processing.readers.huggingface import parquet_records
from Data_processing.readers.json import record
from Data_processing.shared.annotation_files import files_below, mask_names
from Data_processing.shared.files import MissingFile, SourceFiles, image_column, inside
from Data_processing.shared.image_names import find_folder
from Data_processing.shared.imported import Imported, ImportOptions
from Datasets.format.records import SCHEMA, SPLITS
from Datasets.tools.errors import UserError, one_line

ANNOTATIONS = ("labels", "counts", "boxes", "mask")
READ = ("width", "height", "group", "split", *ANNOTATIONS)
UNUSABLE = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError)  # what pyarrow raises for a damaged file
find = partial(files_below, suffix=".parquet", kind="Parquet")


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or as the source's files suggest) and the records."""
    with _whole(files, found[0]):
        theirs = image_column(files.parquet(found[0]).schema_arrow) is not None
    if theirs:
        return options.images or "", chain.from_iterable(_theirs(files, file, options) for file in found)
    names = set(files.names())
    first = filter(None, _table(files, found[0])["image"].to_pylist())
    folder = find_folder(files, options, found[0], first)
    return folder, chain.from_iterable(_records(files, file, folder, names) for file in found)


@contextmanager
def _whole(files: SourceFiles, file: str) -> Iterator[None]:
    """Raises UserError where what is done cannot read the file."""
    try:
        yield
    except MissingFile as error:
        raise UserError(f"{files.path}: {error}") from error
    except UNUSABLE as error:
        reason = f"no whole Parquet file: {_line(error)}; was it cut off? Fetch it again"
        raise UserError(f"{files.path}: {file}: {reason}") from error


def _theirs(files: SourceFiles, file: str, options: ImportOptions) -> Iterator[Imported]:
    with _whole(files, file):
        yield from parquet_records(files, file, options)


def _table(files: SourceFiles, file: str) -> pa.Table:
    """The columns of SCHEMA, in its types, `image` as a path. Raises UserError if they are not that."""
    where = f"{files.path}: {file}"
    with _whole(files, file):
        parquet = files.parquet(file)
        there = parquet.schema_arrow
        if "image" not in there.names or not set(ANNOTATIONS).intersection(there.names):
            raise UserError(f"{where}: no records: its columns are {_line(', '.join(there.names[:12])) or 'none'}")
        kind = there.field("image").type
        path = "image.path" if pa.types.is_struct(kind) else "image"
        table = parquet.read(columns=[path, *(name for name in READ if name in there.names)])
        table.validate(full=True)
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = SCHEMA.field(name).type
        try:
            is_struct = name == "image" and pa.types.is_struct(column.type)
            columns[name] = (pc.struct_field(column, "path") if is_struct else column).cast(kind)
        except UNUSABLE as error:
            reason = f"column {name} is {_line(column.type)}, not {_line(kind)}: {_line(error)}"
            raise UserError(f"{where}: {reason}") from error
    return pa.table(columns)


def _line(text: Any) -> str:
    return one_line(text)[:200]


def _records(files: SourceFiles, file: str, folder: str, names: set[str]) -> Iterator[Imported]:
    table = _table(files, file)
    masks = _masks(files, file, table, folder, names)
    meanings = mask_names(files, file) if any(masks) else {}
    others = table.select([name for name in table.column_names if name != "mask"]).to_pylist()
    for number, (stated, mask) in enumerate(zip(others, masks, strict=True)):
        counts = stated.get("counts")
        counted = counts and [each and {each["name"]: each["count"]} for each in counts]
        entry = [stated["image"], stated.get("labels"), counted, stated.get("boxes"), mask]
        row = record(entry, f"{file}: row {number}", folder, meanings)
        row.set_size(stated.get("width"), stated.get("height"))
        row.group, row.split = stated.get("group"), stated.get("split")
        if row.split not in (None, *SPLITS):
            row.problems.append(("malformed annotation", f"split {row.split!r:.80}: not train, val or test"))
        yield row


def _masks(files: SourceFiles, file: str, table: pa.Table, folder: str, names: set[str]) -> list[str | None]:
    """The path of each mask, as stated; none for one that is only inside the Parquet file."""
    if "mask" not in table.column_names:
        return [None] * table.num_rows
    column = table["mask"].combine_chunks()
    paths = pc.struct_field(column, "path").to_pylist()
    within = pc.struct_field(column, "bytes").is_valid().to_pylist()
    lost = [held and inside(folder, path or "") not in names for path, held in zip(paths, within, strict=True)]
    if any(lost):
        left_out = f"{sum(lost)} masks inside the file are left out"
        remedy = "to keep them, provide them as files at the path that the record names"
        print(f"warning: {files.path}: {file}: {left_out}; {remedy}", file=sys.stderr)
    return [None if gone else path for path, gone in zip(paths, lost, strict=True)]
