"""Labelling tasks go out and come back: as Label Studio and CVAT export them, they correct the right records."""

import base64
import hashlib
import io
import json
import zipfile
from operator import itemgetter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from Data_processing.adding.recognise import recognise
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import ImportOptions
from Datasets import tasks
from Datasets.format.curated import Curated, read_origins
from Datasets.format.records import write_predictions
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing import stages
from tests.template.Data_processing.annotated import corners, read_imported
from tests.template.Data_processing.sources import SIZE, picture, squares, write_coco, write_masks

CAT, DOG = ("cat", 3.14159, 4, 20, 30), ("dog", 30, 5, 50, 35)
OLD = {"a/0.png": [CAT, DOG], "b/0.png": [CAT], "b/ö 1.png": [DOG], "2.png": [CAT], "3.png": []}
REVIEW = {"old/images/b/0.png": 0.9, "old/images/a/0.png": 0.75, "old/images/3.png": 0.5, "old/images/2.png": 0.1}


def take_in(directory: Path, name: str, path: Path, corrects: str = "") -> None:
    """A source of a format that is recognised, imported and inspected."""
    chosen = ImportOptions(corrects=[corrects] if corrects else [])
    found, needed = recognise(open_source(path), chosen, None, pytest.fail)
    options = {"--annotations": needed.annotations, "--images": needed.images, "--corrects": corrects}
    stages.take_in(directory, name, path, found.format, *(w for pair in options.items() if pair[1] for w in pair))


def curated(directory: Path, *sources: str) -> Curated:
    succeeded(stages.clean(directory, "--doubled-iou", "0", *sources))
    succeeded(stages.curate(directory, *stages.ALL_TRAIN))
    return Curated(directory / "curated")


def outline(directory: Path) -> None:
    """Give every object of a COCO source an outline: its box without a corner."""
    coco = json.loads((directory / "annotations.json").read_text())
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height]]
    (directory / "annotations.json").write_text(json.dumps(coco))


@pytest.fixture
def reviewed(tmp_path) -> Path:
    """A dataset with a review of it."""
    outline(write_coco(tmp_path / "old", OLD))
    take_in(tmp_path, "old", tmp_path / "old")
    hashes = {record["image"]: record["sha256"] for record in curated(tmp_path, "old").records("train")}
    wrong = {"kind": "wrong class", "name": "cat", "predicted": "dog"}
    rows = [{**wrong, "image": image, "suspicion": share} for image, share in REVIEW.items()]
    rows = [{**row, "sha256": hashes[row["image"]]} for row in rows]
    rows.insert(1, {**rows[0], "kind": "missing", "name": None, "suspicion": 0.8})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "review.parquet")
    return tmp_path


def label_studio(directory: Path, address: str) -> Path:
    """What Label Studio exports once the first task is corrected and the second confirmed; the last one is open."""
    exported = []
    for number, task in enumerate(json.loads((directory / "tasks/tasks.json").read_text()), 1):
        result = [{**region, "origin": "prediction"} for region in task["predictions"][0]["result"]]
        annotation = {"id": number, "completed_by": 1, "result": result, "was_cancelled": False, "ground_truth": False}
        if number == 1:
            result[0]["value"]["rectanglelabels"] = ["dog"]
        name = task["data"]["image"].rpartition("/")[2]
        task["data"]["image"] = task["data"]["image"] if address == "local" else address + name
        annotations = [annotation] if number < 4 else []
        exported.append({"id": number, "annotations": annotations, "predictions": [], "data": task["data"], "meta": {}})
    (directory / "project-1.json").write_text(json.dumps(exported))
    return directory / "project-1.json"


def cvat(directory: Path, form: str) -> Path:
    """What CVAT exports of the same, without images, in two decimals."""
    with zipfile.ZipFile(directory / "tasks/coco.zip") as archive:
        assert len([name for name in archive.namelist() if name.startswith("images/default/")]) == 4
        coco = json.loads(archive.read("annotations/instances_default.json"))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    coco["annotations"][0]["category_id"] = next(number for number, name in names.items() if name == "dog")
    for annotation in coco["annotations"]:
        annotation["bbox"] = [round(value, 2) for value in annotation["bbox"]]
        annotation["attributes"] = {"occluded": False, "rotation": 0.0}
    text = ""
    for image in coco["images"]:
        boxes = [(names[a["category_id"]], a["bbox"]) for a in coco["annotations"] if a["image_id"] == image["id"]]
        places = [(name, x, y, round(x + width, 2), round(y + height, 2)) for name, (x, y, width, height) in boxes]
        drawn = ('<box label="{}" xtl="{}" ytl="{}" xbr="{}" ybr="{}"/>'.format(*box) for box in places)
        sides = 'width="{width}" height="{height}"'.format(**image)
        text += f'<image id="{image["id"]}" name="{image["file_name"]}" {sides}>{"".join(drawn)}</image>'
    content = {"annotations/instances_default.json": json.dumps(coco)}
    content = content if form == "coco" else {"annotations.xml": f"<annotations>{text}</annotations>"}
    with zipfile.ZipFile(directory / "job_1.zip", "w") as archive:
        for name, file in content.items():
            archive.writestr(name, file)
    return directory / "job_1.zip"


