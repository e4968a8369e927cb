"""What the service says, as JSON: these models are its documentation in /docs, and the tests hold every answer to them.

The answers themselves are plain dictionaries: building a model for each would cost more than it is worth.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from Datasets.predictions import PredictedBox, Prediction

Answer = dict[str, Any]


class Model(BaseModel):
    """Nothing is said that is not documented."""

    model_config = ConfigDict(extra="forbid")


class Error(Model):
    """Whatever went wrong, in one line."""

    error: str


class Health(Model):
    """The service runs."""

    status: Literal["ok"] = "ok"


class Box(Model):
    """A detected object in pixels of the upright image, x from left to right, y from top to bottom."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float
    score: float


class Count(Model):
    """How many objects of a class were detected."""

    name: str
    count: int


class Record(Model):
    """What is in an image: boxes by score, best first; labels and counts follow from them, by name."""

    width: int
    height: int
    labels: list[str]
    counts: list[Count]
    boxes: list[Box]


class BatchRecord(Record):
    """One image of a batch; `image` is the name that its sender gave it."""

    image: str


class BatchError(Error):
    """An image of a batch that could not be read, and why."""

    image: str


class Batch(Model):
    """An answer for each image of a batch, in the order sent."""

    answers: list[BatchRecord | BatchError]


class CocoImage(Model):
    """An image; sizes in pixels, upright."""

    id: int
    file_name: str
    width: int
    height: int


class CocoAnnotation(Model):
    """A detected object; bbox is [x, y, width, height] in pixels of the upright image."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int
    score: float


class CocoCategory(Model):
    """A class; ids begin at 1, in the order of the manifest's classes."""

    id: int
    name: str


class Coco(Model):
    """COCO's form of annotations (https://cocodataset.org/#format-data), with scores. errors: the unreadable images."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]
    errors: list[BatchError]


def to_coco(
    answers: Iterable[tuple[str, Prediction]], classes: Sequence[str], errors: Sequence[Mapping[str, str]] = ()
) -> Answer:
    """Predictions with their images' names in the form of `Coco`."""
    ids = {name: number for number, name in enumerate(classes, 1)}
    images: list[Answer] = []
    annotations: list[Answer] = []
    for number, (name, answer) in enumerate(answers, 1):
        images.append({"id": number, "file_name": name, "width": answer["width"], "height": answer["height"]})
        for box in answer["boxes"]:
            each = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[box["name"]]}
            annotations.append({**each, **_sides(box), "iscrowd": 0, "score": box["score"]})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories, "errors": list(errors)}


def _sides(box: PredictedBox) -> Answer:
    width, height = box["x2"] - box["x1"], box["y2"] - box["y1"]
    return {"bbox": [box["x1"], box["y1"], width, height], "area": width * height}


def batch_coco(answers: Sequence[Any], classes: Sequence[str]) -> Answer:
    """A batch's answers in the form of `Coco`."""
    readable = [(answer["image"], answer) for answer in answers if "error" not in answer]
    return to_coco(readable, classes, [answer for answer in answers if "error" in answer])
