"""How good a service's answers for the test images are, in the figures of the evaluation, by code of its own.

| task   | figures                                                                                                  |
|--------|----------------------------------------------------------------------------------------------------------|
| boxes  | COCO's mAP, mAP50 and mAP75                                                                              |
| mask   | mIoU: of each class that the truth has, the pixels in truth and answer by those in either; their mean    |
| labels | macroF1: F1 of each class that the truth has, at the manifest's threshold; their mean                    |
| counts | macroF1 as for labels, and MAE: how far counts are off, mean over the classes that each image shows      |

Only images whose truth is known count, of a mask only the pixels that are annotated.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from Datasets.format.images import VOID
from Datasets.format.predictions import mask_of
from Deployment.verifying.average_precision import average_precision

if TYPE_CHECKING:
    from Datasets.format.records import Record  # which imports pyarrow

MIN_SCORE = 0.001  # detections below it change no figure
QUERY = {"boxes": f"?threshold={MIN_SCORE}", "mask": "", "labels": "", "counts": ""}  # what answers are asked for


def figures(task: str, records: "Sequence[Record]", answers: Sequence[Any], classes: Sequence[str]) -> dict[str, float]:
    """The figures of a task, rounded to six digits. records: those whose truth is known; answers: for their images."""
    if task == "boxes":
        return average_precision(records, answers, classes)
    if task == "mask":
        found = {"mIoU": mean_iou(records, answers, len(classes))}
    else:
        found = {"macroF1": macro_f1(records, answers, classes)}
    if task == "counts":
        found["MAE"] = count_error(records, answers)
    return {name: round(value, 6) for name, value in found.items()}


def mean_iou(records: "Sequence[Record]", answers: Sequence[Any], classes: int) -> float:
    """Mean intersection over union of masks, over all images' pixels at once, in the images' own size."""
    both = np.zeros((VOID + 1, VOID + 1), np.int64)  # pixels by truth and answer
    for record, answer in zip(records, answers, strict=True):
        truth, mask = _truth(record).ravel(), mask_of(answer).ravel()
        both += np.bincount(truth.astype(np.int64) * (VOID + 1) + mask, minlength=both.size).reshape(both.shape)
    both[VOID] = 0
    right, there = both.diagonal(), both.sum(1)
    ious = right / np.maximum(1, there + both.sum(0) - right)
    return _mean(ious[1 : classes + 1][there[1 : classes + 1] > 0])


def _truth(record: "Record") -> np.ndarray:
    assert record["mask"] is not None
    return np.asarray(Image.open(io.BytesIO(record["mask"]["bytes"]), formats=["PNG"]))


def macro_f1(records: "Sequence[Record]", answers: Sequence[Any], classes: Sequence[str]) -> float:
    """Mean F1 of the labels, over the classes that an image has."""
    truth, found, right = Counter[str](), Counter[str](), Counter[str]()
    for record, answer in zip(records, answers, strict=True):
        there, said = set(record["labels"] or ()), set(answer["labels"])
        truth.update(there)
        found.update(said)
        right.update(there & said)
    f1 = [2 * right[name] / (truth[name] + found[name]) for name in classes if truth[name]]
    return _mean(np.array(f1))


def count_error(records: "Sequence[Record]", answers: Sequence[Any]) -> float:
    """Mean absolute error of the counts, over the classes that each image shows."""
    errors = [
        abs(said.get(name, 0) - count)
        for record, answer in zip(records, answers, strict=True)
        for said in [_by_name(answer["counts"])]
        for name, count in _by_name(record["counts"] or ()).items()
        if count
    ]
    return _mean(np.array(errors))


def _by_name(counts: Iterable[Any]) -> dict[str, int]:
    return {each["name"]: each["count"] for each in counts}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
