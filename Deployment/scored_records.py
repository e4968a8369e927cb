"""Predictions as a Parquet file of records, as in Datasets/records.py, with a score for each box and errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.atomic import replacing
from Datasets.records import BOX_TYPE, SCHEMA

SCORED_BOX = pa.struct([*BOX_TYPE, pa.field("score", pa.float64())])
SCORED_SCHEMA = pa.schema(
    [field.with_type(pa.list_(SCORED_BOX)) if field.name == "boxes" else field for field in SCHEMA]
    + [pa.field("error", pa.string())]
)


def write_parquet(rows: Sequence[Mapping[str, Any]], source: str, out: Path) -> None:
    """Write a row an image. source: who says so, the experiment. error: null, or why the image could not be read."""
    with replacing(out) as partial:
        table = pa.Table.from_pylist([_record(row, source) for row in rows], schema=SCORED_SCHEMA)
        pq.write_table(table, partial, compression="zstd")


def _record(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    boxes = None if "error" in row else [{**box, "crowd": False, "segmentation": None} for box in row["boxes"]]
    return {**dict.fromkeys(SCORED_SCHEMA.names), **row, "source": source, "boxes": boxes}
