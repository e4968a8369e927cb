"""What the service says, as JSON: these models are its documentation in /docs, and the tests hold every answer to them.

The answers themselves are plain dictionaries: building a model for each would cost more than it is worth.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, create_model


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
    """What is in an image; width and height of the upright image in pixels, labels sorted by name."""

    width: int
    height: int
    labels: list[str]


class Detection(Record):
    """Task boxes: boxes by score, best first; labels and counts follow from them, by name."""

    counts: list[Count]
    boxes: list[Box]


class Segmentation(Record):
    """Task mask: a PNG file of the image's size in base64, its pixel values class ids + 1, 0 for background."""

    mask: str


class Classification(Record):
    """Task labels: the chance, 0 to 1, of each class; labels are those with a score of the threshold or more."""

    scores: dict[str, float]


class Counting(Classification):
    """Task counts: of the classes in labels, 1 or more of each; expected: of each class, before rounding."""

    counts: list[Count]
    expected: dict[str, float]


RECORDS: Mapping[str, type[Record]] = {
    "boxes": Detection,
    "mask": Segmentation,
    "labels": Classification,
    "counts": Counting,
}


class BatchError(Error):
    """An image of a batch that could not be read, and why."""

    image: str


def batch_of(task: str) -> type[Model]:
    """The answer to a batch: for each image, in the order sent, what is in it and the name that its sender gave it."""
    record = RECORDS[task]
    named = create_model(f"Batch{record.__name__}", __base__=record, __doc__=record.__doc__, image=(str, ...))
    answers = (list[named | BatchError], ...)  # type: ignore[valid-type]
    return create_model(
        "Batch", __base__=Model, __doc__="An answer for each image, in the order sent.", answers=answers
    )


class CocoImage(Model):
    """An image; sizes in pixels, upright."""

    id: int
    file_name: str
    width: int
    height: int


class CocoAnnotation(Model):
    """Something in an image; category_id as in categories."""

    id: int
    image_id: int
    category_id: int


class CocoRegion(CocoAnnotation):
    """A part of an image; bbox is [x, y, width, height] in pixels of the upright image, area in pixels."""

    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int


class CocoBox(CocoRegion):
    """Task boxes: a detected object."""

    score: float


class CocoRle(Model):
    """COCO's compressed run lengths; size is [height, width]."""

    size: tuple[int, int]
    counts: str


class CocoStuff(CocoRegion):
    """Task mask: all pixels of a class. iscrowd is 1, since they may be of one object or of many."""

    segmentation: CocoRle


class CocoLabel(CocoAnnotation):
    """Task labels: a class that the image shows somewhere, without a box."""

    score: float


class CocoCount(CocoLabel):
    """Task counts: how many objects of a class the image shows."""

    count: int


class CocoCategory(Model):
    """A class; ids begin at 1, in the order of the manifest's classes."""

    id: int
    name: str


class Coco(Model):
    """COCO's form of annotations (https://cocodataset.org/#format-data). errors: the unreadable images."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]
    errors: list[BatchError]


ANNOTATIONS: Mapping[str, type[CocoAnnotation]] = {
    "boxes": CocoBox,
    "mask": CocoStuff,
    "labels": CocoLabel,
    "counts": CocoCount,
}


def coco_of(task: str) -> type[Coco]:
    """COCO's form with the annotations of this task."""
    kind = ANNOTATIONS[task]
    return create_model("Coco", __base__=Coco, __doc__=Coco.__doc__, annotations=(list[kind], ...))  # type: ignore[valid-type]
