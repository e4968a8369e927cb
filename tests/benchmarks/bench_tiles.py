"""When looking at a large image tile by tile gains, and when it loses: pictures put together of the digits' scenes.

    python -m tests.benchmarks tiles

Takes the checkout's Datasets/pretrained/e001 and the test images of the dataset that it is of. A tile has the size of
one scene, which the model was trained on, or of half of one.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from Datasets.format.curated import Curated
from Datasets.format.images import decode
from Deployment.service.artifact import Predictor, Runtime, load
from Models.learning.box_metrics import validate
from tests.benchmarks.measuring import ROOT, Figure

SIDES = (1, 2, 4)  # scenes in a row and in a column of a picture


class Pictures:
    """What the metrics need of a split."""

    def __init__(self, records: list[Any], ids: dict[str, int]) -> None:
        self.records, self.ids, self.classes = records, ids, list(ids)


def figures(most: int = 192) -> Iterator[Figure]:
    """For each number of scenes in a picture, with `most` scenes in all."""
    artifact, data = load(ROOT / "Datasets/pretrained/e001"), Curated(ROOT / "Datasets/curated")
    scene = artifact.manifest["input"]["size"]
    for side in SIDES:
        samples, files = pictures(data, side, scene, most // side**2)
        found = {}
        for name, tile in (("whole", 0), ("tiled", scene), ("half", scene // 2)):
            predictor = Predictor(artifact, Runtime(tile=tile))
            found[name] = validate(samples, [predictor(file, threshold=0.001) for file in files])
        told = {name: f"mAP50 {each['mAP50']:.3f}, mAP {each['mAP']:.3f}" for name, each in found.items()}
        what = f"tiles of {scene} pixels in pictures of {side * scene} pixels, {side**2} scenes"
        gained = f"{found['tiled']['mAP50'] - found['whole']['mAP50']:+.3f} mAP50"
        yield Figure(
            what, f"the whole: {told['whole']}", gained, "", f"{told['tiled']}; of {scene // 2}: {told['half']}"
        )


def pictures(data: Curated, side: int, scene: int, number: int) -> tuple[Any, list[bytes]]:
    """So many pictures as PNG files, each of side x side test images, and what the metrics need of their boxes."""
    records, images = data.records("test", masks=False), data.images("test")
    made, files = [], []
    for first in range(0, number * side**2, side**2):
        canvas, boxes = np.zeros((side * scene, side * scene, 3), np.uint8), []
        for place in range(side**2):
            x, y = place % side * scene, place // side * scene
            canvas[y : y + scene, x : x + scene] = decode(images[first + place])[:scene, :scene]
            for box in records[first + place]["boxes"] or []:
                moved = {"x1": box["x1"] + x, "x2": box["x2"] + x, "y1": box["y1"] + y, "y2": box["y2"] + y}
                boxes.append({**box, **moved, "segmentation": None})
        made.append(
            {**records[first], "image": f"{first}.png", "width": side * scene, "height": side * scene, "boxes": boxes}
        )
        file = io.BytesIO()
        Image.fromarray(canvas).save(file, "PNG")
        files.append(file.getvalue())
    return Pictures(made, data.classes), files