@pytest.mark.parametrize(
    ("tool", "how"),
    [
        ("label_studio", "local"),
        ("label_studio", "https://ours.example/x%20y/"),
        ("cvat", "coco"),
        ("cvat", "xml"),
    ],
)
def test_a_suspicious_label_goes_out_and_comes_back_corrected(reviewed, tool, how):
    out = reviewed / "tasks"
    review, dataset = reviewed / "review.parquet", reviewed / "curated"
    tasks.main(review, tasks.Form(tool), out, curated=dataset)
    listed = [line.split("\t")[1:] for line in (out / "images.txt").read_text().splitlines()]
    assert listed[:2] == [
        ["old/images/b/0.png", "wrong class: cat, perhaps dog (0.90); missing: dog (0.80)"],
        ["old/images/a/0.png", "wrong class: cat, perhaps dog (0.75)"],
    ]
    back = label_studio(reviewed, how) if tool == "label_studio" else cvat(reviewed, how)
    take_in(reviewed, "fixes", back, corrects="old")
    records = {record["image"]: record for record in curated(reviewed, "old", "fixes").records("train")}
    placed = itemgetter("name", "x1", "y1", "x2", "y2")
    boxes = {image: list(map(placed, record["boxes"])) for image, record in records.items()}
    expected = {f"old/images/{image}": drawn for image, drawn in OLD.items()}
    expected["old/images/b/0.png"] = [("dog", *CAT[1:])]
    assert boxes.keys() == expected.keys()
    for image, drawn in expected.items():
        assert [box[0] for box in boxes[image]] == [box[0] for box in drawn]
        assert [box[1:] for box in boxes[image]] == [pytest.approx(box[1:], abs=0.006) for box in drawn]
    assert all(box["segmentation"] for record in records.values() for box in record["boxes"])
    repairs = pd.read_csv(reviewed / "clean/repairs.csv")
    assert repairs["image"].tolist() == ["images/b/0.png"]
    assert read_origins(dataset)["old/images/b/0.png"]["origin"].startswith("fixes: ")


def stroke() -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(squares(0))))


ANSWERS = {
    "boxes": {"boxes": [{"name": "dog", "x1": 3.0, "y1": 4.0, "x2": 20.0, "y2": 30.0, "score": 0.7}]},
    "mask": {"mask": base64.b64encode(squares(0)).decode()},
    "counts": {"counts": [{"name": "dog", "count": 3}], "scores": {"cat": 0.1, "dog": 0.9}},
    "labels": {"scores": {"cat": 0.1, "dog": 0.9}},
}


def answers(directory: Path, kind: str) -> Path:
    """What a model of two classes answers for photos/a b.png, and what it could not read or is gone since."""
    (directory / "photos").mkdir()
    (directory / "photos/a b.png").write_bytes(picture(3))
    take_in(directory, "old", write_coco(directory / "old", OLD))
    curated(directory, "old")
    about = {"width": SIZE[0], "height": SIZE[1], "labels": ["cat" if kind == "mask" else "dog"]}
    found = {"image": "a b.png", "sha256": hashlib.sha256(picture(3)).hexdigest(), **about, **ANSWERS[kind]}
    rows = [{"image": "broken.png", "error": "not an image"}, found, {**found, "image": "gone.png"}]
    write_predictions(rows, "e001", directory / "answers.parquet")
    return directory / "answers.parquet"


def write_tasks(directory: Path, tool: str, *options: str, file: str = "answers.parquet"):
    places = ("--out", directory / "tasks", "--images", directory / "photos", "--curated", directory / "curated")
    return stages.stage("Datasets.tasks", directory / file, "--to", tool, *places, *options)


