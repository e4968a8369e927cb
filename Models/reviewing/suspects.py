"""Labels that may be wrong, by a model's answers for images that it was not trained on.

Each suspect has a suspicion from 0 to 1. Boxes: as ObjectLab (Tkachenko, Thyagarajan and Mueller, 2023,
arXiv:2309.00832) tells objects that were overlooked, badly placed and of the wrong class, by IoU and score. Masks:
regions where the answer differs, the more suspicious the surer the model and the thicker the region, as edges are never
exact. Labels and counts: confident learning (Northcutt, Jiang and Chuang, 2021, arXiv:1911.00068).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from Datasets.format.images import VOID
from Datasets.format.predictions import mask_of
from Models.learning.box_metrics import IOU, overlaps
from Models.learning.data_loading import Samples
from Models.learning.metrics import counts_of, scores_of
from Models.reviewing.looks import Look

NEAR = 0.1  # IoU from which an answer may mean a box
MIN_SUSPICION = 0.25  # of what is listed
DEPTH = 2.0  # pixels of the model's square: a region's thickness at which half of the model's confidence counts
Corners = Sequence[float] | None


class Suspect(NamedTuple):
    """What may be wrong in one image.

    row: the image's number among the samples. name, box, number: the class that is annotated, its box in pixels of the
    image, and that box's number in the record; None where something is missing. predicted, place: the model's answer.
    """

    row: int
    kind: str
    suspicion: float
    name: str | None = None
    predicted: str | None = None
    box: Corners = None
    place: Corners = None
    number: int | None = None


def find_suspects(look: Look) -> list[Suspect]:
    """All suspects of a split."""
    samples = look.samples
    if samples.task == "boxes":
        found = [each for row, answer in enumerate(look.predictions) for each in in_boxes(samples, row, answer)]
    elif samples.task == "mask":
        both = enumerate(zip(look.predictions, look.confidences, strict=True))
        found = [each for row, (answer, sure) in both for each in in_mask(samples, row, answer, sure / 255)]
    else:
        found = list(in_labels(samples, look.predictions))
    return [each for each in found if each.suspicion >= MIN_SUSPICION]


def in_boxes(samples: Samples, row: int, prediction: Any) -> Iterator[Suspect]:
    """For each box the strongest suspicion, and the objects that seem to be missing."""
    boxes = [(number, box) for number, box in enumerate(samples.records[row]["boxes"] or []) if not box["crowd"]]
    answers = prediction["boxes"]
    places = np.array([corners(answer) for answer in answers]).reshape(-1, 4)
    shared = overlaps(places, samples.boxes(row, crowd=False)[0], crowd=False)
    covered = overlaps(places, samples.boxes(row, crowd=True)[0], crowd=True)
    scores = np.array([answer["score"] for answer in answers])
    nearest = (shared == shared.max(1, keepdims=True, initial=0)) & (shared >= NEAR)  # an answer means one box
    quality = scores[:, None] * shared
    explained = np.hstack([shared, covered]).max(1, initial=0) >= IOU
    for column, (number, box) in enumerate(boxes):
        same = np.array([answer["name"] == box["name"] for answer in answers], bool)
        mine, other = (np.where(nearest[:, column] & alike, quality[:, column], 0) for alike in (same, ~same))
        right, wrong = mine.max(initial=0), other.max(initial=0)
        nothing = (1 - quality[:, column].max(initial=0)) / 2
        ways: list[tuple[float, str, Any]] = [(nothing, "nothing found there", None)]
        if wrong:
            ways.append((wrong * (1 - right), "wrong class", answers[int(other.argmax())]))
        if right:
            best = int(mine.argmax())
            explained[best] = True
            ways[0] = (scores[best] * (1 - shared[best, column]), "badly placed", answers[best])
        suspicion, kind, answer = max(ways, key=lambda way: way[0])
        place, predicted = (corners(answer), answer["name"]) if answer else (None, None)
        yield Suspect(row, kind, float(suspicion), box["name"], predicted, corners(box), place, number)
    yield from missing(row, answers, places, shared, explained)


def missing(
    row: int, answers: Sequence[Any], places: np.ndarray, shared: np.ndarray, explained: np.ndarray
) -> Iterator[Suspect]:
    """Answers, best first, that neither a box explains nor an answer before. shared: their IoU with the boxes."""
    seen: list[int] = []
    between = overlaps(places, places, crowd=False)
    for best in np.flatnonzero(~explained).tolist():
        if not (between[best, seen] >= IOU).any():
            seen.append(best)
            suspicion = answers[best]["score"] * (1 - shared[best].max(initial=0))
            yield Suspect(row, "missing", suspicion, None, answers[best]["name"], None, corners(answers[best]))


def corners(box: Any) -> list[float]:
    """x1, y1, x2, y2."""
    return [box["x1"], box["y1"], box["x2"], box["y2"]]


def in_mask(samples: Samples, row: int, prediction: Any, confidence: np.ndarray) -> Iterator[Suspect]:
    """The connected regions, in the model's square, where a mask and the answer to it differ in one way."""
    square = samples.letterbox(row)
    actual, found = (square.mask_to_square(mask, VOID) for mask in (samples.mask(row), mask_of(prediction)))
    names = [None, *samples.classes]
    ways = np.where((actual == found) | (actual == VOID), -1, actual.astype(np.int64) * len(names) + found)
    for way in np.unique(ways[ways >= 0]).tolist():
        parts, _ = ndimage.label(ways == way)
        depths = ndimage.distance_transform_edt(np.pad(ways == way, 1))[1:-1, 1:-1]
        for part, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            inside = parts[rows, columns] == part
            thick = depths[rows, columns][inside].max() - 1
            suspicion = float(confidence[rows, columns][inside].mean() * thick / (thick + DEPTH))
            around = np.array([[columns.start, rows.start, columns.stop, rows.stop]], float)
            place = square.to_image(around)[0].tolist()
            labelled, predicted = (names[value] for value in divmod(way, len(names)))
            kind = "missing" if labelled is None else "wrong class" if predicted else "nothing found there"
            yield Suspect(row, kind, suspicion, labelled, predicted, None, place)


def in_labels(samples: Samples, predictions: Sequence[Any]) -> Iterator[Suspect]:
    """For each image and class a label that may be missing or wrong, and a count that may be another.

    A class's own mean score, over the images with and without it, is what a model is to be as sure as: below, a
    suspicion is halved.
    """
    counts, scores = counts_of(samples), scores_of(samples, predictions)
    shown = counts > 0
    against = np.where(shown, 1 - scores, scores)
    usual = [np.ma.array(s, mask=~y).mean(0).filled(1) for s, y in ((scores, shown), (1 - scores, ~shown))]
    suspicion = against * np.where(against >= np.where(shown, usual[1], usual[0]), 1, 0.5)
    for row, kind in np.argwhere(suspicion >= MIN_SUSPICION).tolist():
        name = samples.classes[kind]
        stated, predicted = (name, None) if shown[row, kind] else (None, name)
        yield Suspect(row, "wrong label" if stated else "missing", float(suspicion[row, kind]), stated, predicted)
    if samples.task == "counts":
        expected = np.array([[answer["expected"][name] for name in samples.classes] for answer in predictions])
        apart = scores * np.minimum(1, np.abs(expected - counts)) * shown
        for row, kind in np.argwhere(apart >= MIN_SUSPICION).tolist():
            words = f"{expected[row, kind]:.1f} {samples.classes[kind]}"
            stated = f"{counts[row, kind]} {samples.classes[kind]}"
            yield Suspect(row, "another number", float(apart[row, kind]), stated, words)
