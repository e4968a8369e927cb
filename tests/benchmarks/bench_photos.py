"""What ImageNet's weights gain: the detector on a stranger's photographs by the defaults, and the masks of digits.

    PHOTOS=~/Downloads/raccoon.zip python -m tests.benchmarks photos=3

With so many seeds, on drawn cells (tests/benchmarks/cells.py), and before on the photographs with boxes that PHOTOS
names, if it does. Each is put into a project of its own by add_source, with the parameters that a new project has; only
the seed is changed. The masks are the demonstration's, with its parameters.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from copier import run_copy

from tests.benchmarks.cells import write
from tests.benchmarks.measuring import ROOT, Figure, cost, python

WEIGHTS = {  # what a backbone begins with, and the options of build()
    "ImageNet's weights": ("efficientnet_lite0", ["--backbone", "efficientnet_lite0", "--width", "48"]),
    "random weights": ("random", ["--backbone", "tiny", "--width", "32"]),
}
VARIED = ["--flip", "--zoom", "0.3", "--colour", "0.1", "--weight_decay", "0.05"]
DIGITS = ["--size", "96", "--epochs", "8", "--batch", "16", "--learning_rate", "0.006"]
DIGITS += ["--no-flip", "--zoom", "0.25", "--weight_decay", "0.01"]
SHOWN = ("mAP50", "mAP", "AP_small", "AP_medium", "AP_large", "mIoU", "pixel_accuracy")


def figures(seeds: int = 3) -> Iterator[Figure]:
    """Train and evaluate, with each seed."""
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory, "cells"))
        photos = [Path(os.environ["PHOTOS"])] if "PHOTOS" in os.environ else []
        for source in (*photos, Path(directory, "cells")):
            project = made(Path(directory, f"project_{source.stem}"), "e001", False)
            cost(python("Data_processing.add_source", source.stem, source), project)
            yield from compared(source.stem, project, "e001_center_detector", VARIED, seeds)
        project = made(Path(directory, "project_digits"), "e002", True)
        yield from compared("the demonstration's masks", project, "e002_coarse_to_fine", DIGITS, seeds)


def made(project: Path, experiment: str, demonstration: bool) -> Path:
    """A new project with one experiment."""
    answers = {"demonstration": demonstration, "experiments": [experiment]}
    run_copy(str(ROOT), project, answers, vcs_ref="HEAD", defaults=True, quiet=True, unsafe=True)
    return project


def compared(what: str, project: Path, script: str, options: list[str], seeds: int) -> Iterator[Figure]:
    """A figure for each kind of weights."""
    cost(python("dvc", "repro", "curate", "pretrained@efficientnet_lite0"), project)
    for weights, (init, model) in WEIGHTS.items():
        found, minutes = [], []
        for seed in range(seeds):
            words = ["--script", script, "--out", "out/train", "--seed", seed, *options]
            start = ["--init", f"Datasets/pretrained/{init}", "--", *model]
            minutes.append(cost(python("Models.train", *words, *start), project).processor / 60)
            cost(python("Models.evaluate", "--trained", "out/train"), project)
            found.append(json.loads((project / "out/evaluate/metrics.json").read_text()))
        each = [f"{name} {spread([m[name] for m in found])}" for name in SHOWN if all(name in m for m in found)]
        used = json.loads((project / "out/train/run.json").read_text())["train"]
        how = f"{used['size']} pixels, {used['epochs']} epochs, batch {used['batch']}"
        details = f"{how}; {statistics.mean(minutes):.1f} minutes of a core for training; {seeds} seeds"
        yield Figure(f"{what}, from {weights}", "", ", ".join(each), "", details)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"
