"""A page that sets results of one task side by side, with an interval for what their main figures differ by.

The interval is a paired bootstrap's: as many images as there are get drawn with replacement, and both models measured
on the same ones, DRAWS times; 95 % of the differences lie in it, bias-corrected and accelerated (Efron and Tibshirani
1993, An Introduction to the Bootstrap, chapter 14). Images are taken to be independent; those of one video are not.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import bootstrap

from Datasets.format.curated import Curated
from Datasets.format.predictions import mask_of
from Datasets.format.records import read_predictions
from Datasets.pages.page import write_page
from Datasets.tools.errors import UserError
from Models.experimenting.log import ROOT
from Models.experimenting.results import FIGURES, Result
from Models.learning.box_metrics import Measured, above, match
from Models.learning.data_loading import Samples
from Models.learning.metrics import TASKS, class_iou, counts_of, macro_f1, mean, pixel_tables, predicted_counts
from Models.reviewing.sections import amount, annotated, answered, drawn

PAGE = Path(__file__).with_name("comparison.html")
DRAWS, FEW = 1000, 1000  # of the bootstrap; images up to which BCa, which takes as many more, corrects its ends
SHOWN = 12  # images on the page
RECALLS = np.linspace(0, 1, 101)
Figure = Callable[[np.ndarray], float]  # of how often each image is there, int [N]


class Model(NamedTuple):
    """A result's answers for some images, and what they measure."""

    name: str
    predictions: Sequence[Any]
    threshold: float
    measured: Measured
    figure: Figure


def write_comparison(results: Sequence[Result], out: Path) -> None:
    """Write the page, and print how the main figures differ. Raises UserError if they cannot be compared.

    All are measured by the annotations in Datasets/curated, on its test images that all were evaluated on.
    """
    task, main = shared_task(results)
    whole = Samples(Curated(ROOT / "Datasets/curated"), "test", 64, task)
    kept = [answers(each, whole.classes) for each in results]
    keys = [(str(record["image"]), str(record["sha256"])) for record in whole.records]
    rows = [row for row, key in enumerate(keys) if all(key in found for found in kept)]
    if len(rows) < 2:  # an interval needs two
        shared = f"only {len(rows)} of the {len(whole)} test images of Datasets/curated were given to each model"
        raise UserError(f"{shared}, too few to compare; `dvc repro`")
    samples, models = whole.subset(rows), []
    for result, found in zip(results, kept, strict=True):
        predictions, threshold = [found[keys[row]] for row in rows], result.figures()["score_threshold"]
        measured = TASKS[task].measure(samples, predictions, threshold)
        figure = figure_of(samples, predictions, threshold)
        models.append(Model(result.name, predictions, threshold, measured, figure))
    apart = [interval(models[0].figure, each.figure, len(samples)) for each in models[1:]]
    for model, each in zip(models[1:], apart, strict=True):
        words = "{:+.3f}, 95 % interval {:+.3f} to {:+.3f}".format(*each)
        print(f"{main}: {model.name} differs from {models[0].name} by {words}")
    values = {"task": task, "main": main, "models": models, "apart": apart, "count": len(rows), "whole": len(whole)}
    metrics = [each.measured.metrics for each in models]
    groups = [name for name, figures in metrics[0].items() if isinstance(figures, dict)]
    values["groups"] = [(name, beside([each[name] for each in metrics])) for name in groups]
    values["single"] = [row for row in beside(metrics) if not isinstance(row[1][0], dict)]
    values["settings"] = [row for row in beside([each.settings() for each in results]) if len(set(row[1])) > 1]
    values["graphs"] = beside([graph(each) for each in results])
    write_page(PAGE, {**values, "cards": cards(samples, models)}, out)
    print(f"{out}: {len(rows)} of {len(whole)} test images")


