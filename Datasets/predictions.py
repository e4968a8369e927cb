"""From a model's outputs for one image to the answer that people get, and how far two answers lie apart.

Evaluation, the export's expected answers and the service use these functions and no others. NumPy only.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from Datasets.images import Letterbox


class PredictedBox(TypedDict):
    """A detected object, in pixels of the upright image as in Datasets/records.py; score in 0 to 1."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    score: float


class PredictedCount(TypedDict):
    """How many objects of a class were detected."""

    name: str
    count: int


class Prediction(TypedDict):
    """What a detector says of one image: boxes by score, best first; labels and counts follow from them, by name."""

    width: int
    height: int
    labels: list[str]
    counts: list[PredictedCount]
    boxes: list[PredictedBox]


class Difference(TypedDict):
    """The largest difference of a coordinate (pixels) and of a score."""

    boxes: float
    scores: float


def to_prediction(
    outputs: Mapping[str, np.ndarray],
    letterbox: Letterbox,
    width: int,
    height: int,
    classes: Sequence[str],
    threshold: float,
) -> Prediction:
    """One image's detections with a score of at least `threshold`, in the image's pixels.

    outputs: boxes float [K, 4] (x1, y1, x2, y2 in the letterbox's square), scores float [K], classes int [K] (indices
    into `classes`). width, height: of the upright image; boxes are clipped to it, and those that lie outside left out.
    Ordered by score descending, then class id, x1, y1: equal outputs in any order give the same answer.
    """
    boxes = np.clip(letterbox.to_image(outputs["boxes"].astype(np.float64)), 0, [width, height, width, height])
    scores, ids = outputs["scores"].astype(np.float64), outputs["classes"]
    kept = (scores >= threshold) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, ids = boxes[kept], scores[kept], ids[kept]
    order = np.lexsort((boxes[:, 1], boxes[:, 0], ids, -scores))
    found = [_predicted(classes[ids[i]], boxes[i].tolist(), float(scores[i])) for i in order]
    counts = Counter(box["name"] for box in found)
    return Prediction(
        width=width,
        height=height,
        labels=sorted(counts),
        counts=[PredictedCount(name=name, count=counts[name]) for name in sorted(counts)],
        boxes=found,
    )


def _predicted(name: str, box: list[float], score: float) -> PredictedBox:
    x1, y1, x2, y2 = box
    return PredictedBox(name=name, x1=x1, y1=y1, x2=x2, y2=y2, score=score)


def largest_difference(
    expected: Prediction, actual: Prediction, threshold: float, score_tolerance: float = 1e-4
) -> Difference:
    """How far two answers for one image lie apart; infinite where one holds a box of which the other has nothing alike.

    Boxes of one class are paired, nearest first, so their order does not matter. A box without a counterpart is excused
    if its score lies within `score_tolerance` of `threshold`, at which either side may have left it out.
    """
    pairs = sorted(
        (_apart(first, second), i, j)
        for i, first in enumerate(expected["boxes"])
        for j, second in enumerate(actual["boxes"])
        if first["name"] == second["name"]
    )
    left = dict(enumerate(expected["boxes"]))
    right = dict(enumerate(actual["boxes"]))
    worst = Difference(boxes=0.0, scores=0.0)
    for apart, i, j in pairs:
        if i in left and j in right:
            scores = abs(left.pop(i)["score"] - right.pop(j)["score"])
            worst = Difference(boxes=max(worst["boxes"], apart), scores=max(worst["scores"], scores))
    if any(box["score"] > threshold + score_tolerance for box in [*left.values(), *right.values()]):
        return Difference(boxes=float("inf"), scores=float("inf"))
    return worst


def _apart(first: PredictedBox, second: PredictedBox) -> float:
    return max(
        abs(first["x1"] - second["x1"]),
        abs(first["y1"] - second["y1"]),
        abs(first["x2"] - second["x2"]),
        abs(first["y2"] - second["y2"]),
    )
