"""An exported dataset, read by other tools, has what the records have; test_round_trips.py uses our own readers."""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from lxml import etree
from PIL import Image
from pycocotools import mask as coco_mask
from ruamel.yaml import YAML

from Datasets.export import Format, main
from Datasets.exporters.voc import objects, segmentation_images
from Datasets.format.curated import Curated
from Datasets.format.records import SPLITS, Record, empty_record
from tests.template.Datasets.random_datasets import CLASSES, datasets, png, write_dataset

TOLERANCE = 1e-6  # pixels
quickly = settings(max_examples=8, suppress_health_check=list(HealthCheck))


@contextlib.contextmanager
def exported(content: list[dict], form: str) -> Iterator[tuple[Curated, Path]]:
    """The dataset as curated, and the folder that it was exported to."""
    with tempfile.TemporaryDirectory() as base:
        dataset = write_dataset(Path(base, "curated"), content)
        main(Format(form), Path(base, "out"), dataset.directory)
        yield dataset, Path(base, "out")


def rows(dataset: Curated, splits=SPLITS) -> dict[bytes, Record]:
    """The records by their image files, no two of which are alike."""
    return {data: r for s in splits for r, data in zip(dataset.records(s), dataset.images(s), strict=False)}


def files(folder: Path) -> dict[bytes, Path]:
    """The files below a folder, by what is in them."""
    return {file.read_bytes(): file for file in folder.rglob("*") if file.is_file()}


def corners(box: dict) -> list[float]:
    return [box["x1"], box["y1"], box["x2"], box["y2"]]


def same_boxes(actual: list[dict], expected: list[dict], keys=("name",)) -> bool:
    """Whether boxes are the same in the same order, by their corners and other fields."""
    same = [[box[key] for key in keys] for box in actual] == [[box[key] for key in keys] for box in expected]
    places = zip(map(corners, actual), map(corners, expected), strict=False)
    return same and all(np.allclose(a, b, rtol=0, atol=TOLERANCE) for a, b in places)


@quickly
@given(datasets())
def test_yolo_names_its_classes_for_readers_of_yaml_1_1_and_knows_nothing_of_images_without_a_file(content):
    with exported(content, "yolo") as (dataset, out):
        yaml = YAML(typ="safe", pure=True)
        yaml.version = "1.1"  # as PyYAML, which most readers use
        config = yaml.load((out / "data.yaml").read_text(encoding="utf-8"))
        assert config["names"] == list(CLASSES)
        for data, image in files(out / "images").items():
            text = Path("/labels/".join(str(image).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")
            assert text.exists() == (rows(dataset)[data]["boxes"] is not None)


@quickly
@given(datasets())
def test_voc_has_boxes_lists_and_palette_images(content):
    with exported(content, "voc") as (dataset, out):
        images = files(out / "JPEGImages")
        known = rows(dataset)
        assert images.keys() == known.keys()
        assert len({path.stem for path in images.values()}) == len(images)
        for data, record in known.items():
            stem = images[data].stem
            assert (stem in listed(out, f"Main/{record['split']}")) == (record["boxes"] is not None)
            check_pictures(out, stem, record)
            if record["boxes"] is not None:
                root = etree.parse(out / f"Annotations/{stem}.xml").getroot()
                assert root.findtext("source/image") == record["image"]
                assert same_boxes([voc_box(element) for element in root.findall("object")], objects(record))


def listed(out: Path, name: str) -> list[str]:
    file = out / f"ImageSets/{name}.txt"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def voc_box(element: etree._Element) -> dict:
    x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
    return {"name": element.findtext("name"), "x1": x1 - 1, "y1": y1 - 1, "x2": x2, "y2": y2}


def check_pictures(out: Path, stem: str, record: Record) -> None:
    """The palette images are there where something is known, and each pixel has a value that it may have."""
    boxes, drawn = record["boxes"] or [], objects(record)
    by_object, by_class = (out / f"Segmentation{kind}/{stem}.png" for kind in ("Object", "Class"))
    assert by_object.exists() == any(box["segmentation"] for box in boxes)
    complete = bool(boxes) and all(box["segmentation"] for box in boxes)
    assert by_class.exists() == (record["mask"] is not None or complete)
    assert (stem in listed(out, f"Segmentation/{record['split']}")) == (by_object.exists() or by_class.exists())
    if by_object.exists():
        values = {id(box): number for number, box in enumerate(drawn, 1)} | {id(b): 255 for b in boxes if b["crowd"]}
        check_pixels(by_object, [(box, values[id(box)]) for box in boxes if id(box) in values])
    if record["mask"]:
        assert np.array_equal(Image.open(by_class), Image.open(io.BytesIO(record["mask"]["bytes"])))
    elif complete:
        check_pixels(by_class, [(box, CLASSES[box["name"]] + 1) for box in boxes])


def check_pixels(file: Path, values: list[tuple[dict, int]]) -> None:
    """Each pixel has the value of a segmentation that covers it, or 0 if none does."""
    image = Image.open(file)
    assert image.mode == "P"
    assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # VOC's black, dark red and green
    pixels = np.asarray(image)
    allowed = np.zeros((256, *pixels.shape), bool)
    for box, value in values:
        if box["segmentation"]:
            allowed[value] |= coco_mask.decode(box["segmentation"]) > 0
    allowed[0] = ~allowed.any(0)
    assert np.take_along_axis(allowed, pixels[None].astype(int), 0).all()


def rle(pixels: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def test_in_voc_the_smaller_of_two_overlapping_segmentations_lies_on_top():
    small, large = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    small[1:3, 1:3] = True
    place = {"name": "car", "x1": 0.0, "y1": 0.0, "x2": 5.0, "y2": 4.0, "crowd": False}
    for order in ([small, large], [large, small]):
        boxes = [{**place, "segmentation": rle(pixels)} for pixels in order]
        record = {**empty_record("a.png", "s"), "width": 5, "height": 4, "boxes": boxes}
        found = segmentation_images(record, CLASSES)["SegmentationObject"]
        assert np.array_equal(found == 1, order[0] & (small if order[0] is small else ~small))


def test_masks_of_images_that_differ_in_their_suffix_only_stay_apart():
    known = {"source": "s", "width": 2, "height": 2, "split": "train"}
    masks = [{"bytes": png(np.full((2, 2), value, np.uint8)), "path": "m.png"} for value in (1, 2)]
    content = [
        {**empty_record(f"a{suffix}", "s"), **known, "mask": mask}
        for suffix, mask in zip((".jpg", ".png"), masks, strict=True)
    ]
    with exported(content, "json") as (_, out):
        found = json.loads((out / "metadata.json").read_text())
        assert [(out / entry[4]).read_bytes() for entry in found] == [mask["bytes"] for mask in masks]
    with exported(content, "coco") as (_, out):
        assert len(list(out.rglob("*_pixelmaps/*.png"))) == 2
