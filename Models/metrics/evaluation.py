"""A model's answers for the images of a split, and the metrics of its task."""

from types import ModuleType
from typing import Any

import torch
from torch import nn

from Datasets.format.predictions import to_prediction
from Models.learning.data_loading import Samples
from Models.metrics import boxes, labels, mask

TASKS: dict[str, ModuleType] = {"boxes": boxes, "mask": mask, "labels": labels, "counts": labels}
MIN_SCORE = 0.001  # detections below it change no figure


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
    figures: dict[str, float] = TASKS[samples.task].validate(samples, predict(model, samples, batch))
    return figures
