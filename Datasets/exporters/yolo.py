"""YOLO: a text file of boxes for each image, and a data.yaml that names folders and classes; README.md lists the files.

YOLO cannot express crowds, segmentations, masks, labels and counts without boxes, nor whether an image without objects
is known to be empty.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from Datasets.exporters.files import UNBOXED, Names, is_more_known, write_file
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
    """A line for each box that is no crowd."""
    width, height = record["width"] or 1, record["height"] or 1
    lines = []
    for box in record["boxes"] or []:
        x1, y1, x2, y2 = box["x1"] / width, box["y1"] / height, box["x2"] / width, box["y2"] / height
        shares = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        if not box["crowd"]:
            lines.append(f"{classes[box['name']]} {' '.join(f'{share:.15g}' for share in shares)}\n")
    return "".join(lines)


def _count_losses(record: Record, classes: Mapping[str, int], lost: Counter[str]) -> None:
    boxes = record["boxes"] or []
    lost["crowds"] += sum(box["crowd"] for box in boxes)
    lost["segmentations"] += sum(box["segmentation"] is not None for box in boxes)
    lost["masks"] += record["mask"] is not None
    lost["images without known boxes, which readers take for empty"] += record["boxes"] is None
    lost[UNBOXED] += is_more_known(record, {classes[box["name"]] for box in boxes}, classes)
