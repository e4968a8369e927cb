"""YOLO: a text file of boxes or polygons for each image, and a data.yaml of folders and classes; see README.md.

YOLO cannot express crowds, masks, labels and counts without boxes, nor whether an image without objects is known to be
empty; nor boxes beside polygons, in one image.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from pycocotools import mask as coco_mask

from Datasets.exporters.files import UNBOXED, Names, is_more_known, write_file
from Datasets.format.coco import Rle
from Datasets.format.curated import Curated
from Datasets.format.records import Record

# By Ultralytics; https://docs.ultralytics.com/platform/data/datasets/
READ = {".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".avif"}


def write(directory: Path, dataset: Curated, splits: Sequence[str], lost: Counter[str]) -> Iterator[Record]:
    """Write `splits`, yielding each record once its image is written; count in `lost` what YOLO cannot express."""
    names = Names()
    for split in splits:
        (directory / "labels" / split).mkdir(parents=True)
        for record, data in zip(dataset.records(split), dataset.images(split), strict=True):
            name = names.flat(record["image"])
            write_file(directory / "images" / split / name, data)
            if record["boxes"] is not None:
                text = _lines(record, dataset.classes)
                write_file(directory / "labels" / split / f"{PurePosixPath(name).stem}.txt", text.encode())
            _count_losses(record, dataset.classes, lost)
            lost["images of types that Ultralytics ignores"] += PurePosixPath(name).suffix.lower() not in READ
            yield record
    lost["splits that Ultralytics requires, and that are not there"] = len({"train", "val"}.difference(splits))
    folders = "".join(f"{split}: images/{split}\n" for split in splits)
    classes = json.dumps(list(dataset.classes), ensure_ascii=False)  # or YAML 1.1 takes a name like `no` for a bool
    write_file(directory / "data.yaml", f"{folders}names: {classes}\n".encode())


def _lines(record: Record, classes: Mapping[str, int]) -> str:
    """A line for each box that is no crowd: polygons if one of them has a segmentation."""
    sides = record["width"] or 1, record["height"] or 1
    boxes = [box for box in record["boxes"] or [] if not box["crowd"]]
    drawn = any(box["segmentation"] for box in boxes)
    lines = []
    for box in boxes:
        x1, y1, x2, y2 = box["x1"], box["y1"], box["x2"], box["y2"]
        values = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        if drawn:
            values = polygon(box["segmentation"]) if box["segmentation"] else [x1, y1, x2, y1, x2, y2, x1, y2]
        shares = " ".join(f"{value / sides[index % 2]:.{8 if drawn else 15}g}" for index, value in enumerate(values))
        lines.append(f"{classes[box['name']]} {shares}\n")
    return "".join(lines)


def polygon(segmentation: Rle) -> list[float]:
    """The outline of a mask along the edges of its pixels, x1, y1, x2, y2, ..., in pixels.

    Parts and holes are joined by lines that lead there and back, and so enclose nothing.
    """
    left, top, width, height = map(int, coco_mask.toBbox(segmentation))
    mask = coco_mask.decode(segmentation)[top : top + height, left : left + width].astype(bool)
    loops = _loops(np.pad(mask, 1))
    joined = [point for loop in loops for point in (*loop, loop[0])] + [loop[0] for loop in loops[-2:0:-1]]
    points = joined if len(loops) > 1 else loops[0]
    return [value for point in points for value in (point.real + left - 1, point.imag + top - 1)]


def _loops(mask: np.ndarray) -> list[list[complex]]:
    """The corners x + y i of each outline, of parts clockwise and of holes the other way round."""
    edges = dict[tuple[complex, complex], None]()  # the corner that each begins at, and the step along it
    for step, corner in ((1, 0), (1j, 1), (-1, 1 + 1j), (-1j, 1j)):  # above a pixel, right of it, below, left of it
        beside = np.roll(mask, (int(step.real), -int(step.imag)), (0, 1))
        edges |= {(complex(x, y) + corner, step): None for y, x in np.argwhere(mask & ~beside).tolist()}
    loops = []
    while edges:
        point, step = next(iter(edges))
        loops.append([point])
        while (point, step) in edges:
            del edges[point, step]
            point += step
            turns = [turn for turn in (step * -1j, step * 1j) if (point, turn) in edges]
            if turns:  # to the left first, as pixels that touch at a corner are one part
                step = turns[0]
                loops[-1].append(point)
    return loops


def _count_losses(record: Record, classes: Mapping[str, int], lost: Counter[str]) -> None:
    boxes = record["boxes"] or []
    lost["crowds"] += sum(box["crowd"] for box in boxes)
    outlined = [box["segmentation"] is not None for box in boxes if not box["crowd"]]
    lost["boxes beside segmentations, which become rectangles among polygons"] += any(outlined) * outlined.count(False)
    lost["masks"] += record["mask"] is not None
    lost["images without known boxes, which readers take for empty"] += record["boxes"] is None
    lost[UNBOXED] += is_more_known(record, {classes[box["name"]] for box in boxes}, classes)
