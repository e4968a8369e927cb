"""What the import stage hands on: records as a source states them, and where each statement stands.

A Parquet file with the record's columns (nothing is corrected yet: a box may still be impossible) and two more:
origins, the place of the record and of each of its boxes, for messages; and problems, statements that cannot be
a record's, such as an annotation of an image that the source does not list.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.records import SCHEMA, Record

IMPORTED_SCHEMA = pa.schema(
    [
        *SCHEMA,
        pa.field("origins", pa.struct({"image": pa.string(), "boxes": pa.list_(pa.string())})),
        pa.field("problems", pa.list_(pa.struct({"rule": pa.string(), "value": pa.string()}))),
    ]
)
BATCH = 5000


@dataclass
class Imported:
    """A record as a source states it.

    origin: file and line or id of the record; box_origins: the same for each box. problems: (rule, value) pairs.
    """

    record: Record
    origin: str
    box_origins: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def write_imported(rows: Iterable[Imported], source_path: Path, images: str, path: Path) -> int:
    """Write rows to a Parquet file and return their number. images: the folder of the source that the images are in."""
    schema = IMPORTED_SCHEMA.with_metadata({"source_path": source_path.as_posix(), "images": images})
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(_to_row(row))
            count += 1
            if len(batch) == BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    return count


def read_imported(path: Path) -> list[Imported]:
    """Read what write_imported wrote."""
    return [_from_row(row) for row in pq.read_table(path).to_pylist()]


def images_folder(path: Path) -> str:
    """The folder of the source that the images are in, "" for the source itself."""
    return pq.read_schema(path).metadata[b"images"].decode()


def source_path(path: Path) -> str:
    """The directory or archive that the records were imported from."""
    return pq.read_schema(path).metadata[b"source_path"].decode()


def _to_row(row: Imported) -> dict[str, Any]:
    return {
        **row.record,
        "origins": {"image": row.origin, "boxes": row.box_origins},
        "problems": [{"rule": rule, "value": value} for rule, value in row.problems],
    }


def _from_row(row: dict[str, Any]) -> Imported:
    origins, problems = row.pop("origins"), row.pop("problems")
    pairs = [(problem["rule"], problem["value"]) for problem in problems]
    return Imported(cast(Record, row), origins["image"], origins["boxes"], pairs)
