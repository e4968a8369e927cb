"""Small sources as annotation programs write them: a cat at (3, 4, 20, 30) in a.png, nothing in b.png."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pycocotools import mask as coco_mask

from Data_processing.import_source import check_paths, read_annotations
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions, from_arrow
from Data_processing.shared.outlines import to_rle
from tests.template.Data_processing.sources import SIZE, picture, write_voc

BOX = (3, 4, 20, 30)
NAMES = ("a.png", "b.png")


def rows_of(path: Path, form: str, **options) -> dict[str, Imported]:
    """The records of a source by their origins, as the import stage would write them."""
    rows = list(check_paths(read_annotations(open_source(path), form, ImportOptions(**options))[2]))
    assert len({row.origin for row in rows}) == len(rows)
    return {row.origin: row for row in rows}


def read_imported(path: Path) -> Iterator[Imported]:
    """The records in a file of the import stage."""
    for batch in pq.ParquetFile(path).iter_batches():
        yield from from_arrow(batch)


def corners(row: Imported) -> list[tuple]:
    """The boxes of a record in pixels of SIZE."""
    across, down = SIZE if row.normalized else (1, 1)
    return [
        (b.name, *(round(v, 6) for v in (b.x1 * across, b.y1 * down, b.x2 * across, b.y2 * down))) for b in row.boxes
    ]


def mask_of(box: ImportedBox, normalized: bool = False) -> np.ndarray:
    """The pixels of a box's outline in an image of SIZE."""
    return coco_mask.decode(to_rle(box.outline, *SIZE, normalized)).astype(bool)


def write_pictures(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        (directory / name).write_bytes(picture(number))


def shape(kind: str, points: list, label: str = "cat", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def labelme_file(path: Path, shapes: list, image: str, data: bytes | None = None, **more) -> None:
    text = None if data is None else base64.b64encode(data).decode()
    said = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": text}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**said, "imageWidth": SIZE[0], "imageHeight": SIZE[1], **more}))


def write_labelme(directory: Path) -> Path:
    write_pictures(directory)
    labelme_file(directory / "a.json", [shape("rectangle", [[20, 4], [3, 30]])], "a.png")
    labelme_file(directory / "b.json", [], "b.png")
    return directory


def cvat_image(number: int, name: str, shapes: str, more: str = "") -> str:
    return f'<image id="{number}" name="{name}" width="{SIZE[0]}" height="{SIZE[1]}" {more}>\n{shapes}</image>\n'


def write_cvat(directory: Path, *images: str) -> Path:
    write_pictures(directory / "images")
    box = '<box label="cat" occluded="0" xtl="3.0" ytl="4.0" xbr="20.0" ybr="30.0" z_order="0"></box>\n'
    images = images or (cvat_image(0, "a.png", box), cvat_image(1, "b.png", ""))
    xml = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{"".join(images)}</annotations>'
    (directory / "annotations.xml").write_text(xml)
    return directory


def region(kind: str, value: dict, labels: list | None = None, **more) -> dict:
    key = kind if kind.endswith("labels") else f"{kind}labels"
    sizes = {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0}
    return {"id": "r", "type": key, **sizes, "value": {**value, key: labels or ["cat"]}, **more}


def percent(x1: float, y1: float, x2: float, y2: float, rotation: float = 0) -> dict:
    across, down = SIZE[0] / 100, SIZE[1] / 100
    fields = {"x": x1 / across, "y": y1 / down, "width": (x2 - x1) / across, "height": (y2 - y1) / down}
    return {**fields, "rotation": rotation}


def task(number: int, image: str, *results: list, **more) -> dict:
    annotations = [
        {"id": 10 * number + i, "result": result, "was_cancelled": False} for i, result in enumerate(results)
    ]
    return {"id": number, "data": {"image": image}, "annotations": annotations, "predictions": [], **more}


def write_label_studio(directory: Path, *tasks: dict) -> Path:
    write_pictures(directory / "images")
    upload = "/data/upload/7/0a1b2c3d-"
    tasks = tasks or (
        task(1, f"{upload}a.png", [region("rectangle", percent(*BOX))]),
        task(2, f"{upload}b.png", []),
    )
    (directory / "project.json").write_text(json.dumps(tasks))
    return directory


def write_voc_pair(directory: Path) -> Path:
    return write_voc(directory, {"a.png": [("cat", *BOX)], "b.png": []})


def via_image(name: str, *shapes: dict, **more) -> dict:
    """An entry of VIA's export: shapes of the class cat."""
    regions = [{"shape_attributes": shape, "region_attributes": {"class": "cat"}} for shape in shapes]
    return {"filename": name, "size": 99, "regions": regions, "file_attributes": {}, **more}


def write_via(directory: Path, *images: dict) -> Path:
    write_pictures(directory)
    images = images or (
        via_image("a.png", {"name": "rect", "x": 3, "y": 4, "width": 17, "height": 26}),
        via_image("b.png"),
    )
    (directory / "via_export_json.json").write_text(json.dumps({f"{i['filename']}{i['size']}": i for i in images}))
    return directory


def write_createml(directory: Path, *entries: dict) -> Path:
    write_pictures(directory)
    box = {"label": "cat", "coordinates": {"x": 11.5, "y": 17, "width": 17, "height": 26}}
    entries = entries or ({"image": "a.png", "annotations": [box]}, {"image": "b.png", "annotations": []})
    (directory / "_annotations.createml.json").write_text(json.dumps(entries))
    return directory


def supervisely_object(kind: str, exterior: list, interior: list | tuple = (), label: str = "cat", **more) -> dict:
    points = {"exterior": exterior, "interior": interior}
    return {"id": 7, "classId": 1, "classTitle": label, "geometryType": kind, "tags": [], "points": points, **more}


def supervisely_file(path: Path, objects: list, *tags: dict) -> None:
    size = {"width": SIZE[0], "height": SIZE[1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"description": "", "tags": tags, "size": size, "objects": objects}))


def write_supervisely(directory: Path) -> Path:
    write_pictures(directory / "ds0/img")
    (directory / "meta.json").write_text(json.dumps({"classes": [{"title": "cat", "shape": "any"}], "tags": []}))
    supervisely_file(directory / "ds0/ann/a.png.json", [supervisely_object("rectangle", [[3, 4], [19, 29]])])
    supervisely_file(directory / "ds0/ann/b.png.json", [])
    return directory


def write_huggingface(directory: Path, *rows: dict) -> Path:
    write_pictures(directory)
    rows = rows or (
        {"file_name": "a.png", "objects": {"bbox": [[3, 4, 17, 26]], "categories": ["cat"]}},
        {"file_name": "b.png", "objects": {"bbox": [], "categories": []}},
    )
    (directory / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


WRITERS = {
    "labelme": write_labelme,
    "cvat": write_cvat,
    "label_studio": write_label_studio,
    "voc": write_voc_pair,
    "via": write_via,
    "createml": write_createml,
    "supervisely": write_supervisely,
    "huggingface": write_huggingface,
}
