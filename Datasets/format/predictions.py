"""From a model's outputs for one image to the answer that people get, and how far two answers lie apart.

Evaluation, the export's expected answers and the service use these functions and no others. NumPy and Pillow only.

A model learns one field of the record, its task, and its `forward` gives for each image:

| task   | outputs                                                                                   |
|--------|-------------------------------------------------------------------------------------------|
| boxes  | boxes float [K, 4] (x1, y1, x2, y2 in the square), scores float [K], classes int [K]      |
| mask   | mask int [S, S]: for each pixel of the square class id + 1, or 0 for background           |
| labels | scores float [C]: the chance, 0 to 1, that the image shows an object of the class         |
| counts | scores float [C] as for labels, and counts float [C]: how many objects to expect of each  |
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from typing_extensions import TypedDict  # pydantic, which documents the service, needs this one before Python 3.12

from Datasets.format.images import Letterbox

OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "boxes": ("boxes", "scores", "classes"),
    "mask": ("mask",),
    "labels": ("scores",),
    "counts": ("scores", "counts"),
}
TOLERANCE: Mapping[str, Mapping[str, float]] = {  # how far answers that should be the same may lie apart
    "boxes": {"boxes": 0.01, "scores": 1e-4},  # pixels; scores lie in 0 to 1
    "mask": {"mask": 1e-3},  # of the pixels
    "labels": {"scores": 1e-4},
    "counts": {"scores": 1e-4, "counts": 1e-3},
}
Outputs = Mapping[str, np.ndarray]


class PredictedBox(TypedDict):
    """A detected object, in pixels of the upright image as in Datasets/format/records.py; score in 0 to 1."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    score: float


class PredictedCount(TypedDict):
    """How many objects of a class there are."""

    name: str
    count: int


class Prediction(TypedDict):
    """What a model says of one image, by class name. labels: the classes that it shows; width, height: upright."""

    width: int
    height: int
    labels: list[str]


class Detection(Prediction):
    """Task boxes. boxes: by score, best first; labels and counts follow from them."""

    counts: list[PredictedCount]
    boxes: list[PredictedBox]


class Segmentation(Prediction):
    """Task mask. mask: a PNG file of the image's size in base64, its pixel values class ids + 1, 0 for background."""

    mask: str


class Classification(Prediction):
    """Task labels. scores: the chance of each class that there is."""

    scores: dict[str, float]


class Counting(Classification):
    """Task counts. counts: of the classes in labels, 1 or more of each; expected: before rounding, of each class."""

    counts: list[PredictedCount]
    expected: dict[str, float]


def to_prediction(
    task: str,
    outputs: Outputs,
    letterbox: Letterbox,
    width: int,
    height: int,
    classes: Sequence[str],
    threshold: float,
) -> Prediction:
    """One image's answer: what has a score of at least `threshold`, in the image's pixels.

    outputs: of one image, as in the table above. width, height: of the upright image. classes: names in id order.
    """
    if task == "boxes":
        return to_detection(outputs, letterbox, width, height, classes, threshold)
    if task == "mask":
        return to_segmentation(outputs, letterbox, width, height, classes)
    scores = dict(zip(classes, outputs["scores"].astype(np.float64).tolist(), strict=True))
    labels = sorted(name for name, score in scores.items() if score >= threshold)
    answer = Classification(width=width, height=height, labels=labels, scores=scores)
    if task == "labels":
        return answer
    expected = dict(zip(classes, outputs["counts"].astype(np.float64).tolist(), strict=True))
    counts = [PredictedCount(name=name, count=max(1, round(expected[name]))) for name in labels]
    return Counting(**answer, counts=counts, expected=expected)


