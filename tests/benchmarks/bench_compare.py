"""Whether the interval of `experiment compare` says what it should: how often it contains the true difference.

The test images of an export are taken for all that there are, and its answers compared with the same, a tenth of them
emptied. IMAGES at a time, drawn with replacement, are a test split, whose interval should contain the difference on
all in 95 % of the trials.
"""

import base64
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from Datasets.format.curated import Curated
from Datasets.format.records import read_predictions
from Models.experimenting.comparison import Figure, figure_of, interval
from Models.learning.data_loading import Samples
from tests.benchmarks.measuring import ROOT, exports
from tests.benchmarks.measuring import Figure as Line

IMAGES, DRAWS, GONE = 100, 300, 0.1


def figures(trials: int = 150) -> Iterator[Line]:
    """A line for each export's task."""
    for export in exports():
        manifest = json.loads((export / "manifest.json").read_text())
        samples = Samples(Curated(ROOT / "Datasets/curated"), "test", 64, manifest["task"])
        inside, widths, true = covered(samples, export, manifest["score_threshold"], trials)
        details = (
            f"difference {true:+.3f}; width of the interval {np.mean(widths):.3f}; {trials} trials of {IMAGES} images"
        )
        yield Line(f"coverage, {manifest['task']}", "95 %", f"{100 * inside / trials:.1f} %", "90 to 98 %", details)


def covered(samples: Samples, export: Path, threshold: float, trials: int) -> tuple[int, list[float], float]:
    """How many intervals contain the true difference; their widths; the true difference."""
    random = np.random.default_rng(1)
    kept = read_predictions(export / "predictions.parquet")
    answers = [kept[record["image"]] for record in samples.records]
    worse = [emptied(each) if random.random() < GONE else each for each in answers]
    both = [figure_of(samples, each, threshold) for each in (answers, worse)]
    true = both[1](np.ones(len(samples), int)) - both[0](np.ones(len(samples), int))
    inside, widths = 0, []
    for _ in range(trials):
        drawn = random.integers(0, len(samples), IMAGES)
        _, low, high = interval(*(partial(of_drawn, each, drawn, len(samples)) for each in both), IMAGES, DRAWS)
        inside += low <= true <= high
        widths.append(high - low)
    return inside, widths, true


def of_drawn(figure: Figure, drawn: np.ndarray, images: int, times: np.ndarray) -> float:
    """A figure of images that were drawn from all, each so many times."""
    return figure(np.bincount(drawn, times, images).astype(int))


def emptied(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that finds nothing."""
    file = io.BytesIO()
    Image.new("L", (answer["width"], answer["height"])).save(file, "PNG")
    nothing = {"boxes": [], "mask": base64.b64encode(file.getvalue()).decode()}
    nothing["scores"] = dict.fromkeys(answer.get("scores", ()), 0.0)
    return answer | {name: value for name, value in nothing.items() if name in answer}
