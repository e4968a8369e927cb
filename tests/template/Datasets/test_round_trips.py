"""What an exporter writes, our own importer and other tools read: all that the format can say, of every image."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from ruamel.yaml import YAML

from Data_processing.import_source import check_paths, read_annotations
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import Imported, ImportOptions
from Data_processing.shared.outlines import to_rle
from Datasets.export import Format as Exported
from Datasets.export import main as export
from Datasets.exporters.voc import objects, segmentation_images
from Datasets.format.classes import read_classes
from Datasets.format.curated import Curated
from Datasets.format.images import open_image
from Datasets.format.records import SPLITS, Record, empty_record, implied
from tests.template.Datasets.random_datasets import CLASSES, datasets, png, write_dataset

TOLERANCE = 1e-6  # pixels
quickly = settings(max_examples=8, suppress_health_check=list(HealthCheck))


def rows(dataset: Curated, splits=SPLITS) -> dict[bytes, Record]:
    """The records by their image files, no two of which are alike."""
    return {data: r for s in splits for r, data in zip(dataset.records(s), dataset.images(s), strict=False)}


def corners(box: dict) -> list[float]:
    return [box["x1"], box["y1"], box["x2"], box["y2"]]


def same_boxes(actual: list[dict], expected: list[dict], keys=("name",)) -> bool:
    """Whether boxes are the same in the same order, by their corners and other fields."""
    same = [[box[key] for key in keys] for box in actual] == [[box[key] for key in keys] for box in expected]
    places = zip(map(corners, actual), map(corners, expected), strict=False)
    return same and all(np.allclose(a, b, rtol=0, atol=TOLERANCE) for a, b in places)


@contextlib.contextmanager
def there_and_back(content: list[dict], form: str, **options) -> Iterator[tuple[Curated, Path, dict[bytes, Imported]]]:
    """The dataset, the folder that it was exported to, and the records imported from there by their image files."""
    with tempfile.TemporaryDirectory() as base:
        dataset, out = write_dataset(Path(base, "curated"), content), Path(base, "out")
        export(Exported(form), out, dataset.directory)
        found = list(check_paths(read_annotations(open_source(out), form, ImportOptions(**options))[2]))
        assert [row.problems for row in found if row.problems] == []
        images = {(out / row.image).read_bytes(): row for row in found}
        assert len(images) == len(found)
        yield dataset, out, images


def boxes_of(row: Imported, record: Record) -> list[dict]:
    """Boxes as a record has them."""
    width, height = record["width"], record["height"]
    across, down = (width, height) if row.normalized else (1, 1)
    places = [{"x1": b.x1 * across, "y1": b.y1 * down, "x2": b.x2 * across, "y2": b.y2 * down} for b in row.boxes]
    outlines = [box.outline and to_rle(box.outline, width, height, row.normalized) for box in row.boxes]
    return [
        {"name": box.name, "crowd": box.crowd, "segmentation": outline, **place}
        for box, outline, place in zip(row.boxes, outlines, places, strict=True)
    ]


def check_with_pycocotools(out: Path) -> None:
    """What the COCO API reads: each image is listed in some file, and each area is that of what is drawn."""
    listed = set()
    for file in (out / "annotations").glob("*.json"):
        coco = COCO(file)
        listed |= {out / "images" / file.stem.rpartition("_")[2] / image["file_name"] for image in coco.imgs.values()}
        for annotation in coco.anns.values():
            drawn, (*_, width, height) = annotation.get("segmentation"), annotation["bbox"]
            assert annotation["area"] == (coco.annToMask(annotation).sum() if drawn else width * height)
    assert listed == {path for path in (out / "images").rglob("*") if path.is_file()}


@quickly
@given(datasets(most=10))
def test_coco_gives_back_boxes_crowds_segmentations_and_splits(content):
    assume(any(record["boxes"] is not None for record in content))
    with there_and_back(content, "coco", annotations="annotations/instances_*.json") as (dataset, out, found):
        check_with_pycocotools(out)
        known = {data: record for data, record in rows(dataset).items() if record["boxes"] is not None}
        assert found.keys() == known.keys()
        annotated = {record["split"] for record in known.values() if record["boxes"]}
        for data, record in known.items():
            row = found[data]
            assert (row.width, row.height, row.split) == (record["width"], record["height"], record["split"])
            if record["split"] in annotated:
                boxes = boxes_of(row, record)
                assert same_boxes(boxes, record["boxes"], ("name", "crowd", "segmentation"))
                assert implied({**empty_record("", ""), "boxes": boxes})["counts"] == record["counts"]
            else:  # a file without annotations says nothing of its images
                assert row.boxes is None


@quickly
@given(datasets(most=10))
def test_masks_in_coco_come_back_as_regions_without_counts(content):
    assume(any(record["mask"] is not None for record in content))
    with there_and_back(content, "coco", annotations="annotations/stuff_*.json") as (dataset, out, found):
        check_with_pycocotools(out)
        known = {data: record for data, record in rows(dataset).items() if record["mask"] is not None}
        assert found.keys() == known.keys()
        for data, record in known.items():
            mask = np.zeros((record["height"], record["width"]), np.uint8)
            boxes = boxes_of(found[data], record) if found[data].boxes else []
            for box in boxes:
                mask[coco_mask.decode(box["segmentation"]) > 0] = CLASSES[box["name"]] + 1
            assert np.array_equal(mask, open_image(record["mask"]["bytes"]))
            assert not boxes or implied({**empty_record("", ""), "boxes": boxes})["counts"] is None
        pixel_maps = {file.read_bytes() for file in out.rglob("*_pixelmaps/*.png")}
        assert pixel_maps == {record["mask"]["bytes"] for record in known.values()}


def check_yaml(out: Path) -> None:
    """The classes are named for readers of YAML 1.1, as PyYAML, which most use."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = "1.1"
    assert yaml.load((out / "data.yaml").read_text(encoding="utf-8"))["names"] == list(CLASSES)


