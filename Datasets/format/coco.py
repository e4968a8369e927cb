"""Predictions in COCO's form of annotations (https://cocodataset.org/#format-data).

Deployment/service/answers.py describes it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from Datasets.format.predictions import Counting, Detection, PredictedBox, Segmentation, mask_of
from Datasets.format.run_lengths import encode

Answer = dict[str, Any]


def to_coco(
    answers: Iterable[tuple[str, Any]], task: str, classes: Sequence[str], errors: Sequence[Mapping[str, str]] = ()
) -> Answer:
    """A task's predictions with their images' names. Ids of images and categories count from 1, in their order."""
    ids = {name: number for number, name in enumerate(classes, 1)}
    images: list[Answer] = []
    annotations: list[Answer] = []
    for number, (name, answer) in enumerate(answers, 1):
        images.append({"id": number, "file_name": name, "width": answer["width"], "height": answer["height"]})
        for each in _ANNOTATIONS[task](answer, ids):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **each})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories, "errors": list(errors)}


def batch_coco(answers: Sequence[Any], task: str, classes: Sequence[str]) -> Answer:
    """A batch's answers in COCO's form."""
    readable = [(answer["image"], answer) for answer in answers if "error" not in answer]
    return to_coco(readable, task, classes, [answer for answer in answers if "error" in answer])


Annotate = Callable[[Any, Mapping[str, int]], Iterator[Answer]]


def _boxes(answer: Detection, ids: Mapping[str, int]) -> Iterator[Answer]:
    for box in answer["boxes"]:
        yield {"category_id": ids[box["name"]], **_sides(box), "iscrowd": 0, "score": box["score"]}


def _sides(box: PredictedBox) -> Answer:
    width, height = box["x2"] - box["x1"], box["y2"] - box["y1"]
    return {"bbox": [box["x1"], box["y1"], width, height], "area": width * height}


def _stuff(answer: Segmentation, ids: Mapping[str, int]) -> Iterator[Answer]:
    """An annotation for each class, as COCO has stuff; as crowds, for a mask does not say how many objects they are."""
    mask = mask_of(answer)
    for category in sorted(ids[name] for name in answer["labels"]):
        inside = mask == category
        (top, bottom), (left, right) = (np.flatnonzero(inside.any(axis))[[0, -1]].tolist() for axis in (1, 0))
        bbox = [left, top, right + 1 - left, bottom + 1 - top]
        region = {"bbox": bbox, "area": int(inside.sum()), "iscrowd": 1, "segmentation": encode(inside)}
        yield {"category_id": category, **region}


def _labels(answer: Any, ids: Mapping[str, int]) -> Iterator[Answer]:
    for name in answer["labels"]:
        yield {"category_id": ids[name], "score": answer["scores"][name]}


def _counts(answer: Counting, ids: Mapping[str, int]) -> Iterator[Answer]:
    for label, count in zip(_labels(answer, ids), answer["counts"], strict=True):
        yield {**label, "count": count["count"]}


_ANNOTATIONS: Mapping[str, Annotate] = {"boxes": _boxes, "mask": _stuff, "labels": _labels, "counts": _counts}
