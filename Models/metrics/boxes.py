"""How good predictions are: COCO's average precision, the threshold that serves best, and which objects are mistaken.

Boxes are in the pixels of the images as annotated, as people will get them, not in the model's square.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from Datasets.format.predictions import Detection
from Models.learning.data_loading import Samples
from Models.metrics.measured import BACKGROUND, Measured, rounded

IOU = 0.5  # overlap from which a detection counts as of an object, where one figure is asked for


@dataclass(frozen=True)
class Scores:
    """COCO's figures for boxes, at most 100 detections an image. AP: of each class that has an object."""

    mAP: float  # noqa: N815
    mAP50: float  # noqa: N815
    mAP75: float  # noqa: N815
    AP: dict[str, float]
    precision: np.ndarray  # at IoU 0.5 and recalls of 0, 0.01, ... 1; mean over the classes that have an object


@dataclass(frozen=True)
class Match:
    """One image's detections against its objects; indices of `Detection.boxes` and of the samples' single boxes.

    pairs: (detection, object). extra: detections of nothing. missed: objects not detected. Detections inside a crowd
    box, of their class if classes count, are in none of them.
    """

    pairs: list[tuple[int, int]]
    extra: list[int]
    missed: list[int]


def validate(samples: Samples, predictions: Sequence[Detection]) -> dict[str, float]:
    """COCO's mAP, and mAP50."""
    scores = coco_scores(coco_truth(samples), coco_detections(predictions, samples.classes))
    return rounded({"val_mAP": scores.mAP, "val_mAP50": scores.mAP50})


def measure(samples: Samples, predictions: Sequence[Detection], threshold: float) -> Measured:
    """COCO's figures for all scores, and precision, recall and F1 of what has a score of at least the threshold."""
    scores = coco_scores(coco_truth(samples), coco_detections(predictions, samples.classes))
    believed = [above(prediction, threshold) for prediction in predictions]
    matches = [match(samples, i, prediction, same_class=True) for i, prediction in enumerate(believed)]
    curve = [(i / 100, float(value)) for i, value in enumerate(scores.precision)]
    mistakes = [len(each.extra) + len(each.missed) for each in matches]
    return Measured(figures(scores, matches), ("mAP50", "mAP", "F1"), curve, confusion(samples, believed), mistakes)


def above(prediction: Detection, threshold: float) -> Detection:
    """The prediction without the boxes of a lower score; its labels and counts are not adjusted."""
    return Detection(**{**prediction, "boxes": [box for box in prediction["boxes"] if box["score"] >= threshold]})


def figures(scores: Scores, matches: Sequence[Match]) -> dict[str, Any]:
    """The metrics, rounded to six digits. matches: of each image at the threshold, class for class."""
    right = sum(len(each.pairs) for each in matches)
    detected = right + sum(len(each.extra) for each in matches)
    objects = right + sum(len(each.missed) for each in matches)
    named = {
        "mAP": scores.mAP,
        "mAP50": scores.mAP50,
        "mAP75": scores.mAP75,
        "precision": right / max(1, detected),
        "recall": right / max(1, objects),
        "F1": 2 * right / max(1, detected + objects),
    }
    return {**rounded(named), "AP": rounded(scores.AP)}


@lru_cache(maxsize=1)  # validated after every epoch, the samples stay
def coco_truth(samples: Samples) -> dict[str, Any]:
    """The samples' boxes as a COCO annotation file; the ids of images and categories are our indices and ids plus 1."""
    annotations: list[dict[str, Any]] = []
    for index in range(len(samples)):
        for crowd in (False, True):
            for (x1, y1, x2, y2), kind in zip(*samples.boxes(index, crowd), strict=True):
                sides = [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]
                each = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": int(kind) + 1}
                annotations.append({**each, "bbox": sides, "area": sides[2] * sides[3], "iscrowd": int(crowd)})
    return {
        "images": [{"id": i + 1, "width": r["width"], "height": r["height"]} for i, r in enumerate(samples.records)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(samples.classes)],
        "annotations": annotations,
    }


