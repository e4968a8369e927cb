"""Metrics of semantic masks: intersection over union of the classes, over all annotated pixels of the images.

Masks are compared in the pixels of the images as annotated, not in the model's square.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from Datasets.format.images import VOID
from Datasets.format.predictions import mask_of
from Models.learning.data_loading import Samples
from Models.metrics.measured import Measured, Pair, mean, rounded


def validate(samples: Samples, predictions: Sequence[Any]) -> dict[str, float]:
    """Mean IoU."""
    table = np.sum([*tables(samples, predictions)], axis=0)
    return rounded({"val_mIoU": mean(list(class_iou(table, samples.classes).values()))})


def best_threshold(samples: Samples, predictions: Sequence[Any]) -> float:
    """0: a mask has no scores."""
    return 0.0


def measure(samples: Samples, predictions: Sequence[Any], threshold: float) -> Measured:
    """mIoU (mean over the classes that have a pixel in truth, without background), IoU of each class, pixel accuracy.

    The curve has a point per class: the share of its pixels that were found, and of the pixels found that are its own.
    """
    each = list(tables(samples, predictions))
    table = np.sum(each, axis=0)
    iou = class_iou(table, samples.classes)
    metrics = {
        **rounded({"mIoU": mean(list(iou.values())), "pixel_accuracy": np.trace(table) / max(1, table.sum())}),
        "IoU": rounded(iou),
    }
    right, actual, found = (values[1:] for values in (np.diag(table), table.sum(1), table.sum(0)))
    curve = [(r / a, r / max(1, f)) for r, a, f in zip(right, actual, found, strict=True) if a]
    pairs = [pair for one in each for pair in confusion(one, samples.classes)]
    mistakes = [float(1 - np.trace(one) / max(1, one.sum())) for one in each]
    return Measured(metrics, ("mIoU", "pixel_accuracy"), sorted(curve), pairs, mistakes)


def tables(samples: Samples, predictions: Sequence[Any]) -> Iterator[np.ndarray]:
    """For each image the number of annotated pixels, int64 [C + 1, C + 1], by actual and by predicted value."""
    values = len(samples.classes) + 1
    for index, prediction in enumerate(predictions):
        actual = samples.mask(index)
        known = actual != VOID
        both = actual[known].astype(np.int64) * values + mask_of(prediction)[known]
        yield np.bincount(both, minlength=values**2).reshape(values, values)


def class_iou(table: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Intersection over union of each class that has a pixel in truth."""
    right, actual, found = np.diag(table), table.sum(1), table.sum(0)
    return {name: float(right[i] / (actual[i] + found[i] - right[i])) for i, name in enumerate(classes, 1) if actual[i]}


def confusion(table: np.ndarray, classes: Sequence[str]) -> list[Pair]:
    """For each class in an image, what most of its pixels were predicted as; and what was predicted for background."""
    names = [None, *classes]
    present = [i for i in range(1, len(names)) if table[i].any()]
    extra = [i for i in range(1, len(names)) if table[:, i].any() and not table[i].any() and not table[:, i].argmax()]
    return [(names[i], names[table[i].argmax()]) for i in present] + [(None, names[i]) for i in extra]
