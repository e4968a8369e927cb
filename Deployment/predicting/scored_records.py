"""Predictions as a Parquet file of records, as in Datasets/format/records.py, with scores and errors.

The column of the model's task is filled, and those that follow from it: `mask` with the PNG file's bytes, `counts` and
`labels`. `boxes` have a `score` each; `scores` has the chance of each class where the model gives one, and how many
objects it expects.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.format.records import BOX_TYPE, SCHEMA
from Datasets.tools.atomic import replacing

SCORED_BOX = pa.struct([*BOX_TYPE, pa.field("score", pa.float64())])
SCORED_CLASS = pa.struct({"name": pa.string(), "score": pa.float64(), "expected": pa.float64()})
SCORED_SCHEMA = pa.schema(
    [field.with_type(pa.list_(SCORED_BOX)) if field.name == "boxes" else field for field in SCHEMA]
    + [pa.field("scores", pa.list_(SCORED_CLASS)), pa.field("error", pa.string())]
)


def write_parquet(rows: Sequence[Mapping[str, Any]], source: str, out: Path) -> None:
    """Write a row an image. source: who says so, the experiment. error: null, or why the image could not be read."""
    with replacing(out) as partial:
        table = pa.Table.from_pylist([_record(row, source) for row in rows], schema=SCORED_SCHEMA)
        pq.write_table(table, partial, compression="zstd")


def _record(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    record = {**dict.fromkeys(SCORED_SCHEMA.names), **row, "source": source}
    if "boxes" in row:
        record["boxes"] = [{**box, "crowd": False, "segmentation": None} for box in row["boxes"]]
    if "mask" in row:
        record["mask"] = {"bytes": base64.b64decode(row["mask"]), "path": f"{row['image']}.mask.png"}
    if "scores" in row:
        expected = row.get("expected", {})
        scores = row["scores"].items()
        record["scores"] = [{"name": name, "score": score, "expected": expected.get(name)} for name, score in scores]
    return record
