"""What a stranger's photographs give: the detector from ImageNet's weights and from random ones, by the defaults.

    PHOTOS=~/Downloads/raccoon.zip python -m tests.benchmarks photos=3

With so many seeds, on drawn cells (tests/benchmarks/cells.py), and before on the photographs with boxes that PHOTOS
names, if it does. Each is put into a project of its own by add_source, with the parameters that a new project has; only
the seed is changed.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from copier import run_copy

from tests.benchmarks.cells import write
from tests.benchmarks.measuring import ROOT, Figure, cost, python

LITE, TINY = ["--backbone", "efficientnet_lite0", "--width", "48"], ["--backbone", "tiny", "--width", "32"]
VARIED = ["--flip", "--zoom", "0.3", "--colour", "0.1", "--weight_decay", "0.05"]
SHOWN = ("mAP50", "mAP", "AP_small", "AP_medium", "AP_large")


def figures(seeds: int = 3) -> Iterator[Figure]:
    """Train and evaluate, with each seed."""
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory, "cells"))
        photos = [Path(os.environ["PHOTOS"])] if "PHOTOS" in os.environ else []
        for source in (*photos, Path(directory, "cells")):
            project = Path(directory, f"project_{source.stem}")
            answers = {"demonstration": False, "experiments": ["e001"]}
            run_copy(str(ROOT), project, answers, vcs_ref="HEAD", defaults=True, quiet=True, unsafe=True)
            cost(python("Data_processing.add_source", source.stem, source), project)
            cost(python("dvc", "repro", "curate", "pretrained@efficientnet_lite0"), project)
            for what, init, model in (
                ("ImageNet's weights", "efficientnet_lite0", LITE),
                ("random weights", "random", TINY),
            ):
                found, minutes = [], []
                for seed in range(seeds):
                    began = time.perf_counter()
                    words = ["--script", "e001_center_detector", "--out", "out/train", "--seed", seed, *VARIED]
                    init_at = f"Datasets/pretrained/{init}"
                    cost(python("Models.train", *words, "--init", init_at, "--", *model), project)
                    minutes.append((time.perf_counter() - began) / 60)
                    cost(python("Models.evaluate", "--trained", "out/train"), project)
                    found.append(json.loads((project / "out/evaluate/metrics.json").read_text()))
                each = [f"{name} {spread([m[name] for m in found])}" for name in SHOWN if all(name in m for m in found)]
                used = json.loads((project / "out/train/run.json").read_text())["train"]
                how = f"{used['size']} pixels, {used['epochs']} epochs, batch {used['batch']}"
                details = f"{how}; {statistics.mean(minutes):.1f} minutes of training; {seeds} seeds"
                yield Figure(f"{source.stem}, from {what}", "", ", ".join(each), "", details)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"