def beside(columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """By each name its values, None where a column lacks it."""
    names = dict.fromkeys(name for each in columns for name in each)
    return [(name, [each.get(name) for each in columns]) for name in names]


def shared_task(results: Sequence[Result]) -> tuple[str, str]:
    """The task of all the results, and its main figure. Raises UserError if there is none."""
    tasks = [next(task for only, task in FIGURES.items() if only in each.figures()) for each in results]
    if len(set(tasks)) > 1:
        learned = ", ".join(f"{each.name} {task}" for each, (task, _) in zip(results, tasks, strict=True))
        raise UserError(f"they learn different things: {learned}; compare what learns the same")
    return tasks[0][0], tasks[0][1][0]


def answers(result: Result, classes: Sequence[str]) -> dict[tuple[str, str], Any]:
    """Evaluation's answers by the image's path and sha256. Raises UserError if the model has other classes."""
    learned = json.loads(result.output("train", "Models/outputs/{}/train/run.json").read_text("utf-8"))["classes"]
    if learned != list(classes):
        raise UserError(f"{result.name}: learned other classes than Datasets/curated has: {', '.join(learned):.200}")
    file = result.output("evaluate", "Models/outputs/{}/evaluate/predictions.parquet")
    hashes = {row["image"]: row["sha256"] for row in pq.read_table(file, columns=["image", "sha256"]).to_pylist()}
    return {(image, hashes[image]): answer for image, answer in read_predictions(file).items()}


def graph(result: Result) -> dict[str, float]:
    """The graph's size, and the latency that the verification measured; without what was made of other weights."""
    weights, export = "Models/outputs/{}/train/weights.safetensors", "Datasets/pretrained/{}"
    made, found = result.md5("export", "outs", export), {}
    if made and result.md5("export", "deps", weights) == result.md5("train", "outs", weights):
        found["size of model.onnx, MB"] = result.output("export", export, "model.onnx").stat().st_size / 1e6
        if result.md5("verify", "deps", export) == made:
            file = result.output("verify", "Deployment/bundles/{}.verification.json")
            found["latency where it was verified, p50, ms"] = json.loads(file.read_text("utf-8"))["latency_ms"]["p50"]
    return found


def figure_of(samples: Samples, predictions: Sequence[Any], threshold: float) -> Figure:
    """The main figure as a function of how often each image is there: mAP50, mIoU or macro-F1."""
    if samples.task == "boxes":
        return partial(map50, *detections(samples, predictions))
    if samples.task == "mask":
        tables = np.array(list(pixel_tables(samples, predictions)), float)
        return lambda times: mean([*class_iou(np.tensordot(times, tables, 1), samples.classes).values()])
    actual, found = counts_of(samples) > 0, predicted_counts(samples, predictions, threshold) > 0
    return lambda times: macro_f1(actual.repeat(times, 0), found.repeat(times, 0))


def detections(samples: Samples, predictions: Sequence[Any]) -> tuple[list[np.ndarray], np.ndarray]:
    """By class the detections, best first, int [K, 2]: the image, and 1 if right; and the objects, int [N, C].

    Detections of a crowd are left out.
    """
    found, objects = [], np.zeros((len(samples), len(samples.classes)), np.int64)
    for row, prediction in enumerate(predictions):
        np.add.at(objects[row], samples.boxes(row, crowd=False)[1], 1)
        matched = match(samples, row, prediction, same_class=True)
        for right, numbers in ((1, [number for number, _ in matched.pairs]), (0, matched.extra)):
            boxes = [prediction["boxes"][number] for number in numbers]
            found += [(-box["score"], samples.ids[box["name"]], row, right) for box in boxes]
    table = np.array(sorted(found), float).reshape(-1, 4)
    return [table[table[:, 1] == kind, 2:].astype(int) for kind in range(len(samples.classes))], objects


def map50(found: Sequence[np.ndarray], objects: np.ndarray, times: np.ndarray) -> float:
    """COCO's mAP50: the best precision from each of 101 recalls on, the mean over them and the classes in truth."""
    totals, each = times @ objects, []
    for kind in np.flatnonzero(totals).tolist():
        rows, right = found[kind].T
        hits, seen = np.cumsum(times[rows] * right), np.cumsum(times[rows])
        best = np.maximum.accumulate((hits / np.maximum(1, seen))[::-1])[::-1]
        each.append(np.append(best, 0)[np.searchsorted(hits / totals[kind], RECALLS)].mean())
    return float(np.mean(each)) if each else 0.0


def interval(first: Figure, other: Figure, images: int, draws: int = DRAWS) -> tuple[float, float, float]:
    """What a figure differs from the first by, and the ends of that difference's 95 % interval."""

    def difference(rows: np.ndarray) -> float:
        times = np.bincount(rows, minlength=images)
        return other(times) - first(times)

    every, method = np.arange(images), "BCa" if images <= FEW else "percentile"
    with warnings.catch_warnings(action="ignore"):  # where all draws give the same, the ends are NaN
        found = bootstrap((every,), difference, n_resamples=draws, vectorized=False, method=method, random_state=0)
    by = difference(every)
    low, high = (by if np.isnan(end) else float(end) for end in found.confidence_interval)
    return by, low, high


def cards(samples: Samples, models: Sequence[Model]) -> list[dict[str, Any]]:
    """The images in which the models differ most from the first, drawn with their annotations and with the answers."""
    pairs = [(models[0], other) for other in models[1:]]
    apart = [max(disagreement(samples, row, *pair) for pair in pairs) for row in range(len(samples))]
    shown = []
    for row in sorted((row for row, much in enumerate(apart) if much), key=lambda row: -apart[row])[:SHOWN]:
        found = (answered(samples, each.predictions[row], each.threshold) for each in models)
        pictures = drawn(samples, row, annotated(samples, row), *found)
        words = [f"{each.name}: {amount(samples.task, each.measured.mistakes[row])} wrong" for each in models]
        told = list(zip(pictures, ["annotated", *words], strict=True))
        shown.append({"image": samples.records[row]["image"], "pictures": told})
    return shown


def disagreement(samples: Samples, row: int, one: Model, other: Model) -> float:
    """How many objects or classes of an image one of two models has otherwise, or which part of the pixels."""
    pair = [(each.predictions[row], each.threshold) for each in (one, other)]
    if samples.task == "mask":
        return float((mask_of(pair[0][0]) != mask_of(pair[1][0])).mean())
    if samples.task == "boxes":
        first, second = (match(samples, row, above(*each), same_class=True) for each in pair)
        return len({*first.missed} ^ {*second.missed}) + abs(len(first.extra) - len(second.extra))
    counts = [predicted_counts(samples, [answer], threshold) for answer, threshold in pair]
    return float((counts[0] != counts[1]).sum())
