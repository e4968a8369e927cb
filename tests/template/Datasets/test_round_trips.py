"""What an exporter writes, our own importer reads again: all that the format can say, of every image."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from Data_processing.import_source import check_paths, read_annotations
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import Imported, ImportOptions
from Data_processing.shared.outlines import to_rle
from Datasets.export import Format as Exported
from Datasets.export import main as export
from Datasets.exporters.voc import objects
from Datasets.format.classes import read_classes
from Datasets.format.curated import Curated
from Datasets.format.images import open_image
from Datasets.format.records import Record, empty_record, implied
from tests.template.Datasets.random_datasets import CLASSES, datasets, write_dataset
from tests.template.Datasets.test_exporters import rows, same_boxes

quickly = settings(max_examples=8, suppress_health_check=list(HealthCheck))


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
    """What the COCO API reads: each image's file is there, each area is that of what is drawn."""
    for file in (out / "annotations").glob("*.json"):
        coco = COCO(file)
        for image in coco.imgs.values():
            assert (out / "images" / file.stem.rpartition("_")[2] / image["file_name"]).exists()
        for annotation in coco.anns.values():
            drawn, (*_, width, height) = annotation.get("segmentation"), annotation["bbox"]
            assert annotation["area"] == (coco.annToMask(annotation).sum() if drawn else width * height)


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


@quickly
@given(datasets(most=10))
def test_yolo_gives_back_boxes_or_segmentations_that_are_no_crowds_and_splits(content):
    labelled = {record["split"] for record in content if record["boxes"] is not None}
    assume(labelled)
    with there_and_back(content, "yolo") as (dataset, _, found):
        known = rows(dataset)
        assert found.keys() == known.keys()
        for data, record in known.items():
            row = found[data]
            assert row.split == record["split"]
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
            if row is None:
                continue
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
