"""From a model's outputs for one image to a prediction, and the difference between two predictions.

Evaluation, export and service all use these functions. NumPy and Pillow only. A model learns one field of the record,
its task, and its `forward` returns for each image:

| task   | outputs                                                                                   |
|--------|-------------------------------------------------------------------------------------------|
| boxes  | boxes float [K, 4] (x1, y1, x2, y2 in the square), scores float [K], classes int [K]      |
| mask   | mask int [S, S]: for each pixel of the square class id + 1, or 0 for background           |
| labels | scores float [C]: probability that the image shows an object of the class                 |
| counts | scores float [C] as for labels, and counts float [C]: expected number of objects of each  |

It may give more, which the review of labels and the choice of the next images use: features float [D], what the image
looks like, and for masks confidence float [S, S], the probability of each pixel's value.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from typing_extensions import TypedDict  # pydantic, which documents the service, needs this one before Python 3.12

from Datasets.format.images import Letterbox, mask_file, read_mask

OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "boxes": ("boxes", "scores", "classes"),
    "mask": ("mask",),
    "labels": ("scores",),
    "counts": ("scores", "counts"),
}
EXTRAS = ("features", "confidence")
TOLERANCE: Mapping[str, Mapping[str, float]] = {  # largest differences of equal predictions
    "boxes": {"boxes": 0.01, "scores": 1e-4},  # pixels; scores lie in 0 to 1
    "mask": {"mask": 1e-3},  # of the pixels
    "labels": {"scores": 1e-4},
    "counts": {"scores": 1e-4, "counts": 1e-3},
}
Outputs = Mapping[str, np.ndarray]


class PredictedBox(TypedDict):
    """A detected object, in pixels of the upright image; score in 0 to 1."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    score: float


class PredictedCount(TypedDict):
    """The number of objects of a class."""

    name: str
    count: int


class Prediction(TypedDict):
    """One image's prediction, by class name. labels: classes in it; width, height: of the upright image."""

    width: int
    height: int
    labels: list[str]


class Detection(Prediction):
    """Task boxes. boxes: best score first; labels and counts follow from them."""

    counts: list[PredictedCount]
    boxes: list[PredictedBox]


class Segmentation(Prediction):
    """Task mask. mask: a PNG file of the image's size in base64, its pixel values class ids + 1, 0 for background."""

    mask: str


class Classification(Prediction):
    """Task labels. scores: the probability of each class."""

    scores: dict[str, float]


class Counting(Classification):
    """Task counts. counts: 1 or more of each class in labels; expected: before rounding, of each class."""

    counts: list[PredictedCount]
    expected: dict[str, float]


def to_prediction(
    task: str, outputs: Outputs, letterbox: Letterbox, width: int, height: int, classes: Sequence[str], threshold: float
) -> Prediction:
    """One image's prediction: what has a score of at least `threshold`, in the image's pixels.

    outputs: of one image, as in the table above. width, height: of the upright image. classes: names in id order.
    """
    if task == "boxes":
        return to_detection(outputs, letterbox, width, height, classes, threshold)
    if task == "mask":
        return _to_segmentation(outputs["mask"], letterbox, width, height, classes)
    scores = dict(zip(classes, outputs["scores"].astype(np.float64).tolist(), strict=True))
    labels = sorted(name for name, score in scores.items() if score >= threshold)
    prediction = Classification(width=width, height=height, labels=labels, scores=scores)
    if task == "labels":
        return prediction
    expected = dict(zip(classes, outputs["counts"].astype(np.float64).tolist(), strict=True))
    counts = [PredictedCount(name=name, count=max(1, round(expected[name]))) for name in labels]
    return Counting(**prediction, counts=counts, expected=expected)


def to_detection(
    outputs: Outputs, letterbox: Letterbox, width: int, height: int, classes: Sequence[str], threshold: float
) -> Detection:
    """The objects, clipped to the image; those outside it are left out.

    Ordered by score descending, then class id, x1, y1: equal outputs in any order give the same prediction.
    """
    scores = outputs["scores"].astype(np.float64)
    kept = np.flatnonzero(scores >= threshold)  # mostly few, for which Python is faster than NumPy
    corners = np.clip(letterbox.to_image(outputs["boxes"][kept].astype(np.float64)), 0, (width, height, width, height))
    objects = sorted(zip((-scores[kept]).tolist(), outputs["classes"][kept].tolist(), corners.tolist(), strict=True))
    boxes = [
        PredictedBox(name=classes[number], x1=x1, y1=y1, x2=x2, y2=y2, score=-score)
        for score, number, (x1, y1, x2, y2) in objects
        if x2 > x1 and y2 > y1
    ]
    return detection(boxes, width, height)


