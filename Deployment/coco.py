"""Predictions in COCO's form of annotations (https://cocodataset.org/#format-data), with scores."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from Datasets.predictions import Detection, PredictedBox

Answer = dict[str, Any]


def to_coco(
    answers: Iterable[tuple[str, Detection]], classes: Sequence[str], errors: Sequence[Mapping[str, str]] = ()
) -> Answer:
    """Predictions with their images' names in the form of answers.Coco."""
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
    """A batch's answers in the form of answers.Coco."""
    readable = [(answer["image"], answer) for answer in answers if "error" not in answer]
    return to_coco(readable, classes, [answer for answer in answers if "error" in answer])
