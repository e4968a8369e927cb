"""Predictions as a Parquet file of records, as in Datasets/format/records.py, with scores and errors.

The column of the model's task is filled, and those that follow from it: `mask` with the PNG file's bytes, `counts` and
`labels`. `boxes` have a `score` each; `scores` has the probability of each class where the model gives one, and the
expected number of objects. `uncertainty` and `features` (Datasets/format/predictions.py) are there if they were asked
for.
"""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.format.predictions import PredictedBox, Prediction
from Datasets.format.records import BOX_TYPE, SCHEMA
from Datasets.tools.atomic import replacing

SCORED_BOX = pa.struct([*BOX_TYPE, pa.field("score", pa.float64())])
SCORED_CLASS = pa.struct({"name": pa.string(), "score": pa.float64(), "expected": pa.float64()})
SCORED_BOXES = pa.field("boxes", pa.list_(SCORED_BOX))
MORE = {"scores": pa.list_(SCORED_CLASS), "uncertainty": pa.float64(), "features": pa.list_(pa.float32())}
SCORED_SCHEMA = pa.schema(
    [*SCHEMA.set(SCHEMA.get_field_index("boxes"), SCORED_BOXES), *pa.schema({**MORE, "error": pa.string()})]
)
Row = Mapping[str, Any]


def write_predictions(rows: Iterable[Row], source: str, out: Path, weights: str | None = None) -> None:
    """Write one row for each image.

    rows: `image`, its path, with the fields of a Prediction and perhaps `sha256`; or with `error`, why the image could
    not be read. source: the experiment that predicted. weights: their sha256, for the file's metadata.
    """
    with replacing(out) as partial:
        table = pa.Table.from_pylist([_record(row, source) for row in rows], schema=SCORED_SCHEMA)
        table = table.replace_schema_metadata({"weights": weights} if weights else None)
        pq.write_table(table, partial, compression="zstd")


def read_predictions(path: Path) -> dict[str, Prediction]:
    """The predictions of a file by their image's path, in its order, without images that could not be read."""
    rows = pq.read_table(path, schema=SCORED_SCHEMA).to_pylist()
    return {row["image"]: _prediction(row) for row in rows if row["error"] is None}


def _record(row: Row, source: str) -> dict[str, Any]:
    record = {**row, "source": source}
    if "boxes" in row:
        record["boxes"] = [{**box, "crowd": False} for box in row["boxes"]]
    if "mask" in row:
        record["mask"] = {"bytes": base64.b64decode(row["mask"]), "path": f"{row['image']}.mask.png"}
    if "scores" in row:
        expected = row.get("expected", {})
        scores = row["scores"].items()
        record["scores"] = [{"name": name, "score": score, "expected": expected.get(name)} for name, score in scores]
    return record


def _prediction(row: Row) -> Prediction:
    prediction = {name: row[name] for name in ("width", "height", "labels", "counts") if row[name] is not None}
    if row["boxes"] is not None:
        prediction["boxes"] = [{name: box[name] for name in PredictedBox.__annotations__} for box in row["boxes"]]
    if row["mask"] is not None:
        prediction["mask"] = base64.b64encode(row["mask"]["bytes"]).decode()
    if row["scores"] is not None:
        prediction["scores"] = {each["name"]: each["score"] for each in row["scores"]}
        expected = {each["name"]: each["expected"] for each in row["scores"] if each["expected"] is not None}
        prediction |= {"expected": expected} if expected else {}
    return prediction  # type: ignore[return-value]
