"""Where a model fails: how much of the truth it finds, and what it finds that is not there, by kinds of images."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from Models.learning.box_metrics import above, match
from Models.learning.data_loading import Samples
from Models.learning.metrics import counts_of, pixel_tables, predicted_counts
from Models.reviewing.looks import Look

SIZES = {"small, below 32 x 32 pixels": 32**2, "medium": 96**2, "large, from 96 x 96 pixels on": np.inf}  # as COCO's
WORST = 8  # sources and groups that are shown


def things(look: Look, threshold: float) -> pd.DataFrame:
    """A row for each object, or class of a mask, label or count, in truth or in an answer.

    row (of the image), class, size (of boxes), source, group, found (1 or 0, of masks the IoU; NaN where it is not in
    truth), and extra (1 where it is not).
    """
    samples = look.samples
    make = {"boxes": _boxes, "mask": _masks}.get(samples.task, _counts)
    columns = ["row", "class", "size", "found", "extra"]
    table = pd.DataFrame(list(make(samples, look.predictions, threshold)), columns=columns)
    for name in ("source", "group"):
        table[name] = [samples.records[row][name] for row in table["row"]]
    return table


def _boxes(samples: Samples, predictions: Sequence[Any], threshold: float) -> Iterator[tuple[Any, ...]]:
    for row, prediction in enumerate(predictions):
        kept = above(prediction, threshold)
        matched = match(samples, row, kept, same_class=True)
        boxes, kinds = samples.boxes(row, crowd=False)
        for number, (box, kind) in enumerate(zip(boxes, kinds, strict=True)):
            yield row, samples.classes[kind], _size(*box), float(number not in matched.missed), 0
        for number in matched.extra:
            box = kept["boxes"][number]
            yield row, box["name"], _size(box["x1"], box["y1"], box["x2"], box["y2"]), np.nan, 1


def _size(x1: float, y1: float, x2: float, y2: float) -> str:
    return next(name for name, area in SIZES.items() if (x2 - x1) * (y2 - y1) < area)


def _masks(samples: Samples, predictions: Sequence[Any], threshold: float) -> Iterator[tuple[Any, ...]]:
    for row, table in enumerate(pixel_tables(samples, predictions)):
        actual, found, right = table.sum(1)[1:], table.sum(0)[1:], np.diag(table)[1:]
        for kind in np.flatnonzero(actual + found).tolist():
            iou = right[kind] / (actual[kind] + found[kind] - right[kind])
            yield row, samples.classes[kind], None, iou if actual[kind] else np.nan, int(not actual[kind])


def _counts(samples: Samples, predictions: Sequence[Any], threshold: float) -> Iterator[tuple[Any, ...]]:
    actual, predicted = counts_of(samples), predicted_counts(samples, predictions, threshold)
    for row, kind in np.argwhere((actual > 0) | (predicted > 0)).tolist():
        right, there = actual[row, kind] == predicted[row, kind], actual[row, kind] > 0
        yield row, samples.classes[kind], None, float(right) if there else np.nan, int(not there)


def failures(table: pd.DataFrame) -> Iterator[tuple[str, list[Any]]]:
    """For classes, sizes, sources and groups: rows of name, things in truth, share found and extra, the worst first.

    Of groups only those of several images; of all but classes nothing where there is one row.
    """
    for what in ("class", "size", "source", "group"):
        known = table[table[what].notna()]
        if what == "group":
            known = known[known.groupby("group")["row"].transform("nunique") > 1]
        each = known.groupby(what).agg(things=("found", "count"), found=("found", "mean"), extra=("extra", "sum"))
        if len(each) > (what != "class"):  # one class alone has figures, too
            each = each.sort_values(["found", "things"]).reset_index(names="name")
            yield what, (each if what == "class" else each.head(WORST)).to_dict("records")
