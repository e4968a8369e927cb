"""A model's answers for the images of a split, and the metrics of its task; those of boxes are in box_metrics.py.

Masks: intersection over union of the classes, over all annotated pixels, in the images' own pixels. Labels and counts:
F1 of each class, their mean (macro-F1), and errors of the counts. The counts of an answer: of each class with a score
from the threshold on, at least 1; of the others 0.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from Datasets.format.images import VOID, Letterbox
from Datasets.format.predictions import Outputs, mask_of, to_prediction
from Datasets.format.records import write_predictions
from Models.learning import box_metrics
from Models.learning.box_metrics import Measured, Pair, rounded
from Models.learning.data_loading import Samples
from Models.learning.scripts import evaluating

MIN_SCORE = 0.001  # detections below it change no figure
THRESHOLDS = np.arange(1, 100) / 100


def mean(values: Sequence[float]) -> float:
    """The mean, or 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def validate_masks(samples: Samples, predictions: Sequence[Any]) -> dict[str, float]:
    """Mean IoU."""
    return {"mIoU": measure_masks(samples, predictions).metrics["mIoU"]}


def measure_masks(samples: Samples, predictions: Sequence[Any], threshold: float = 0) -> Measured:
    """mIoU (mean over the classes that have a pixel in truth, without background), IoU of each class, pixel accuracy.

    The curve has a point per class: the share of its pixels that were found, and of the pixels found that are its own.
    A mask has no scores, and the threshold no meaning.
    """
    each = list(pixel_tables(samples, predictions))
    table = np.sum(each, axis=0)
    iou = class_iou(table, samples.classes)
    figures = {"mIoU": mean(list(iou.values())), "pixel_accuracy": np.trace(table) / max(1, table.sum())}
    right, actual, found = (values[1:] for values in (np.diag(table), table.sum(1), table.sum(0)))
    curve = [(r / a, r / max(1, f)) for r, a, f in zip(right, actual, found, strict=True) if a]
    pairs = [pair for one in each for pair in mask_confusion(one, samples.classes)]
    mistakes = [float(1 - np.trace(one) / max(1, one.sum())) for one in each]
    return Measured({**rounded(figures), "IoU": rounded(iou)}, list(figures), sorted(curve), pairs, mistakes)


def pixel_tables(samples: Samples, predictions: Sequence[Any]) -> Iterator[np.ndarray]:
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


def mask_confusion(table: np.ndarray, classes: Sequence[str]) -> list[Pair]:
    """For each class in an image, what most of its pixels were predicted as; and what was predicted for background."""
    names = [None, *classes]
    present = [i for i in range(1, len(names)) if table[i].any()]
    extra = [i for i in range(1, len(names)) if table[:, i].any() and not table[i].any() and not table[:, i].argmax()]
    return [(names[i], names[table[i].argmax()]) for i in present] + [(None, names[i]) for i in extra]


def validate_labels(samples: Samples, predictions: Sequence[Any]) -> dict[str, float]:
    """Macro-F1 at the threshold at which it is best, and there the errors of the counts, if the task is counts."""
    metrics = measure_labels(samples, predictions, best_label_threshold(samples, predictions)).metrics
    return {name: metrics[name] for name in ("macroF1", "MAE", "total_MAE", "exact_count") if name in metrics}


def best_label_threshold(samples: Samples, predictions: Sequence[Any]) -> float:
    """The lowest of THRESHOLDS at which macro-F1 is best."""
    actual, scores = counts_of(samples) > 0, scores_of(samples, predictions)
    return float(max(THRESHOLDS, key=lambda threshold: macro_f1(actual, scores >= threshold)))


def measure_labels(samples: Samples, predictions: Sequence[Any], threshold: float) -> Measured:
    """macroF1 (mean over the classes that an image shows) and F1 of each class.

    For labels also mAP and AP of each class, over 101 recalls; `top1`, the share of images with labels whose best
    score is of one of them; `exact`, the share of images with all labels right. For counts the errors of the counts.
    """
    actual, predicted = counts_of(samples), predicted_counts(samples, predictions, threshold)
    labels, scores = actual > 0, scores_of(samples, predictions)
    present = np.flatnonzero(labels.any(0)).tolist()
    figures, groups = {"macroF1": macro_f1(labels, predicted > 0)}, {}
    if samples.task == "counts":
        figures |= count_errors(actual, predicted)
        printed = ["macroF1", "MAE", "exact_count"]
    else:
        some = labels.any(1)
        ap = {kind: mean([y for _, y in precision_recall(labels[:, [kind]], scores[:, [kind]])]) for kind in present}
        figures["mAP"] = mean(list(ap.values()))
        figures["top1"] = float(labels[some, scores[some].argmax(1)].mean())
        figures["exact"] = float((actual == predicted).all(1).mean())
        printed = ["macroF1", "mAP", "top1", "exact"]
        groups = {"AP": rounded({samples.classes[kind]: value for kind, value in ap.items()})}
    each = f1(labels, predicted > 0)
    groups["F1"] = rounded({samples.classes[kind]: each[kind] for kind in present})
    metrics = {**rounded(figures), **groups}
    curve = precision_recall(labels, scores)
    mistakes = np.abs(actual - predicted).sum(1).tolist()
    return Measured(metrics, printed, curve, count_confusion(actual, predicted, samples.classes), mistakes)


