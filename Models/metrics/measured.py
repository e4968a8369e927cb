"""What the modules in this folder, one for each task, have in common.

Each has three functions, of Samples and the answers to them, as Models.metrics.evaluation.predict gives them:

    validate(samples, predictions) -> dict[str, float]     figures for the history: the first decides which epoch is
                                                           best, the last is drawn by `dvc plots`
    best_threshold(samples, predictions) -> float          the score from which to believe
    measure(samples, predictions, threshold) -> Measured
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

BACKGROUND = "background"


class Measured(NamedTuple):
    """What the evaluate stage writes of a model.

    metrics: numbers, and groups of numbers by class. told: those of them to print. curve: pairs (recall, precision).
    confusion: pairs (actual, predicted), BACKGROUND for nothing. mistakes: of each image, the more the worse.
    """

    metrics: dict[str, Any]
    told: Sequence[str]
    curve: Sequence[tuple[float, float]]
    confusion: Sequence[tuple[str, str]]
    mistakes: Sequence[float]


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures with six digits."""
    return {name: round(float(value), 6) for name, value in figures.items()}


def mean(values: Sequence[float]) -> float:
    """The mean, or 0 of nothing."""
    return sum(values) / len(values) if values else 0.0