def coco_detections(predictions: Sequence[Detection], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Predictions in the form of a COCO result file, with the ids of `coco_truth`."""
    ids = {name: number for number, name in enumerate(classes, 1)}
    return [
        {
            "image_id": index + 1,
            "category_id": ids[box["name"]],
            "bbox": [box["x1"], box["y1"], box["x2"] - box["x1"], box["y2"] - box["y1"]],
            "score": box["score"],
        }
        for index, prediction in enumerate(predictions)
        for box in prediction["boxes"]
    ]


def coco_scores(truth: dict[str, Any], detections: list[dict[str, Any]]) -> Scores:
    """COCO's average precision (https://cocodataset.org/#detection-eval), by faster-coco-eval."""
    names = {each["id"]: each["name"] for each in truth["categories"]}
    present = sorted({each["category_id"] for each in truth["annotations"] if not each["iscrowd"]})
    if not (detections and present):
        return Scores(0.0, 0.0, 0.0, {names[number]: 0.0 for number in present}, np.zeros(101))
    with contextlib.redirect_stdout(io.StringIO()):
        boxes = COCO(truth)
        evaluation = COCOeval_faster(boxes, boxes.loadRes(detections), "bbox")
        evaluation.params.catIds = present
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU 0.5 to 0.95, recall 0 to 1, class; any area
    return Scores(
        mAP=float(precision.mean()),
        mAP50=float(precision[0].mean()),
        mAP75=float(precision[5].mean()),
        AP={names[number]: float(precision[:, :, i].mean()) for i, number in enumerate(present)},
        precision=precision[0].mean(1),
    )


def match(samples: Samples, index: int, prediction: Detection, same_class: bool) -> Match:
    """Give each detection, best score first, the free object that it overlaps most, if by an IoU of at least IOU."""
    truth, kinds = samples.boxes(index, crowd=False)
    crowds, crowd_kinds = samples.boxes(index, crowd=True)
    boxes = np.array([[b["x1"], b["y1"], b["x2"], b["y2"]] for b in prediction["boxes"]]).reshape(-1, 4)
    overlaps, covered = iou(boxes, truth), coverage(boxes, crowds)
    pairs: list[tuple[int, int]] = []
    extra: list[int] = []
    free = np.ones(len(truth), bool)
    for number, box in enumerate(prediction["boxes"]):
        kind = samples.ids[box["name"]]
        allowed = free & (kinds == kind) if same_class else free
        candidates = np.where(allowed, overlaps[number], 0.0)
        if candidates.size and candidates.max() >= IOU:
            pairs.append((number, int(candidates.argmax())))
            free[candidates.argmax()] = False
        elif not (covered[number, crowd_kinds == kind if same_class else slice(None)] >= IOU).any():
            extra.append(number)
    return Match(pairs, extra, np.flatnonzero(free).tolist())


def best_threshold(samples: Samples, predictions: Sequence[Detection]) -> float:
    """The score from which to believe a detection: where F1 is best over all classes; 0.5 if not one is right."""
    scores: list[float] = []
    right: list[bool] = []
    objects = 0
    for index, prediction in enumerate(predictions):
        matched = match(samples, index, prediction, same_class=True)
        for number in [pair[0] for pair in matched.pairs] + matched.extra:
            scores.append(prediction["boxes"][number]["score"])
            right.append(number not in matched.extra)
        objects += len(matched.pairs) + len(matched.missed)
    if not any(right):
        return 0.5
    order = np.argsort(-np.array(scores), kind="stable")
    found = np.cumsum(np.array(right)[order])
    f1 = 2 * found / (np.arange(1, len(order) + 1) + objects)
    best = int(f1.argmax())
    return float(np.floor(scores[order[best]] * 1e4) / 1e4)


def confusion(samples: Samples, predictions: Sequence[Detection]) -> list[tuple[str, str]]:
    """(actual, predicted) class of each object and of each detection of nothing, whatever the classes in a match."""
    rows: list[tuple[str, str]] = []
    for index, prediction in enumerate(predictions):
        matched = match(samples, index, prediction, same_class=False)
        names = [samples.classes[kind] for kind in samples.boxes(index, crowd=False)[1]]
        rows += [(names[thing], prediction["boxes"][number]["name"]) for number, thing in matched.pairs]
        rows += [(names[thing], BACKGROUND) for thing in matched.missed]
        rows += [(BACKGROUND, prediction["boxes"][number]["name"]) for number in matched.extra]
    return rows


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N, 4] and [M, 4], as [N, M]."""
    shared = _intersection(first, second)
    return shared / (_area(first)[:, None] + _area(second)[None] - shared)


def coverage(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which part of each box [N, 4] lies inside each of [M, 4], as [N, M]."""
    return _intersection(first, second) / _area(first)[:, None]


def _intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.clip(high - low, 0, None).prod(2)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