def counts_of(samples: Samples) -> np.ndarray:
    """int64 [N, C]: how many objects of each class each image shows; for labels 1 if any."""
    return np.array([getattr(samples, samples.task)(index) for index in range(len(samples))], np.int64)


def scores_of(samples: Samples, predictions: Sequence[Any]) -> np.ndarray:
    """float [N, C]: the predicted scores."""
    return np.array([[prediction["scores"][name] for name in samples.classes] for prediction in predictions])


def predicted_counts(samples: Samples, predictions: Sequence[Any], threshold: float) -> np.ndarray:
    """int64 [N, C]: the counts at a threshold; for labels 1 or 0."""
    shown = (scores_of(samples, predictions) >= threshold).astype(np.int64)
    if samples.task == "labels":
        return shown
    expected = np.array([[prediction["expected"][name] for name in samples.classes] for prediction in predictions])
    return shown * np.maximum(1, np.rint(expected)).astype(np.int64)


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


def count_confusion(actual: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> list[Pair]:
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


class Metrics(NamedTuple):
    """A task's functions of Samples and of the answers to them, one Prediction per image.

    validate: figures for the history; the first decides which epoch is best, the last is drawn by `dvc plots`.
    best_threshold: the score from which an answer counts. measure: at that threshold, what the evaluate stage writes.
    """

    validate: Callable[[Samples, Sequence[Any]], dict[str, float]]
    best_threshold: Callable[[Samples, Sequence[Any]], float]
    measure: Callable[[Samples, Sequence[Any], float], Measured]


BOXES = Metrics(box_metrics.validate, box_metrics.best_threshold, box_metrics.measure)
MASKS = Metrics(validate_masks, lambda samples, predictions: 0.0, measure_masks)
LABELS = Metrics(validate_labels, best_label_threshold, measure_labels)
TASKS = {"boxes": BOXES, "mask": MASKS, "labels": LABELS, "counts": LABELS}


def predict(model: nn.Module, samples: Samples, batch: int) -> list[Any]:
    """A Prediction for each image, in its own pixels."""
    return [answer(samples, *each) for each in outputs_of(model, samples, batch)]


def outputs_of(model: nn.Module, samples: Samples, batch: int) -> Iterator[tuple[int, Outputs, Letterbox]]:
    """For each image its number, what `forward` gives for it, and the way back to its own pixels."""
    device = next(model.parameters()).device
    order = [range(first, min(first + batch, len(samples))) for first in range(0, len(samples), batch)]
    with torch.inference_mode(), evaluating(model):
        for part in samples.batches(order):
            outputs = {name: values.cpu().numpy() for name, values in model(part.images.to(device)).items()}
            for row, (index, square) in enumerate(zip(part.indices, part.squares, strict=True)):
                yield index, {name: values[row] for name, values in outputs.items()}, square


def answer(samples: Samples, index: int, outputs: Outputs, square: Letterbox) -> Any:
    """The Prediction that the outputs for an image mean."""
    width, height = samples.records[index]["width"], samples.records[index]["height"]
    assert width and height, "a curated record has the true size of its image"
    return to_prediction(samples.task, outputs, square, width, height, samples.classes, MIN_SCORE)


def write_answers(samples: Samples, predictions: Sequence[Any], script: str, path: Path) -> None:
    """Write the answer for each image as Parquet (Datasets/format/records.py)."""
    each = zip(samples.records, predictions, strict=True)
    rows = [{"image": record["image"], "sha256": record["sha256"], **prediction} for record, prediction in each]
    write_predictions(rows, script, path)


def validate(model: nn.Module, samples: Samples, batch: int) -> dict[str, float]:
    """The figures for a row of the history; the first decides which epoch is best."""
    samples.cache()
    figures = TASKS[samples.task].validate(samples, predict(model, samples, batch))
    return rounded({f"val_{name}": value for name, value in figures.items()})
