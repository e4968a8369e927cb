"""COCO: JSON files of images, annotations and categories, the images beside them.

Specification: https://cocodataset.org/#format-data.

    annotations/instances_SPLIT.json    images with boxes, also those in which there is nothing; loads in pycocotools
    annotations/stuff_SPLIT.json        images with a semantic mask, one annotation for each class in it
    annotations/stuff_SPLIT_pixelmaps/  the masks as they are, named by image id; a pixel's value is its category's id
    annotations/image_info_SPLIT.json   images of which neither is known: among the others they would count as empty
    images/SPLIT/SOURCE/...             the image files, as delivered; `file_name` begins after SPLIT

A box is [x, y, width, height] in pixels of the upright image, 0 at the outer edge of the first pixel; a segmentation is
compressed run lengths, or missing; area is the segmentation's, or else the box's. Category ids are class ids + 1. A
reader that ignores EXIF orientation sees other pixels than the annotators did, where an image has one.

`info` names the sources, and in `version` the fingerprint of the curated dataset.

What it cannot say: labels and counts that no boxes stand behind, that images hold nothing where no image of the split
holds anything (a file without annotations is one that nobody annotated yet), and which images belong together (group).
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from Datasets.exporters.names import Names
from Datasets.exporters.rows import UNBOXED, is_more_known, mask_pixels, rows, write_file
from Datasets.format.curated import Curated
from Datasets.format.records import Box, Record, Rle

Entry = dict[str, Any]


def write(directory: Path, dataset: Curated, splits: Sequence[str], lost: Counter[str]) -> Iterator[Record]:
    """Write `splits`, yielding each record once its image is written; count in `lost` what COCO cannot say."""
    image_ids, annotation_ids = count(1), count(1)
    version = dataset.fingerprint()
    for split in splits:
        names, sources, files = Names(), set[str](), dict[str, dict[str, list[Entry]]]()
        for record, data in rows(dataset, split):
            name = names.keep(record["image"])
            write_file(directory / "images" / split / name, data)
            image = {"id": next(image_ids), "file_name": name, "width": record["width"], "height": record["height"]}
            found = _annotations(record, dataset)
            for kind, annotations in found.items():
                lists = files.setdefault(kind, {"images": [], "annotations": []})
                lists["images"].append(image)
                lists["annotations"] += [
                    {"id": next(annotation_ids), "image_id": image["id"], **a} for a in annotations
                ]
            if record["mask"] is not None:
                pixelmap = directory / f"annotations/stuff_{split}_pixelmaps/{image['id']:012d}.png"
                write_file(pixelmap, record["mask"]["bytes"])
            annotated = {annotation["category_id"] - 1 for part in found.values() for annotation in part}
            lost[UNBOXED] += is_more_known(record, annotated, dataset.classes)
            sources.add(record["source"])
            yield record
        info = {"description": f"curated from {', '.join(sorted(sources))}; {split} split", "version": version}
        header = {"info": info, "licenses": [], "categories": _categories(dataset)}
        for kind, lists in files.items():
            if kind == "instances" and not lists["annotations"]:
                lost["images that hold nothing, in a split without a box"] += len(lists["images"])
            write_file(directory / f"annotations/{kind}_{split}.json", msgspec.json.encode({**header, **lists}))


def _categories(dataset: Curated) -> list[Entry]:
    return [{"id": number + 1, "name": name, "supercategory": ""} for name, number in dataset.classes.items()]


def _annotations(record: Record, dataset: Curated) -> dict[str, list[Entry]]:
    """What belongs into which kind of file: an image of which nothing is known must not look like an empty one."""
    found = {}
    if record["boxes"] is not None:
        found["instances"] = [_instance(box, dataset.classes[box["name"]] + 1) for box in record["boxes"]]
    if record["mask"] is not None:
        found["stuff"] = _stuff(mask_pixels(record, len(dataset.classes)))
    return found or {"image_info": []}


def _instance(box: Box, category: int) -> Entry:
    width, height = _extent(box["x1"], box["x2"]), _extent(box["y1"], box["y2"])
    annotation = {"category_id": category, "bbox": [box["x1"], box["y1"], width, height], "iscrowd": int(box["crowd"])}
    if box["segmentation"] is None:
        return {**annotation, "area": width * height}
    return {**annotation, "area": _area(box["segmentation"]), "segmentation": box["segmentation"]}


def _extent(first: float, last: float) -> float:
    """The difference of two edges, such that adding it to the first gives the last again, rounding and all."""
    extent = last - first
    near = (extent, math.nextafter(extent, 0), math.nextafter(extent, math.inf))
    return next((value for value in near if first + value == last), extent)


def _stuff(mask: np.ndarray) -> list[Entry]:
    """An annotation for each class of a mask [H, W]."""
    found = []
    for category in np.unique(mask[mask > 0]).tolist():
        rle = coco_mask.encode(np.asfortranarray((mask == category).astype(np.uint8)))
        segmentation = Rle(size=rle["size"], counts=rle["counts"].decode("ascii"))
        box = {"bbox": coco_mask.toBbox(rle).tolist(), "iscrowd": 0, "area": _area(segmentation)}
        found.append({"category_id": category, **box, "segmentation": segmentation})
    return found


def _area(rle: Rle) -> int:
    return int(coco_mask.area(rle))
