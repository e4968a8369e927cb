"""What the task modules in this folder share. Each has three functions of Samples and the answers to them:

    validate(samples, predictions) -> dict[str, float]     figures for the history, named val_...: the first decides
                                                           which epoch is best, the last is drawn by `dvc plots`
    best_threshold(samples, predictions) -> float          the score from which an answer counts
    measure(samples, predictions, threshold) -> Measured

The answers are as Models.metrics.evaluation.predict gives them, one Prediction per image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Pair = tuple[str | None, str | None]  # actual and predicted class; None: no object


class Measured(NamedTuple):
    """What the evaluate stage writes of a model.

    metrics: numbers, and groups of numbers by class. printed: names of those to print. curve: pairs (recall,
    precision). mistakes: of each image, the more the worse.
    """

    metrics: dict[str, Any]
    printed: Sequence[str]
    curve: Sequence[tuple[float, float]]
    confusion: Sequence[Pair]
    mistakes: Sequence[float]


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures with six digits."""
    return {name: round(float(value), 6) for name, value in figures.items()}


def mean(values: Sequence[float]) -> float:
    """The mean, or 0 of nothing."""
    return sum(values) / len(values) if values else 0.0