@pytest.mark.parametrize("kind", ["boxes", "counts", "labels"])
def test_answers_for_new_images_become_a_source_once_they_are_confirmed(tmp_path, kind):
    answers(tmp_path, kind)
    succeeded(write_tasks(tmp_path, "label_studio"))
    lines = (tmp_path / "tasks/images.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [["left out", "broken.png"], ["left out", "gone.png"]]
    assert lines[1].endswith("not an image") and "gone.png is not there" in lines[2]
    (task,) = json.loads((tmp_path / "tasks/tasks.json").read_text())
    (predicted,) = task["predictions"]
    assert (predicted["model_version"], predicted["score"]) == ("e001", 0.7 if kind == "boxes" else 0.9)
    controls = {node.get("name") for node in ElementTree.parse(tmp_path / "tasks/label_config.xml").iter()}
    assert controls > {region["from_name"] for region in predicted["result"]}
    done = {"id": 1, "result": predicted["result"], "was_cancelled": False}
    (tmp_path / "tasks/project-1.json").write_text(json.dumps([{"id": 1, "data": task["data"], "annotations": [done]}]))
    take_in(tmp_path, "new", tmp_path / "tasks")
    (row,) = read_imported(tmp_path / "imported/new.parquet")
    assert row.problems == [] and (tmp_path / "tasks" / row.image).read_bytes() == picture(3)
    if kind == "boxes":
        assert corners(row) == [("dog", 3, 4, 20, 30)]
    assert row.labels == (["dog"] if kind == "labels" else None)
    assert row.counts == ([{"name": "dog", "count": 3}] if kind == "counts" else None)


def test_a_mask_goes_to_cvat_as_run_lengths(tmp_path):
    answers(tmp_path, "mask")
    refused(write_tasks(tmp_path, "label_studio"), "a b.png: has mask", "--to cvat does")
    succeeded(write_tasks(tmp_path, "cvat"))
    assert json.loads((tmp_path / "tasks/labels.json").read_text())[0]["name"] == "cat"
    with zipfile.ZipFile(tmp_path / "tasks/coco.zip") as archive:
        coco = json.loads(archive.read("annotations/instances_default.json"))
        (image,) = (name for name in archive.namelist() if name.startswith("images/default/"))
        assert archive.read(image) == picture(3)
    (region,) = coco["annotations"]
    assert (coco_mask.decode(region["segmentation"]) == stroke()).all() and region["category_id"] == 1


def test_a_mask_comes_back_from_cvat_as_a_mask(tmp_path):
    take_in(tmp_path, "old", write_masks(tmp_path / "old"))
    (first, *_) = curated(tmp_path, "old").records("train")
    row = {"image": first["image"], "sha256": first["sha256"], "kind": "missing", "suspicion": 0.5}
    row |= {"name": None, "predicted": "cat"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "review.parquet")
    tasks.main(tmp_path / "review.parquet", tasks.Form.cvat, tmp_path / "tasks", curated=tmp_path / "curated")
    drawn, file = np.zeros((*SIZE[::-1], 3), np.uint8), io.BytesIO()
    drawn[:8, :9] = 250, 50, 83
    Image.fromarray(drawn).save(file, "PNG")
    with zipfile.ZipFile(tmp_path / "tasks/coco.zip") as sent, zipfile.ZipFile(tmp_path / "job.zip", "w") as back:
        (image,) = (name for name in sent.namelist() if name.startswith("images/default/"))
        name = image.removeprefix("images/default/")
        back.writestr("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n")
        back.writestr("ImageSets/Segmentation/default.txt", f"{Path(name).stem}\n")
        back.writestr(f"JPEGImages/{name}", sent.read(image))
        for folder in ("SegmentationClass", "SegmentationObject"):
            back.writestr(f"{folder}/{Path(name).stem}.png", file.getvalue())
    take_in(tmp_path, "fixes", tmp_path / "job.zip", corrects="old")
    records = curated(tmp_path, "old", "fixes").records("train")
    masks = {r["image"]: np.asarray(Image.open(io.BytesIO(r["mask"]["bytes"]))) for r in records}
    assert len(masks) == 3 and (masks[first["image"]] == (drawn[..., 0] > 0)).all()


def test_wrong_input_is_refused_in_one_line_and_nothing_is_left(tmp_path):
    answers(tmp_path, "labels")
    refused(write_tasks(tmp_path, "cvat"), "a b.png: has labels", "--to label_studio does")
    refused(write_tasks(tmp_path, "geti"), "'geti' is not one of")
    elsewhere = write_tasks(tmp_path, "label_studio", "--images", tmp_path)
    refused(elsewhere, "no image to label; broken.png: not an image; a b.png: ", "a b.png is not there; see --images")
    refused(write_tasks(tmp_path, "cvat", file="gone.parquet"), "gone.parquet: cannot be read", "No such file")
    (tmp_path / "text.parquet").write_text("no Parquet")
    refused(write_tasks(tmp_path, "cvat", file="text.parquet"), "text.parquet: cannot be read as Parquet")
    refused(write_tasks(tmp_path, "cvat", file="clean/accepted.parquet"), "neither answers of")
    (tmp_path / "curated/classes.json").write_text('{"cat": 0}')
    refused(write_tasks(tmp_path, "label_studio"), "a b.png: the dataset has no class 'dog'", "--curated")
    assert not (tmp_path / "tasks").exists()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.txt").write_text("mine")
    refused(write_tasks(tmp_path, "label_studio"), "is a directory that holds something else")
