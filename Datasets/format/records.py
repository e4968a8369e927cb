"""The record: the metadata of one image in one form, whatever format it arrived in.

Boxes are in pixels of the upright image (after its EXIF orientation), with 0 at the outer edge of the first pixel:
x from left to right in [0, width], y from top to bottom in [0, height]; x2 and y2 are the far edges, so x2 - x1 is the
width. A missing annotation is None; an image known to hold nothing has an empty list. Boxes imply counts, and counts
imply labels. A label may stand without a box, as of a scene; counts then stay unknown.

As JSON, records are an array with an array for each image, `[image, labels, counts, boxes, mask]`.
labels: a string or an array of strings. counts: an object `{"car": 2}` or an array of such objects. boxes: an array of
`{"name", "x1", "x2", "y1", "y2"}`. mask: a path. A trailing part may be missing; a missing part between is null. JSON
has no source, size, sha256, group, split, crowd and segmentation.

Predictions are records in a Parquet file, with scores and errors. The column of the model's task is filled, and those
that follow from it: `mask` with the PNG file's bytes, `counts` and `labels`. `boxes` have a `score` each; `scores` has
the probability of each class where the model gives one, and the expected number of objects. `uncertainty` and
`features` (Datasets/format/predictions.py) are there if they were asked for.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.format.coco import Rle
from Datasets.format.predictions import PredictedBox, Prediction
from Datasets.tools.atomic import replacing

SPLITS = ("train", "val", "test")


class Box(TypedDict):
    """One object; crowd marks a box around many that were not told apart."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    crowd: bool
    segmentation: Rle | None


class Count(TypedDict):
    """How many objects of a class an image holds."""

    name: str
    count: int


class Record(TypedDict):
    """One image; `image` is a POSIX path inside its source and unique within it."""

    image: str
    source: str
    width: int | None
    height: int | None
    sha256: str | None
    group: str | None
    split: str | None
    labels: list[str] | None
    counts: list[Count] | None
    boxes: list[Box] | None
    mask: dict[str, Any] | None


RLE_TYPE = pa.struct({"size": pa.list_(pa.int32()), "counts": pa.string()})
CORNERS = dict.fromkeys(("x1", "y1", "x2", "y2"), pa.float64())
BOX_TYPE = pa.struct({"name": pa.string(), **CORNERS, "crowd": pa.bool_(), "segmentation": RLE_TYPE})
IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "source": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "sha256": pa.string(),
        "group": pa.string(),
        "split": pa.string(),
        "labels": pa.list_(pa.string()),
        "counts": pa.list_(pa.struct({"name": pa.string(), "count": pa.int32()})),
        "boxes": pa.list_(BOX_TYPE),
        "mask": IMAGE_TYPE,
    }
)
SCORED_BOX = pa.struct([*BOX_TYPE, pa.field("score", pa.float64())])
SCORED_CLASS = pa.struct({"name": pa.string(), "score": pa.float64(), "expected": pa.float64()})
SCORED_BOXES = pa.field("boxes", pa.list_(SCORED_BOX))
SCORED_SCHEMA = pa.schema(
    [
        *SCHEMA.set(SCHEMA.get_field_index("boxes"), SCORED_BOXES),
        pa.field("scores", pa.list_(SCORED_CLASS)),
        pa.field("uncertainty", pa.float64()),
        pa.field("features", pa.list_(pa.float32())),
        pa.field("error", pa.string()),
    ]
)


def empty_record(image: str, source: str) -> Record:
    """A record of which nothing is known yet but its name."""
    fields = dict.fromkeys(SCHEMA.names)
    return Record(**{**fields, "image": image, "source": source})  # type: ignore[typeddict-item]


def to_json(record: Record) -> list[Any]:
    """One record as an array, without the missing parts at its end."""
    counts, boxes, mask = record["counts"], record["boxes"], record["mask"]
    entry = [
        record["image"],
        record["labels"],
        None if counts is None else {c["name"]: c["count"] for c in counts},
        None if boxes is None else [{key: box[key] for key in ("name", "x1", "x2", "y1", "y2")} for box in boxes],
        None if mask is None else mask["path"],
    ]
    while entry[-1] is None:
        entry.pop()
    return entry


def write_json(records: Iterable[Record], path: Path) -> None:
    """Write records as JSON, one a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        lines = (json.dumps(to_json(record), ensure_ascii=False) for record in records)
        file.write("[\n" + next(lines, ""))
        file.writelines(f",\n{line}" for line in lines)
        file.write("\n]\n")


def is_safe_path(image: str) -> bool:
    """Whether `image` is a relative POSIX path that stays inside its source."""
    return image[:1] not in ("", "/") and ".." not in image.split("/") and "\\" not in image and "\0" not in image


def implied(record: Record) -> Record:
    """The record with the counts that its boxes imply and the labels that its counts imply, where they were None.

    A crowd box says that there are many, not how many: with one, counts stay None and labels come from the boxes. So
    they do with a label that no box has.
    """
    boxes, counts, labels = record["boxes"], record["counts"], record["labels"]
    if counts is None and boxes is not None and not any(box["crowd"] for box in boxes):
        drawn = Counter(box["name"] for box in boxes)
        if drawn.keys() >= set(labels or ()):
            counts = [Count(name=name, count=n) for name, n in sorted(drawn.items())]
    if labels is None and (counts is not None or boxes is not None):
        named = [c["name"] for c in counts if c["count"]] if counts is not None else [b["name"] for b in boxes or []]
        labels = sorted(set(named))
    return Record(**{**record, "counts": counts, "labels": labels})


def contradictions(record: Record) -> list[str]:
    """Where a record's labels, counts and boxes do not agree, a sentence each."""
    found = []
    boxes, counts, labels = record["boxes"], record["counts"], record["labels"]
    if boxes is not None and counts is not None:
        drawn = Counter(box["name"] for box in boxes if not box["crowd"])
        crowds = {box["name"] for box in boxes if box["crowd"]}
        counted = Counter({each["name"]: each["count"] for each in counts})
        wrong = sorted(name for name in (drawn | counted).keys() - crowds if drawn[name] != counted[name])
        found += [f"{name}: {drawn[name]} boxes, but a count of {counted[name]}" for name in wrong]
    if counts is not None and labels is not None:
        positive = {each["name"] for each in counts if each["count"]}
        found += [f"{name}: in labels or in counts, not in both" for name in sorted(positive ^ set(labels))]
    elif boxes is not None and labels is not None:
        unlabelled = {box["name"] for box in boxes}.difference(labels)
        found += [f"{name}: has a box, but is not in labels" for name in sorted(unlabelled)]
    return found


def write_predictions(rows: Iterable[Mapping[str, Any]], source: str, out: Path, weights: str | None = None) -> None:
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


def _record(row: Mapping[str, Any], source: str) -> dict[str, Any]:
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


def _prediction(row: Mapping[str, Any]) -> Prediction:
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
