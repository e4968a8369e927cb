"""An image with what is annotated in it, and with what a model answers."""

import base64
from collections.abc import Mapping
from typing import Any

from Datasets.pages.pictures import Picture, picture
from Models.learning.box_metrics import above
from Models.learning.data_loading import Samples
from Models.learning.metrics import predicted_counts

SIDE = 480  # pixels of a picture's longer side


def drawn(samples: Samples, row: int, *parts: Mapping[str, Any]) -> list[Picture]:
    """A picture of an image for each of `parts`, fields of a row of the curated dataset to draw into it."""
    file = {"bytes": samples.file(row), "path": samples.records[row]["image"]}
    nothing = {"boxes": None, "mask": None, "counts": None, "labels": None}
    return [picture({**nothing, **part, "image": file}, samples.classes, SIDE) for part in parts]


def annotated(samples: Samples, row: int) -> dict[str, Any]:
    """What is annotated in an image, as far as the task goes."""
    return {name: samples.records[row][name] for name in {samples.task, "labels", "counts"}}  # type: ignore[literal-required]


def answered(samples: Samples, prediction: Any, threshold: float) -> dict[str, Any]:
    """An answer as fields of a row of the curated dataset."""
    if samples.task == "mask":
        return {"mask": {"bytes": base64.b64decode(prediction["mask"])}, "labels": prediction["labels"]}
    if samples.task == "boxes":
        return {"boxes": [{**box, "segmentation": None} for box in above(prediction, threshold)["boxes"]]}
    found = zip(samples.classes, predicted_counts(samples, [prediction], threshold)[0].tolist(), strict=True)
    counts = [{"name": name, "count": count} for name, count in found if count]
    return {"labels": [each["name"] for each in counts], "counts": counts if samples.task == "counts" else None}


def amount(task: str, mistakes: float) -> str:
    """An image's mistakes in words."""
    return f"{mistakes:.1%} of the pixels" if task == "mask" else f"{mistakes:g}"
