"""COCO's JSON form, as written for datasets, predictions and by the service: images, annotations and categories.

Specification: https://cocodataset.org/#format-data.

Category ids are class ids + 1. An object has its `bbox`, [x, y, width, height] in pixels of the upright image with 0 at
the outer edge of the first pixel, and as `area` that of its segmentation or else of its box. A semantic mask has one
annotation for each class in it, with `iscrowd` 1: a mask does not tell how many objects there are, and readers count
what is no crowd. A label of the whole image has neither bbox nor segmentation. Predictions have a `score`, and a
`count` where the model counts.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco_mask

from Datasets.format.images import VOID
from Datasets.format.predictions import mask_of

Entry = dict[str, Any]


class Rle(TypedDict):
    """A mask in the COCO API's compressed run lengths: size is [height, width], counts an ASCII string."""

    size: list[int]
    counts: str


class Document:
    """A COCO file in the making. classes: names to ids."""

    def __init__(self, classes: Mapping[str, int]) -> None:
        self.classes = classes
        self.images: list[Entry] = []
        self.annotations: list[Entry] = []

    def add(self, number: int, name: str, row: Mapping[str, Any], annotations: Iterable[Entry]) -> None:
        """Add an image by its id and file name. row: has its width and height."""
        self.images.append({"id": number, "file_name": name, "width": row["width"], "height": row["height"]})
        for annotation in annotations:
            self.annotations.append({"id": len(self.annotations) + 1, "image_id": number, **annotation})

    def content(self) -> Entry:
        """What to write as JSON."""
        categories = [{"id": number + 1, "name": name} for name, number in self.classes.items()]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def predictions_to_coco(rows: Iterable[Mapping[str, Any]], task: str, classes: Sequence[str]) -> Entry:
    """Predictions of one task, with image ids from 1 in the order of `rows`.

    rows: `image`, its name, and the fields of a Prediction, or `image` and `error`, which are listed under `errors`.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    document, errors = Document(numbers), []
    for row in rows:
        if "error" in row:
            errors.append(row)
        else:
            document.add(len(document.images) + 1, row["image"], row, _predicted(row, task, numbers))
    return {**document.content(), "errors": errors}


def _predicted(row: Mapping[str, Any], task: str, classes: Mapping[str, int]) -> Iterator[Entry]:
    if task == "boxes":
        yield from (object_entry(box, classes) | {"score": box["score"]} for box in row["boxes"])
    elif task == "mask":
        yield from stuff_entries(mask_of(row))  # type: ignore[arg-type]
    else:
        counts = {each["name"]: {"count": each["count"]} for each in row.get("counts", ())}
        for name in row["labels"]:
            yield {"category_id": classes[name] + 1, "score": row["scores"][name], **counts.get(name, {})}


def object_entry(box: Mapping[str, Any], classes: Mapping[str, int]) -> Entry:
    """The annotation of an object, with its segmentation if it has one. box: as in a record or a prediction."""
    width, height = _extent(box["x1"], box["x2"]), _extent(box["y1"], box["y2"])
    bbox = [box["x1"], box["y1"], width, height]
    crowd = int(box.get("crowd", False))
    entry = {"category_id": classes[box["name"]] + 1, "bbox": bbox, "area": width * height, "iscrowd": crowd}
    if outline := box.get("segmentation"):
        entry |= {"area": int(coco_mask.area(outline)), "segmentation": outline}
    return entry


def _extent(first: float, last: float) -> float:
    """The difference of two edges such that first + difference is last again, in spite of rounding."""
    extent = last - first
    near = (extent, math.nextafter(extent, 0), math.nextafter(extent, math.inf))
    return next((value for value in near if first + value == last), extent)


def stuff_entries(mask: np.ndarray) -> Iterator[Entry]:
    """The annotations of a semantic mask, uint8 [H, W] of class ids + 1, 0 for background, 255 for not annotated."""
    for category in sorted(set(np.unique(mask).tolist()) - {0, VOID}):
        region = encode(mask == category)
        bbox, area = coco_mask.toBbox(region).tolist(), int(coco_mask.area(region))
        yield {"category_id": category, "bbox": bbox, "area": area, "iscrowd": 1, "segmentation": region}


def draw(objects: Iterable[tuple[Mapping[str, Any], int]], width: int, height: int) -> np.ndarray:
    """uint8 [height, width]: the segmentations of boxes that have one, each in the value beside it; 0 elsewhere.

    Drawn from the largest to the smallest, so that none is hidden by what it lies on; of equals, in their order.
    """
    pixels = np.zeros((height, width), np.uint8)
    outlined = [(box["segmentation"], value) for box, value in objects if box["segmentation"]]
    for outline, value in sorted(outlined, key=lambda pair: -int(coco_mask.area(pair[0]))):
        pixels[coco_mask.decode(outline).astype(bool)] = value
    return pixels


def encode(mask: np.ndarray) -> Rle:
    """The run lengths of a mask, bool [H, W]."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return Rle(size=encoded["size"], counts=encoded["counts"].decode())
