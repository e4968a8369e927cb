"""Masks, labels and counts through the service, predict and the model card."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from jsonschema_rs import Draft202012Validator
from PIL import Image
from pycocotools import mask as coco_mask

from Data_processing.curating.packing import draw_mask as draw
from Data_processing.shared.imported import Imported
from Data_processing.shared.outlines import bounds
from Datasets.format.coco import encode
from Datasets.format.predictions import mask_of
from Deployment.package import model_card
from tests.template.Data_processing.annotated import read_imported
from tests.template.Deployment.made_export import CLASSES, SAMPLES, TRUTH, encoded, mask_of_truth, scene
from tests.template.Deployment.running_service import command, form, serving

NO_IMAGE = "not an image file in one of the formats JPEG, PNG, WEBP, BMP"
TWO_REDS = Image.fromarray(np.hstack([np.asarray(scene(40, 40, {"red": (8, 8, 30, 30)}))] * 2))


@pytest.mark.parametrize("task", ["mask", "labels", "counts"])
def test_every_answer_is_as_documented(exports: dict[str, Path], task: str) -> None:
    body, headers = form(("a.jpg", encoded(SAMPLES["000.jpg"])), ("b.jpg", b"no image"))
    with serving(exports[task]) as service:
        paths = service.request("GET", "/openapi.json")[1]
        answers = {}
        for path in ("/predict", "/predict/batch"):
            schema = paths["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
            for query in ("", "?format=coco", "?threshold=0.9"):
                request = (body, headers) if "batch" in path else (encoded(TWO_REDS), {})
                status, answers[path + query] = service.request("POST", path + query, *request)
                assert status == 200
                Draft202012Validator(schema | {"components": paths["components"]}).validate(answers[path + query])
        metrics = service.answer("GET", "/metrics")[2].decode()
    assert "fourfold_images_total 6.0" in metrics
    answer, coco = answers["/predict"], answers["/predict?format=coco"]
    assert (answer["width"], answer["height"], answer["labels"]) == (80, 40, ["red"])
    assert [each["category_id"] for each in coco["annotations"]] == [1]
    found, unreadable = answers["/predict/batch"]["answers"]
    assert (found["labels"], found["image"], unreadable["error"]) == (["blue", "red"], "a.jpg", NO_IMAGE)
    if task == "mask":
        red = mask_of(answer) == 1
        assert red[20, 20] and red[20, 60] and not red[20, 38]
        assert (coco_mask.decode(coco["annotations"][0]["segmentation"]) == red).all()
        assert coco["annotations"][0]["area"] == red.sum()
        return
    assert list(answer["scores"]) == CLASSES
    assert [each["labels"] for each in (found, answers["/predict/batch?threshold=0.9"]["answers"][0])] == [
        ["blue", "red"],
        ["blue"],
    ]
    if task == "counts":
        assert answer["counts"] == [{"name": "red", "count": 2}]
        assert answer["expected"]["red"] == pytest.approx(2)
        assert coco["annotations"][0]["count"] == 2
        assert 'fourfold_objects_total{name="red"}' in metrics


@pytest.mark.parametrize("task", ["mask", "counts"])
def test_a_model_labels_the_next_dataset(exports: dict[str, Path], tmp_path: Path, task: str) -> None:
    """Both forms of file; COCO's is read by import_source, and means the same."""
    for number, rectangles in enumerate(TRUTH):
        (tmp_path / f"{number}.png").write_bytes(encoded(scene(64, 64, rectangles), "PNG"))
    for name in ("coco.json", "records.parquet"):
        process = command("Deployment.predict", exports[task], tmp_path, "--to", tmp_path / name)
        assert process.returncode == 0, process.stderr
    assert f"3 images, 3 {'labels' if task == 'mask' else 'objects'}, 0 unreadable" in process.stdout
    records = pq.read_table(tmp_path / "records.parquet").to_pylist()
    assert [record["labels"] for record in records] == [["blue", "red"], ["green"], []]
    imported = tmp_path / "next.parquet"
    options = ["--source", "next", "--format", "coco", "--annotations", "coco.json", "--path", tmp_path]
    process = command("Data_processing.import_source", *options, "--out", imported)
    assert process.returncode == 0, process.stderr
    taken_back = list(read_imported(imported))
    assert not any(row.problems for row in taken_back)
    {"mask": check_masks, "counts": check_counts}[task](records, taken_back)


def check_masks(records: list[Any], taken_back: list[Imported]) -> None:
    for record, row, rectangles in zip(records, taken_back, TRUTH, strict=True):
        truth = mask_of_truth(rectangles)
        assert (np.asarray(Image.open(io.BytesIO(record["mask"]["bytes"]))) == truth).all()
        boxes = [(b.name, b.x1, b.y1, b.x2, b.y2, b.crowd) for b in row.boxes]
        assert sorted(boxes) == sorted((name, *sides, True) for name, sides in rectangles.items())
        assert all(bounds(box.outline) == (box.x1, box.y1, box.x2, box.y2) for box in row.boxes)
        drawn = [{"name": b.name, "segmentation": json.loads(b.outline)} for b in row.boxes]
        again = draw(drawn, {name: number for number, name in enumerate(CLASSES)}, 64, 64)
        assert (again == truth).all()


def check_counts(records: list[Any], taken_back: list[Imported]) -> None:
    counts = [{each["name"]: each["count"] for each in record["counts"]} for record in records]
    assert counts == [{"red": 1, "blue": 1}, {"green": 1}, {}]
    assert [each["name"] for each in records[0]["scores"]] == CLASSES
    assert records[0]["scores"][0]["expected"] == pytest.approx(1)
    assert records[0]["boxes"] is None
    assert [row.labels for row in taken_back] == [["blue", "red"], ["green"], []]
    assert [row.boxes for row in taken_back] == [None] * 3


def test_run_lengths_are_cocos() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        mask = random.random(random.integers(1, 60, 2)) < random.choice([0, 0.01, 0.5, 1])
        mask = np.kron(mask, np.ones(random.integers(1, 40, 2), bool))
        theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode(mask) == {"size": theirs["size"], "counts": theirs["counts"].decode()}


@pytest.mark.parametrize(
    ("task", "words"),
    [("mask", "without a score"), ("labels", "from a score of 0.25"), ("counts", "counted as 1 or more")],
)
def test_the_model_card_says_what_an_answer_is(exports: dict[str, Path], task: str, words: str) -> None:
    card = model_card(json.loads((exports[task] / "manifest.json").read_text()))
    assert f"Task: {task}." in card
    assert words in card
