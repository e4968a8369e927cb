"""How well objects are counted: which classes an image shows, as for labels, and how many objects of each.

Counts are those of the answer: of each class with a score from the threshold on, at least 1; of the others 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from Models.learning.data_loading import Samples
from Models.metrics import labels
from Models.metrics.labels import best_threshold, confused, f1_by_class, labels_of, macro_f1, scores_of
from Models.metrics.measured import Measured, rounded

__all__ = ["best_threshold", "measure", "validate"]


def validate(samples: Samples, predictions: Sequence[Any]) -> dict[str, float]:
    """Macro-F1 at the threshold at which it is best, and there the `errors`."""
    actual, found = counts_of(samples), counted(samples, predictions, best_threshold(samples, predictions))
    figures = {"macroF1": macro_f1(actual > 0, found > 0), **errors(actual, found)}
    return rounded({f"val_{name}": value for name, value in figures.items()})


def measure(samples: Samples, predictions: Sequence[Any], threshold: float) -> Measured:
    """As for labels, and MAE and exact_count, as `errors` says; a mistake is an object too many or too few."""
    actual, found = counts_of(samples), counted(samples, predictions, threshold)
    shown, scores = labels_of(samples), scores_of(samples, predictions)
    metrics = {
        **rounded({"macroF1": macro_f1(shown, found > 0), **errors(actual, found)}),
        "F1": rounded(f1_by_class(samples, shown, found > 0)),
    }
    pairs = confused(actual, found, samples.classes)
    mistakes = np.abs(actual - found).sum(1).tolist()
    return Measured(metrics, ("macroF1", "MAE", "exact_count"), labels.precision_recall(shown, scores), pairs, mistakes)


def errors(actual: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Of counts int [N, C].

    MAE: mean absolute error of the count of a class, over the classes that an image shows. total_MAE: of the number of
    all objects of an image. exact_count: the share of images of which all counts are right.
    """
    apart = np.abs(actual - found)
    return {
        "MAE": float(apart[actual > 0].mean()) if actual.any() else 0.0,
        "total_MAE": float(np.abs(actual.sum(1) - found.sum(1)).mean()),
        "exact_count": float((apart == 0).all(1).mean()),
    }


def counts_of(samples: Samples) -> np.ndarray:
    """int64 [N, C]: how many objects of each class each image shows."""
    return np.array([samples.counts(index) for index in range(len(samples))])


def counted(samples: Samples, predictions: Sequence[Any], threshold: float) -> np.ndarray:
    """int64 [N, C]: the counts that are answered at a threshold."""
    expected = np.array([[prediction["expected"][name] for name in samples.classes] for prediction in predictions])
    counts = np.maximum(1, np.rint(expected)).astype(np.int64)
    return np.where(scores_of(samples, predictions) >= threshold, counts, 0)
