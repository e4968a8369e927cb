"""COCO's average precision of a service's answers, so that it can be held against what evaluation found.

The figures are made as evaluation makes them (the split's records with known boxes, the area of the box, classes that
have an object, at most 100 detections an image), by other code from the same definition
(https://cocodataset.org/#detection-eval).
"""

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from Datasets.format.coco import predictions_to_coco
from Datasets.format.predictions import Detection

if TYPE_CHECKING:
    from Datasets.format.records import Record  # which imports pyarrow


def average_precision(
    records: "Sequence[Record]", answers: Sequence[Detection], classes: Sequence[str]
) -> dict[str, float]:
    """mAP, mAP50 and mAP75 of the answers for these records, whose boxes are known; 0 without detection or object."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    detections = predictions_to_coco(({"image": "", **answer} for answer in answers), "boxes", classes)["annotations"]
    dataset = coco_truth(records, classes)
    present = {each["category_id"] for each in dataset["annotations"] if not each["iscrowd"]}
    if not detections or not present:
        return {"mAP": 0.0, "mAP50": 0.0, "mAP75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints how far it is
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.params.catIds = sorted(present)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU 0.5 to 0.95, recall 0 to 1, class; any area
    by_name = {"mAP": precision, "mAP50": precision[0], "mAP75": precision[5]}
    return {name: round(float(values.mean()), 6) for name, values in by_name.items()}


def coco_truth(records: "Sequence[Record]", classes: Sequence[str]) -> dict[str, Any]:
    """The records' boxes as a COCO annotation file; ids of images and categories as in `predictions_to_coco`."""
    ids = {name: number for number, name in enumerate(classes, 1)}
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        for box in record["boxes"] or []:
            sides = [box["x1"], box["y1"], box["x2"] - box["x1"], box["y2"] - box["y1"]]
            each = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[box["name"]]}
            annotations.append({**each, "bbox": sides, "area": sides[2] * sides[3], "iscrowd": int(box["crowd"])})
    return {
        "images": [{"id": i, "width": r["width"], "height": r["height"]} for i, r in enumerate(records, 1)],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": annotations,
    }