def detection(boxes: list[PredictedBox], width: int, height: int) -> Detection:
    """A prediction of these boxes, with the labels and counts that follow from them."""
    numbers = sorted(Counter(box["name"] for box in boxes).items())
    counts = [PredictedCount(name=name, count=number) for name, number in numbers]
    return Detection(width=width, height=height, labels=[name for name, _ in numbers], counts=counts, boxes=boxes)


def _to_segmentation(
    output: np.ndarray, letterbox: Letterbox, width: int, height: int, classes: Sequence[str]
) -> Segmentation:
    mask = letterbox.mask_to_image(output.astype(np.uint8), width, height)
    labels = sorted(classes[value - 1] for value in np.unique(mask) if value)
    return Segmentation(width=width, height=height, labels=labels, mask=base64.b64encode(mask_file(mask)).decode())


def mask_of(prediction: Segmentation) -> np.ndarray:
    """The mask of a prediction, uint8 [height, width]: class ids + 1, 0 for background."""
    return read_mask(base64.b64decode(prediction["mask"]))


def uncertainty(task: str, outputs: Outputs, threshold: float) -> float:
    """How unsure a model is of an image, from 0 on: the more, the more it may learn from the image's annotation.

    boxes: the sum over the boxes of how near their scores are to the threshold (of aggregations, the best in Brust et
    al., 2018, arXiv:1809.09875). mask: 1 - the mean confidence, 0 where the model gives none. labels and counts: how
    near a score is to 0.5, of the class of which it is nearest.
    """
    if task == "mask":
        return float(1 - outputs["confidence"].mean()) if "confidence" in outputs else 0.0
    scores = outputs["scores"].astype(np.float64)
    if task == "boxes" and 0 < threshold < 1:
        scores = scores ** (np.log(0.5) / np.log(threshold))  # so that the threshold becomes 0.5
    unsure = 1 - np.abs(2 * scores - 1)
    return float(unsure.sum() if task == "boxes" else unsure.max())


def largest_difference(task: str, expected: Prediction, actual: Prediction, threshold: float) -> dict[str, float]:
    """The largest differences between two predictions for one image, by the names in TOLERANCE.

    boxes: pixels; mask: the share of pixels that differ; infinite where the two cannot be compared.
    """
    if task == "boxes":
        return _boxes_difference(expected["boxes"], actual["boxes"], threshold)  # type: ignore[typeddict-item]
    if task == "mask":
        first, second = mask_of(expected), mask_of(actual)  # type: ignore[arg-type]
        return {"mask": float((first != second).mean()) if first.shape == second.shape else float("inf")}
    fields = {"scores": "scores", "counts": "expected"}
    return {what: _values_difference(expected[fields[what]], actual[fields[what]]) for what in TOLERANCE[task]}  # type: ignore[literal-required]


def _values_difference(expected: Mapping[str, float], actual: Mapping[str, float]) -> float:
    if expected.keys() != actual.keys():
        return float("inf")
    return max((abs(value - actual[name]) for name, value in expected.items()), default=0.0)


def _boxes_difference(
    expected: Sequence[PredictedBox], actual: Sequence[PredictedBox], threshold: float
) -> dict[str, float]:
    """Boxes of one class are paired, nearest first, so that their order does not matter.

    A box without a counterpart is excused if its score is so close to `threshold` that either side may have left it
    out.
    """
    pairs = sorted(
        (max(abs(first[edge] - second[edge]) for edge in ("x1", "y1", "x2", "y2")), i, j)
        for i, first in enumerate(expected)
        for j, second in enumerate(actual)
        if first["name"] == second["name"]
    )
    left, right = dict(enumerate(expected)), dict(enumerate(actual))
    worst = {"boxes": 0.0, "scores": 0.0}
    for pixels, i, j in pairs:
        if i in left and j in right:
            scores = abs(left.pop(i)["score"] - right.pop(j)["score"])
            worst = {"boxes": max(worst["boxes"], pixels), "scores": max(worst["scores"], scores)}
    excused = threshold + TOLERANCE["boxes"]["scores"]
    if any(box["score"] > excused for box in [*left.values(), *right.values()]):
        return {"boxes": float("inf"), "scores": float("inf")}
    return worst
