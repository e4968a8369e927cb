"""Evaluate a trained model on the test split.

    python -m Models.evaluate --trained Models/outputs/e001/train

The score threshold is chosen on the val split. Writes into --out: predictions.parquet (the answer for each test image,
boxes from a score of 0.001; Datasets/format/records.py), precision_recall.csv and confusion.csv (plots) and,
last, metrics.json. Models/learning/*metrics.py define each task's figures. Models.review shows the images.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Models.learning.box_metrics import Measured
from Models.learning.data_loading import Samples
from Models.learning.hardware import usable_device
from Models.learning.metrics import TASKS, predict, write_answers
from Models.learning.weights import read_trained, write_json


def main(
    trained: Annotated[Path, typer.Option(help="what Models.train wrote")],
    out: Annotated[Path | None, typer.Option(help="directory to write to, `evaluate` beside it")] = None,
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    device: Annotated[str, typer.Option(help="cpu, cuda or auto, the GPU where there is one")] = "auto",
) -> None:
    """Evaluate a trained model on the test split."""
    out = out or trained.with_name("evaluate")
    done, model, data = read_trained(trained, curated)
    model.to(usable_device(device))
    task, size, batch = done.task, done.train["size"], done.train["batch"]
    val, test = (Samples(data, split, size, task) for split in ("val", "test"))

    threshold = TASKS[task].best_threshold(val, predict(model, val, batch))
    predictions = predict(model, test, batch)
    measured = TASKS[task].measure(test, predictions, threshold)
    report_absent(measured.metrics, test.classes)

    write_answers(test, predictions, done.script, out / "predictions.parquet")
    write_csv(out / "precision_recall.csv", ["recall", "precision"], measured.curve)
    write_csv(out / "confusion.csv", ["actual", "predicted"], named_confusion(measured, test.classes))
    learned = sum(record[task] is not None for record in data.records("train", masks=False))  # type: ignore[literal-required]
    metrics = {"images": len(test), "train_images": learned, "score_threshold": threshold, **measured.metrics}
    write_json(metrics, out / "metrics.json")
    print(f"{len(test)} test images: " + ", ".join(f"{name} {metrics[name]:.3f}" for name in measured.printed))


def report_absent(metrics: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Report the classes without a test image, which have no figure."""
    groups = {name: group for name, group in metrics.items() if isinstance(group, dict)}
    absent = [each for each in classes if any(each not in group for group in groups.values())]
    if absent:
        print(f"no test image has {', '.join(absent)}: without {', '.join(groups)}, and in no mean", file=sys.stderr)


def named_confusion(measured: Measured, classes: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of the confusion with a name for `no object` that no class has."""
    nothing = "background"
    while nothing in classes:
        nothing = f"({nothing})"
    return [(actual or nothing, predicted or nothing) for actual, predicted in measured.confusion]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table that `dvc plots` reads."""
    with replacing(path) as partial:
        pd.DataFrame(rows, columns=list(columns)).to_csv(partial, index=False, float_format="%.6g")


if __name__ == "__main__":
    run(main)
