"""What the service says, as JSON: these models are its documentation in /docs, and the tests hold every answer to them.

The answers themselves are plain dictionaries: building a model for each would cost more than it is worth.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


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
