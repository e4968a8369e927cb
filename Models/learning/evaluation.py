"""A model's answers for the images of a split, and the metrics of its task."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from Datasets.format.predictions import to_prediction
from Models.learning import box_metrics, metrics
from Models.learning.data_loading import Samples
from Models.learning.metrics import Measured, rounded

MIN_SCORE = 0.001  # detections below it change no figure


class Metrics(NamedTuple):
    """A task's functions of Samples and of the answers to them, one Prediction per image.

    validate: figures for the history; the first decides which epoch is best, the last is drawn by `dvc plots`.
    best_threshold: the score from which an answer counts. measure: at that threshold, what the evaluate stage writes.
    """

    validate: Callable[[Samples, Sequence[Any]], dict[str, float]]
    best_threshold: Callable[[Samples, Sequence[Any]], float]
    measure: Callable[[Samples, Sequence[Any], float], Measured]


BOXES = Metrics(box_metrics.validate, box_metrics.best_threshold, box_metrics.measure)
MASKS = Metrics(metrics.validate_masks, lambda samples, predictions: 0.0, metrics.measure_masks)
LABELS = Metrics(metrics.validate_labels, metrics.best_label_threshold, metrics.measure_labels)
TASKS = {"boxes": BOXES, "mask": MASKS, "labels": LABELS, "counts": LABELS}


def predict(model: nn.Module, samples: Samples, batch: int, threshold: float = MIN_SCORE) -> list[Any]:
    """A Prediction for each image, in its own pixels. Leaves the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    order = [range(first, min(first + batch, len(samples))) for first in range(0, len(samples), batch)]
    predictions: list[Any] = []
    with torch.inference_mode():
        for part in samples.batches(order):
            outputs = {name: values.cpu().numpy() for name, values in model(part.images.to(device)).items()}
            for row, (index, square) in enumerate(zip(part.indices, part.squares, strict=True)):
                width, height = samples.records[index]["width"], samples.records[index]["height"]
                assert width and height, "a curated record has the true size of its image"
                arrays = {name: values[row] for name, values in outputs.items()}
                answer = to_prediction(samples.task, arrays, square, width, height, samples.classes, threshold)
                predictions.append(answer)
    return predictions


def validate(model: nn.Module, samples: Samples, batch: int) -> dict[str, float]:
    """The figures for a row of the history; the first decides which epoch is best."""
    samples.cache()
    figures = TASKS[samples.task].validate(samples, predict(model, samples, batch))
    return rounded({f"val_{name}": value for name, value in figures.items()})
