"""Measure a trained model on the test split.

    python -m Models.evaluate --script e001_center_detector --trained Models/outputs/e001/train \\
        --out Models/outputs/e001/evaluate

The score threshold is chosen on the val split. Writes into --out: predictions.parquet (the answer for each test image,
boxes from a score of 0.001; Datasets/format/scored_records.py), precision_recall.csv and confusion.csv (plots),
worst.png (the test images with most mistakes, truth and prediction drawn) and, last, metrics.json. The modules in
Models/metrics define each task's figures.
"""

import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported; Models/train.py says why

import torch
import typer

from Datasets.format.curated import Curated
from Datasets.format.scored_records import write_predictions
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError
from Models.evaluating.drawing import draw_worst
from Models.learning.data_loading import Samples
from Models.learning.scripts import read_run, trained_model
from Models.metrics.evaluation import TASKS, predict


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
    task = done.task
    val, test = (Samples(data, split, options["size"], task) for split in ("val", "test"))

    threshold = TASKS[task].best_threshold(val, predict(model, val, options["batch"]))
    predictions = predict(model, test, options["batch"])
    measured = TASKS[task].measure(test, predictions, threshold)
    tell_absent(measured.metrics, test.classes)

    answers = zip(test.records, predictions, strict=True)
    rows = [{"image": record["image"], "sha256": record["sha256"], **answer} for record, answer in answers]
    write_predictions(rows, script, out / "predictions.parquet")
    curve = [(f"{recall:.6g}", f"{precision:.6f}") for recall, precision in measured.curve]
    write_csv(out / "precision_recall.csv", ["recall", "precision"], curve)
    write_csv(out / "confusion.csv", ["actual", "predicted"], measured.confusion)
    indices = sorted(range(len(test)), key=lambda i: (-measured.mistakes[i], i))[:worst]
    with replacing(out / "worst.png") as partial:
        draw_worst(test, [predictions[i] for i in indices], indices, threshold).save(partial, "PNG")
    with replacing(out / "metrics.json") as partial:
        metrics = {"images": len(test), "score_threshold": threshold, **measured.metrics}
        partial.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print(f"{len(test)} test images: " + ", ".join(f"{name} {metrics[name]:.3f}" for name in measured.told))


def tell_absent(metrics: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Say which classes a group of figures by class does not have."""
    for name, group in metrics.items():
        absent = [each for each in classes if each not in group] if isinstance(group, dict) else []
        if absent:
            print(f"no test image has {', '.join(absent)}: without {name}, and in no mean", file=sys.stderr)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table that `dvc plots` reads."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


if __name__ == "__main__":
    run(main)
