"""Metrics of boxes: COCO's average precision, and precision, recall and F1 at the score threshold with the best F1.

Boxes are in the pixels of the images as annotated, not in the model's square.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask

from Datasets.format.coco import Document, object_entry, predictions_to_coco
from Datasets.format.predictions import Detection
from Models.learning.data_loading import Samples

IOU = 0.5  # from which a detection matches an object, where one figure is asked for
Pair = tuple[str | None, str | None]  # actual and predicted class; None: no object


class Measured(NamedTuple):
    """What the evaluate stage writes of a model.

    metrics: numbers, and groups of numbers by class. printed: names of those to print. curve: pairs (recall,
    precision). mistakes: of each image, the more the worse.
    """

    metrics: dict[str, Any]
    printed: Sequence[str]
    curve: Sequence[tuple[float, float]]
    confusion: Sequence[Pair]
    mistakes: Sequence[float]


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures with six digits."""
    return {name: round(float(value), 6) for name, value in figures.items()}


class Match(NamedTuple):
    """One image's detections against its objects; indices of `Detection.boxes` and of the samples' single boxes.

    pairs: (detection, object). extra: false detections. missed: objects not detected. Detections inside a crowd box, of
    their class if classes count, are in none of them.
    """

    pairs: list[tuple[int, int]]
    extra: list[int]
    missed: list[int]


def validate(samples: Samples, predictions: Sequence[Detection]) -> dict[str, float]:
    """COCO's mAP, and mAP50."""
    precision = coco_precision(samples, predictions)[0][..., 0]
    return {"mAP": precision.mean(), "mAP50": precision[0].mean()}


def best_threshold(samples: Samples, predictions: Sequence[Detection]) -> float:
    """The score threshold with the best F1 over all classes; 0.5 if no detection is right."""
    right: list[float] = []  # scores
    wrong: list[float] = []
    missed = 0
    for index, prediction in enumerate(predictions):
        matched = match(samples, index, prediction, same_class=True)
        right += [prediction["boxes"][number]["score"] for number, _ in matched.pairs]
        wrong += [prediction["boxes"][number]["score"] for number in matched.extra]
        missed += len(matched.missed)
    if not right:
        return 0.5
    scores = np.array(right + wrong)
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(order < len(right)) / (np.arange(1, len(order) + 1) + len(right) + missed)
    return float(np.floor(scores[order[int(f1.argmax())]] * 1e4) / 1e4)


def measure(samples: Samples, predictions: Sequence[Detection], threshold: float) -> Measured:
    """COCO's figures for all scores, and precision, recall and F1 of what has a score of at least the threshold."""
    of_sizes, classes = coco_precision(samples, predictions)
    precision = of_sizes[..., 0]
    kept = [above(prediction, threshold) for prediction in predictions]
    matches = [match(samples, i, prediction, same_class=True) for i, prediction in enumerate(kept)]
    right = sum(len(each.pairs) for each in matches)
    detected = right + sum(len(each.extra) for each in matches)
    objects = right + sum(len(each.missed) for each in matches)
    figures = {
        "mAP": precision.mean(),
        "mAP50": precision[0].mean(),
        "mAP75": precision[5].mean(),
        "precision": right / max(1, detected),
        "recall": right / max(1, objects),
        "F1": 2 * right / max(1, detected + objects),
    }
    for number, name in enumerate(("AP_small", "AP_medium", "AP_large"), 1):
        if (known := of_sizes[..., number][of_sizes[..., number] >= 0]).size:
            figures[name] = known.mean()
    by_class = {"AP": precision.mean((0, 1)), "AP50": precision[0].mean(0)}
    groups = {name: rounded(dict(zip(classes, values, strict=True))) for name, values in by_class.items()}
    metrics: dict[str, Any] = {**rounded(figures), **groups}
    curve = [(i / 100, float(value)) for i, value in enumerate(precision[0].mean(1))]
    mistakes = [len(each.extra) + len(each.missed) for each in matches]
    return Measured(metrics, ("mAP50", "mAP", "F1"), curve, confusion(samples, kept), mistakes)


