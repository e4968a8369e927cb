"""Measure a trained model on the test split.

    python -m Models.evaluate --script e001_center_detector --trained Models/outputs/e001/train \\
        --out Models/outputs/e001/evaluate

The score threshold, from which a detection is believed, is chosen on the val split (best F1). Writes into --out:
precision_recall.csv and confusion.csv (plots), worst.png (the test images with most mistakes, truth and prediction
drawn) and, last, metrics.json: COCO's mAP, mAP50, mAP75 and AP of each class, and precision, recall and F1 at the
threshold.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from Datasets.atomic import replacing
from Datasets.command import run
from Datasets.curated import Curated
from Datasets.errors import UserError
from Datasets.predictions import Detection
from Models.data_loading import Samples
from Models.drawing import draw_worst, worst_images
from Models.evaluation import (
    Match,
    Scores,
    best_threshold,
    coco_detections,
    coco_scores,
    coco_truth,
    confusion,
    match,
    predict,
)
from Models.scripts import read_run, trained_model


def main(
    script: Annotated[str, typer.Option(help="name of the model script that was trained")],
    trained: Annotated[Path, typer.Option(help="what Models.train wrote")],
    out: Annotated[Path, typer.Option(help="directory to write to")],
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    worst: Annotated[int, typer.Option(min=1, help="how many images to draw")] = 8,
) -> None:
    """Measure a trained model on the test split."""
    done = read_run(trained, script)
    data = Curated(curated)
    if list(data.classes) != done.classes:
        raise UserError(f"{curated}: has other classes than {trained}/run.json was trained on; train again")
    options = done.train
    torch.set_num_threads(options["threads"])
    model = trained_model(done, trained)
    val, test = Samples(data, "val", options["size"]), Samples(data, "test", options["size"])

    threshold, _ = best_threshold(val, predict(model, val, options["batch"]))
    predictions = predict(model, test, options["batch"])
    scores = coco_scores(coco_truth(test), coco_detections(predictions, test.classes))
    absent = [name for name in test.classes if name not in scores.AP]
    if absent:
        print(f"no test image has {', '.join(absent)}: without AP, and not in mAP", file=sys.stderr)
    believed = [above(prediction, threshold) for prediction in predictions]
    matches = [match(test, i, prediction, same_class=True) for i, prediction in enumerate(believed)]

    write_csv(out / "precision_recall.csv", ["recall", "precision"], curve(scores))
    write_csv(out / "confusion.csv", ["actual", "predicted"], confusion(test, believed))
    with replacing(out / "worst.png") as partial:
        draw_worst(test, believed, worst_images(test, believed, worst)).save(partial, "PNG")
    with replacing(out / "metrics.json") as partial:
        metrics = {"images": len(test), "score_threshold": threshold, **figures(scores, matches)}
        partial.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print(f"{len(test)} test images: " + ", ".join(f"{name} {metrics[name]:.3f}" for name in ("mAP50", "mAP", "F1")))


def above(prediction: Detection, threshold: float) -> Detection:
    """The prediction without the boxes of a lower score; its labels and counts are not adjusted."""
    return Detection(**{**prediction, "boxes": [box for box in prediction["boxes"] if box["score"] >= threshold]})


def figures(scores: Scores, matches: Sequence[Match]) -> dict[str, Any]:
    """The metrics, rounded to six digits. matches: of each image at the threshold, class for class."""
    right = sum(len(each.pairs) for each in matches)
    detected = right + sum(len(each.extra) for each in matches)
    objects = right + sum(len(each.missed) for each in matches)
    named = {
        "mAP": scores.mAP,
        "mAP50": scores.mAP50,
        "mAP75": scores.mAP75,
        "precision": right / max(1, detected),
        "recall": right / max(1, objects),
        "F1": 2 * right / max(1, detected + objects),
    }
    rounded = {name: round(value, 6) for name, value in named.items()}
    return {**rounded, "AP": {name: round(value, 6) for name, value in scores.AP.items()}}


def curve(scores: Scores) -> list[tuple[str, str]]:
    """(recall, precision) at COCO's 101 recalls."""
    return [(f"{i / 100:.2f}", f"{value:.6f}") for i, value in enumerate(scores.precision)]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table that `dvc plots` reads."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


if __name__ == "__main__":
    run(main)
