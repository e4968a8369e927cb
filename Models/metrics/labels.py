"""How well the classes that an image shows are told: F1 of each class and their mean, macro-F1."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from Models.learning.data_loading import Samples
from Models.metrics.measured import BACKGROUND, Measured, mean, rounded

THRESHOLDS = np.arange(1, 100) / 100


def validate(samples: Samples, predictions: Sequence[Any]) -> dict[str, float]:
    """Macro-F1 at the threshold at which it is best."""
    actual, scores = labels_of(samples), scores_of(samples, predictions)
    return rounded({"val_macroF1": macro_f1(actual, scores >= best_threshold(samples, predictions))})


def best_threshold(samples: Samples, predictions: Sequence[Any]) -> float:
    """The lowest of THRESHOLDS at which macro-F1 is best."""
    actual, scores = labels_of(samples), scores_of(samples, predictions)
    return float(max(THRESHOLDS, key=lambda threshold: macro_f1(actual, scores >= threshold)))


def measure(samples: Samples, predictions: Sequence[Any], threshold: float) -> Measured:
    """macroF1 (mean over the classes that an image shows), F1 of each class, exact: the share of images all right."""
    actual, scores = labels_of(samples), scores_of(samples, predictions)
    found = scores >= threshold
    metrics = {
        **rounded({"macroF1": macro_f1(actual, found), "exact": (actual == found).all(1).mean()}),
        "F1": rounded(f1_by_class(samples, actual, found)),
    }
    pairs = confused(actual.astype(int), found.astype(int), samples.classes)
    mistakes = (actual != found).sum(1).tolist()
    return Measured(metrics, ("macroF1", "exact"), precision_recall(actual, scores), pairs, mistakes)


def labels_of(samples: Samples) -> np.ndarray:
    """bool [N, C]: which classes each image shows."""
    read = samples.labels if samples.task == "labels" else lambda index: samples.counts(index) > 0
    return np.array([read(index) for index in range(len(samples))])


def scores_of(samples: Samples, predictions: Sequence[Any]) -> np.ndarray:
    """float [N, C]: the scores of the answers."""
    return np.array([[prediction["scores"][name] for name in samples.classes] for prediction in predictions])


def f1(actual: np.ndarray, found: np.ndarray) -> np.ndarray:
    """float [C]: F1 of each class, 0 where there is none in truth nor in the answers; both bool [N, C]."""
    return np.asarray(2 * (actual & found).sum(0) / np.maximum(1, actual.sum(0) + found.sum(0)))


def macro_f1(actual: np.ndarray, found: np.ndarray) -> float:
    """The mean F1 of the classes that there are in truth."""
    return mean(f1(actual, found)[actual.any(0)].tolist())


def f1_by_class(samples: Samples, actual: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """F1 by name, of the classes that there are in truth."""
    values = zip(samples.classes, f1(actual, found).tolist(), np.asarray(actual.any(0)).tolist(), strict=True)
    return {name: value for name, value, present in values if present}


def precision_recall(actual: np.ndarray, scores: np.ndarray) -> list[tuple[float, float]]:
    """The best precision at recalls of 0, 0.01, ... 1, over all images and classes together; 0 beyond the highest."""
    order = np.argsort(-scores, axis=None, kind="stable")
    right = np.cumsum(actual.reshape(-1)[order])
    precision = np.maximum.accumulate((right / np.arange(1, right.size + 1))[::-1])[::-1]
    recall = right / max(1, right[-1])
    places = np.searchsorted(recall, np.arange(101) / 100 - 1e-9)
    return [(i / 100, float(np.append(precision, 0.0)[place])) for i, place in enumerate(places)]


def confused(actual: np.ndarray, found: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str]]:
    """(actual, predicted) of each object in int [N, C], and of each that was found too many.

    Where exactly one object of an image was missed and exactly one is too many, one was taken for the other.
    """
    pairs: list[tuple[str, str]] = []
    for row in range(len(actual)):
        right = np.minimum(actual[row], found[row])
        missed = [name for name, n in zip(classes, actual[row] - right, strict=True) for _ in range(n)]
        extra = [name for name, n in zip(classes, found[row] - right, strict=True) for _ in range(n)]
        pairs += [(name, name) for name, n in zip(classes, right, strict=True) for _ in range(n)]
        if len(missed) == len(extra) == 1:
            pairs.append((missed[0], extra[0]))
        else:
            pairs += [(name, BACKGROUND) for name in missed] + [(BACKGROUND, name) for name in extra]
    return pairs