def above(prediction: Detection, threshold: float) -> Detection:
    """The prediction without the boxes of a lower score; its labels and counts are not adjusted."""
    return Detection(**{**prediction, "boxes": [box for box in prediction["boxes"] if box["score"] >= threshold]})


@lru_cache(maxsize=1)  # the same samples are validated after every epoch
def coco_truth(samples: Samples) -> dict[str, Any]:
    """The samples' boxes as a COCO dataset; image and category ids are ours plus 1."""
    document = Document(samples.ids)
    for number, record in enumerate(samples.records, 1):
        boxes = [object_entry({**box, "segmentation": None}, samples.ids) for box in record["boxes"] or []]
        document.add(number, record["image"], record, boxes)
    return document.content()


def coco_precision(samples: Samples, predictions: Sequence[Detection]) -> tuple[np.ndarray, list[str]]:
    """COCO's precision (https://cocodataset.org/#detection-eval), by faster-coco-eval, and the classes in truth.

    float [10, 101, C, 4]: at IoU 0.5, 0.55, ... 0.95, at recall 0, 0.01, ... 1, of each class with an object in truth,
    of objects of any area, below 32 x 32 pixels, up to 96 x 96, and above, -1 where there are none; at most 100
    detections an image.
    """
    truth = coco_truth(samples)
    rows = [{"image": str(number), **prediction} for number, prediction in enumerate(predictions)]
    detections = predictions_to_coco(rows, "boxes", samples.classes)["annotations"]
    present = sorted({each["category_id"] for each in truth["annotations"] if not each["iscrowd"]})
    names = [samples.classes[number - 1] for number in present]
    if not detections:
        return np.zeros((10, 101, len(names), 4)), names
    with contextlib.redirect_stdout(io.StringIO()):
        boxes = COCO(truth)
        evaluation = COCOeval_faster(boxes, boxes.loadRes(detections), "bbox")
        evaluation.params.catIds = present
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1], names


def match(samples: Samples, index: int, prediction: Detection, same_class: bool) -> Match:
    """Match each detection, best score first, with the free object of the highest IoU, if that is at least IOU."""
    (truth, kinds), (crowds, crowd_kinds) = (samples.boxes(index, crowd) for crowd in (False, True))
    boxes = np.array([[b["x1"], b["y1"], b["x2"], b["y2"]] for b in prediction["boxes"]]).reshape(-1, 4)
    shared, covered = overlaps(boxes, truth, crowd=False), overlaps(boxes, crowds, crowd=True)
    if same_class:
        found = np.array([samples.ids[b["name"]] for b in prediction["boxes"]], int)[:, None]
        shared, covered = shared * (found == kinds), covered * (found == crowd_kinds)
    pairs: list[tuple[int, int]] = []
    extra: list[int] = []
    for number in range(len(boxes)):
        if (shared[number] >= IOU).any():
            pairs.append((number, int(shared[number].argmax())))
            shared[:, pairs[-1][1]] = 0  # no longer free
        elif not (covered[number] >= IOU).any():
            extra.append(number)
    missed = set(range(len(truth))) - {thing for _, thing in pairs}
    return Match(pairs, extra, sorted(missed))


def confusion(samples: Samples, predictions: Sequence[Detection]) -> list[Pair]:
    """(actual, predicted) class of each object and of each false detection, matched regardless of class."""
    pairs: list[Pair] = []
    for index, prediction in enumerate(predictions):
        matched = match(samples, index, prediction, same_class=False)
        actual = [samples.classes[kind] for kind in samples.boxes(index, crowd=False)[1]]
        predicted = [box["name"] for box in prediction["boxes"]]
        pairs += [(actual[thing], predicted[number]) for number, thing in matched.pairs]
        pairs += [(actual[thing], None) for thing in matched.missed]
        pairs += [(None, predicted[number]) for number in matched.extra]
    return pairs


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: bool) -> np.ndarray:
    """IoU of boxes [N, 4] and [M, 4], as [N, M]; with crowds the part of each box that lies inside each of them."""
    extents = [np.concatenate([each[:, :2], each[:, 2:] - each[:, :2]], 1) for each in (boxes, others)]
    return np.array(mask.iou(*extents, [crowd] * len(others))).reshape(len(boxes), len(others))
