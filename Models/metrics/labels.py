"""Metrics of labels and counts: F1 of each class, their mean (macro-F1), and errors of the counts.

The counts of an answer: of each class with a score from the threshold on, at least 1; of the others 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from Models.learning.data_loading import Samples
from Models.metrics.measured import Measured, Pair, mean, rounded

THRESHOLDS = np.arange(1, 100) / 100


def validate(samples: Samples, predictions: Sequence[Any]) -> dict[str, float]:
    """Macro-F1 at the threshold at which it is best, and there the errors of the counts, if the task is counts."""
    threshold = best_threshold(samples, predictions)
    figures = {"macroF1": macro_f1(labels_of(samples), scores_of(samples, predictions) >= threshold)}
    if samples.task == "counts":
        figures |= count_errors(counts_of(samples), predicted_counts(samples, predictions, threshold))
    return rounded({f"val_{name}": value for name, value in figures.items()})


def best_threshold(samples: Samples, predictions: Sequence[Any]) -> float:
    """The lowest of THRESHOLDS at which macro-F1 is best."""
    actual, scores = labels_of(samples), scores_of(samples, predictions)
    return float(max(THRESHOLDS, key=lambda threshold: macro_f1(actual, scores >= threshold)))


def measure(samples: Samples, predictions: Sequence[Any], threshold: float) -> Measured:
    """macroF1 (mean over the classes that an image shows) and F1 of each class.

    For labels also `exact`, the share of images with all labels right; for counts the errors of the counts.
    """
    labels, scores = labels_of(samples), scores_of(samples, predictions)
    positive = scores >= threshold
    figures = {"macroF1": macro_f1(labels, positive)}
    if samples.task == "counts":
        actual, predicted = counts_of(samples), predicted_counts(samples, predictions, threshold)
        figures |= count_errors(actual, predicted)
        printed = ["macroF1", "MAE", "exact_count"]
    else:
        actual, predicted = labels.astype(int), positive.astype(int)
        figures["exact"] = float((actual == predicted).all(1).mean())
        printed = ["macroF1", "exact"]
    by_class = zip(samples.classes, f1(labels, positive).tolist(), np.asarray(labels.any(0)).tolist(), strict=True)
    metrics = {**rounded(figures), "F1": rounded({name: value for name, value, present in by_class if present})}
    pairs = confusion(actual, predicted, samples.classes)
    mistakes = np.abs(actual - predicted).sum(1).tolist()
    return Measured(metrics, printed, precision_recall(labels, scores), pairs, mistakes)


def labels_of(samples: Samples) -> np.ndarray:
    """bool [N, C]: which classes each image shows."""
    return counts_of(samples) > 0 if samples.task == "counts" else np.array([*map(samples.labels, range(len(samples)))])


def counts_of(samples: Samples) -> np.ndarray:
    """int64 [N, C]: how many objects of each class each image shows."""
    return np.array([samples.counts(index) for index in range(len(samples))])


def scores_of(samples: Samples, predictions: Sequence[Any]) -> np.ndarray:
    """float [N, C]: the predicted scores."""
    return np.array([[prediction["scores"][name] for name in samples.classes] for prediction in predictions])


def predicted_counts(samples: Samples, predictions: Sequence[Any], threshold: float) -> np.ndarray:
    """int64 [N, C]: the counts at a threshold."""
    expected = np.array([[prediction["expected"][name] for name in samples.classes] for prediction in predictions])
    counts = np.maximum(1, np.rint(expected)).astype(np.int64)
    return np.where(scores_of(samples, predictions) >= threshold, counts, 0)


def count_errors(actual: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Of counts int [N, C].

    MAE: mean absolute error of the count of a class, over the classes that each image shows. total_MAE: of the number
    of all objects in an image. exact_count: the share of images with all counts right.
    """
    errors = np.abs(actual - predicted)
    return {
        "MAE": float(errors[actual > 0].mean()) if actual.any() else 0.0,
        "total_MAE": float(np.abs(actual.sum(1) - predicted.sum(1)).mean()),
        "exact_count": float((errors == 0).all(1).mean()),
    }


def f1(actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """float [C]: F1 of each class, 0 where it is neither in truth nor predicted; both bool [N, C]."""
    return np.asarray(2 * (actual & predicted).sum(0) / np.maximum(1, actual.sum(0) + predicted.sum(0)))


def macro_f1(actual: np.ndarray, predicted: np.ndarray) -> float:
    """The mean F1 of the classes in truth."""
    return mean(f1(actual, predicted)[actual.any(0)].tolist())


def precision_recall(actual: np.ndarray, scores: np.ndarray) -> list[tuple[float, float]]:
    """The best precision at recalls of 0, 0.01, ... 1, over all images and classes together; 0 beyond the highest."""
    order = np.argsort(-scores, axis=None, kind="stable")
    right = np.cumsum(actual.reshape(-1)[order])
    precision = np.maximum.accumulate((right / np.arange(1, right.size + 1))[::-1])[::-1]
    recall = right / max(1, right[-1])
    places = np.searchsorted(recall, np.arange(101) / 100 - 1e-9)
    return [(i / 100, float(np.append(precision, 0.0)[place])) for i, place in enumerate(places)]


def confusion(actual: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> list[Pair]:
    """(actual, predicted) of each object in int [N, C], and of each that was predicted too many.

    Where exactly one object of an image was missed and exactly one is too many, the one was confused with the other.
    """
    pairs: list[Pair] = []
    for row in range(len(actual)):
        right = np.minimum(actual[row], predicted[row])
        missed = np.repeat(classes, actual[row] - right).tolist()
        extra = np.repeat(classes, predicted[row] - right).tolist()
        pairs += [(name, name) for name in np.repeat(classes, right).tolist()]
        if len(missed) == len(extra) == 1:
            pairs.append((missed[0], extra[0]))
        else:
            pairs += [*((name, None) for name in missed), *((None, name) for name in extra)]
    return pairs