def to_detection(
    outputs: Outputs, letterbox: Letterbox, width: int, height: int, classes: Sequence[str], threshold: float
) -> Detection:
    """The objects, clipped to the image; those that lie outside it are left out.

    Ordered by score descending, then class id, x1, y1: equal outputs in any order give the same answer.
    """
    scores = outputs["scores"].astype(np.float64)
    kept = np.flatnonzero(scores >= threshold)  # mostly few, for which Python is faster than NumPy
    boxes = np.clip(letterbox.to_image(outputs["boxes"][kept].astype(np.float64)), 0, (width, height, width, height))
    each = zip((-scores[kept]).tolist(), outputs["classes"][kept].tolist(), boxes.tolist(), strict=True)
    seen = sorted(one for one in each if one[2][2] > one[2][0] and one[2][3] > one[2][1])
    found = [_predicted(classes[kind], box, -score) for score, kind, box in seen]
    counts = Counter(box["name"] for box in found)
    return Detection(
        width=width,
        height=height,
        labels=sorted(counts),
        counts=[PredictedCount(name=name, count=counts[name]) for name in sorted(counts)],
        boxes=found,
    )


def _predicted(name: str, box: list[float], score: float) -> PredictedBox:
    x1, y1, x2, y2 = box
    return PredictedBox(name=name, x1=x1, y1=y1, x2=x2, y2=y2, score=score)


def to_segmentation(
    outputs: Outputs, letterbox: Letterbox, width: int, height: int, classes: Sequence[str]
) -> Segmentation:
    """The mask; its labels are the classes that have a pixel."""
    mask = letterbox.mask_to_image(outputs["mask"].astype(np.uint8), width, height)
    labels = sorted(classes[value - 1] for value in np.unique(mask) if value)
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return Segmentation(width=width, height=height, labels=labels, mask=base64.b64encode(file.getvalue()).decode())


def mask_of(prediction: Segmentation) -> np.ndarray:
    """The mask of an answer, uint8 [height, width]: class ids + 1, 0 for background."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(prediction["mask"]))))


def counts_in(prediction: Prediction) -> list[PredictedCount]:
    """The counts of an answer; none if its task does not count."""
    return prediction.get("counts") or []  # type: ignore[return-value]


def largest_difference(task: str, expected: Prediction, actual: Prediction, threshold: float) -> dict[str, float]:
    """How far two answers for one image lie apart, by the names in TOLERANCE; infinite where they cannot be compared.

    boxes: pixels; mask: the share of pixels that differ; scores, counts: as they are.
    """
    if task == "boxes":
        return _boxes_apart(expected, actual, threshold)  # type: ignore[arg-type]
    if task == "mask":
        first, second = mask_of(expected), mask_of(actual)  # type: ignore[arg-type]
        return {"mask": float((first != second).mean()) if first.shape == second.shape else float("inf")}
    fields = {"scores": "scores", "counts": "expected"}
    return {what: _values_apart(expected[fields[what]], actual[fields[what]]) for what in TOLERANCE[task]}  # type: ignore[literal-required]


def _values_apart(expected: Mapping[str, float], actual: Mapping[str, float]) -> float:
    if expected.keys() != actual.keys():
        return float("inf")
    return max((abs(value - actual[name]) for name, value in expected.items()), default=0.0)


def _boxes_apart(expected: Detection, actual: Detection, threshold: float) -> dict[str, float]:
    """Boxes of one class are paired, nearest first, so their order does not matter.

    A box without a counterpart is excused if its score lies so close to `threshold` that either side may have left it
    out.
    """
    pairs = sorted(
        (_apart(first, second), i, j)
        for i, first in enumerate(expected["boxes"])
        for j, second in enumerate(actual["boxes"])
        if first["name"] == second["name"]
    )
    left = dict(enumerate(expected["boxes"]))
    right = dict(enumerate(actual["boxes"]))
    worst = {"boxes": 0.0, "scores": 0.0}
    for apart, i, j in pairs:
        if i in left and j in right:
            scores = abs(left.pop(i)["score"] - right.pop(j)["score"])
            worst = {"boxes": max(worst["boxes"], apart), "scores": max(worst["scores"], scores)}
    excused = threshold + TOLERANCE["boxes"]["scores"]
    if any(box["score"] > excused for box in [*left.values(), *right.values()]):
        return {"boxes": float("inf"), "scores": float("inf")}
    return worst


def _apart(first: PredictedBox, second: PredictedBox) -> float:
    return max(
        abs(first["x1"] - second["x1"]),
        abs(first["y1"] - second["y1"]),
        abs(first["x2"] - second["x2"]),
        abs(first["y2"] - second["y2"]),
    )