@quickly
@given(datasets(most=10))
def test_yolo_gives_back_boxes_or_segmentations_that_are_no_crowds_and_splits(content):
    labelled = {record["split"] for record in content if record["boxes"] is not None}
    assume(labelled)
    with there_and_back(content, "yolo") as (dataset, out, found):
        check_yaml(out)
        known = rows(dataset)
        assert found.keys() == known.keys()
        for data, record in known.items():
            row = found[data]
            assert row.split == record["split"]
            labels = Path("/labels/".join(str(out / row.image).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")
            assert labels.exists() == (record["boxes"] is not None)
            assert (row.boxes is None) == (row.split not in labelled)  # what is not known is nothing to YOLO's readers
            expected = [box for box in record["boxes"] or [] if not box["crowd"]]
            boxes = boxes_of(row, record) if row.boxes else []
            assert row.boxes is None or same_boxes(boxes, list(map(bounded, expected)))
            pairs = zip(boxes, expected, strict=True) if row.boxes is not None else []
            drawn = [(got["segmentation"], box["segmentation"]) for got, box in pairs if box["segmentation"]]
            assert [got for got, _ in drawn] == [stated for _, stated in drawn]


def bounded(box: dict) -> dict:
    """A box with the bounds of its segmentation, if it has one: what YOLO's readers take for the box of a polygon."""
    if box["segmentation"] is None:
        return box
    x, y, width, height = coco_mask.toBbox(box["segmentation"]).tolist()
    return {**box, "x1": x, "y1": y, "x2": x + width, "y2": y + height}


@quickly
@given(datasets(most=10))
def test_json_gives_back_labels_counts_boxes_and_masks(content):
    with there_and_back(content, "json") as (dataset, out, found):
        known = rows(dataset)
        assert found.keys() == known.keys()
        assert read_classes(out / "classes.json") == CLASSES
        for data, record in known.items():
            row = found[data]
            assert (row.labels, row.counts) == (record["labels"], record["counts"])
            assert (row.boxes is None) == (record["boxes"] is None)
            assert same_boxes(boxes_of(row, record) if row.boxes else [], record["boxes"] or [])
            check_mask(row, record, out)


def check_mask(row: Imported, record: Record, out: Path) -> None:
    """The mask is there if the record has one, and its values mean the classes."""
    assert (row.mask is None) == (record["mask"] is None)
    if row.mask is not None:
        assert (out / row.mask).read_bytes() == record["mask"]["bytes"]
        assert row.mask_names == {number + 1: name for name, number in CLASSES.items()}


def listed(out: Path, name: str) -> list[str]:
    file = out / f"ImageSets/{name}.txt"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


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


@st.composite
def voc_datasets(draw) -> list[dict]:
    """Datasets in which a segmentation lies where its box is, and covers no other's pixels, as in VOC's pictures."""
    content = draw(datasets(most=10))
    for record in content:
        taken = np.zeros((record["height"], record["width"]), bool)
        for box in record["boxes"] or []:
            mask = np.zeros_like(taken)
            mask[int(box["y1"]) : int(np.ceil(box["y2"])), int(box["x1"]) : int(np.ceil(box["x2"]))] = True
            mask &= ~taken
            box["segmentation"] = None
            if mask.any() and not box["crowd"] and draw(st.booleans()):
                taken |= mask
                rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                box["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    return [implied(record) for record in content]


@quickly
@given(voc_datasets())
def test_voc_gives_back_boxes_masks_and_splits(content):
    known_pictures = [r for r in content if r["mask"] or any(box["segmentation"] for box in r["boxes"] or [])]
    assume(known_pictures or any(record["boxes"] is not None for record in content))
    with there_and_back(content, "voc") as (dataset, out, found):
        for data, record in rows(dataset).items():
            row = found.get(data)
            assert (row is None) == (record["boxes"] is None and record["mask"] is None)
            stem = Path(row.image).stem if row else ""
            assert (stem in listed(out, f"Main/{record['split']}")) == (record["boxes"] is not None)
            if row is None:
                continue
            check_pictures(out, stem, record)
            assert row.split == record["split"]
            assert (row.boxes is None) == (record["boxes"] is None)
            if row.boxes is not None:
                assert (row.width, row.height) == (record["width"], record["height"])
                assert same_boxes(boxes_of(row, record), objects(record), ("name",))
            if record["mask"] is not None:
                assert row.mask is not None
                written, original = ((out / row.mask).read_bytes(), record["mask"]["bytes"])
                assert np.array_equal(*(np.asarray(open_image(file)) for file in (written, original)))
                assert row.mask_names == {number + 1: name.replace(":", "_") for name, number in CLASSES.items()}


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
    with there_and_back(content, "json") as (_, _, found):
        assert len({row.mask for row in found.values()}) == 2
    with there_and_back(content, "coco", annotations="annotations/stuff_*.json") as (_, out, _):
        assert len(list(out.rglob("*_pixelmaps/*.png"))) == 2
