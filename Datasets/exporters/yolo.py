"""YOLO: a text file of boxes for each image, and a data.yaml that names folders and classes.

Specification: https://docs.ultralytics.com/datasets/detect/.

    data.yaml                  the folders of the splits, and the class names by id
    images/SPLIT/NAME.jpg      the image files, as delivered; NAME is the record's path with `_` for `/`, since readers
                               look for labels in the path with its last `images` replaced
    labels/SPLIT/NAME.txt      a line an object: class id, centre x, centre y, width, height, as shares of the image's
                               sides, in 15 digits; an empty file says that there is nothing

data.yaml has no `path`, which then is the folder of data.yaml itself, wherever that is moved. The sides are those of
the upright image: a reader that ignores EXIF orientation sees other pixels than the annotators did.

YOLO cannot express: crowds (left out, since a reader would take one for an object); segmentations; masks; labels and
counts without boxes; whether an image without objects is known to be empty (an image without known boxes has no text
file here, but readers take it for empty); sources, groups and sizes. Ultralytics ignores file types such as .gif, and
refuses a data.yaml without train or val: both are counted.
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
            lost.update(_losses(record, dataset.classes))
            lost["images of types that Ultralytics ignores"] += PurePosixPath(name).suffix.lower() not in READ
            yield record
    lost["splits that Ultralytics requires, and that are not there"] = len({"train", "val"}.difference(splits))
    write_file(directory / "data.yaml", _data_yaml(splits, dataset.classes).encode())


def _data_yaml(splits: Sequence[str], classes: Mapping[str, int]) -> str:
    """Names are quoted as in JSON, or readers of YAML 1.1 take one like `no` for a truth value."""
    folders = "".join(f"{split}: images/{split}\n" for split in splits)
    return f"{folders}names: {json.dumps(list(classes), ensure_ascii=False)}\n"


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


def _losses(record: Record, classes: Mapping[str, int]) -> Counter[str]:
    boxes = record["boxes"] or []
    return Counter(
        {
            "crowds": sum(box["crowd"] for box in boxes),
            "segmentations": sum(box["segmentation"] is not None for box in boxes),
            "masks": int(record["mask"] is not None),
            "images without known boxes, which readers take for empty": int(record["boxes"] is None),
            UNBOXED: int(is_more_known(record, {classes[box["name"]] for box in boxes}, classes)),
        }
    )
