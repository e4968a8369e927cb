"""COCO: JSON files of images, annotations and categories; README.md lists the files.

COCO cannot express labels and counts without boxes, nor that the images of a split all hold nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import msgspec

from Datasets.exporters.files import UNBOXED, Names, is_more_known, mask_pixels, write_file
from Datasets.format.coco import Document, Entry, object_entry, stuff_entries
from Datasets.format.curated import Curated
from Datasets.format.records import Record


def write(directory: Path, dataset: Curated, splits: Sequence[str], lost: Counter[str]) -> Iterator[Record]:
    """Write `splits`, yielding each record once its image is written; count in `lost` what COCO cannot express."""
    numbers = count(1)
    version = dataset.fingerprint()
    for split in splits:
        names, documents = Names(), dict[str, Document]()
        for record, data in zip(dataset.records(split), dataset.images(split), strict=True):
            number, name = next(numbers), names.keep(record["image"])
            write_file(directory / "images" / split / name, data)
            found = _annotations(record, dataset)
            for kind, annotations in found.items():
                documents.setdefault(kind, Document(dataset.classes)).add(number, name, record, annotations)
            if record["mask"] is not None:
                pixelmap = directory / f"annotations/stuff_{split}_pixelmaps/{number:012d}.png"
                write_file(pixelmap, record["mask"]["bytes"])
            annotated = {annotation["category_id"] - 1 for part in found.values() for annotation in part}
            lost[UNBOXED] += is_more_known(record, annotated, dataset.classes)
            yield record
        header = {"info": {"description": f"{split} split", "version": version}, "licenses": []}
        for kind, document in documents.items():
            if kind == "instances" and not document.annotations:
                lost["images that hold nothing, in a split without a box"] += len(document.images)
            content = {**header, **document.content()}
            write_file(directory / f"annotations/{kind}_{split}.json", msgspec.json.encode(content))


def _annotations(record: Record, dataset: Curated) -> dict[str, list[Entry]]:
    """The annotations by the kind of file: an image of which nothing is known must not look like an empty one."""
    found = {}
    if record["boxes"] is not None:
        found["instances"] = [object_entry(box, dataset.classes) for box in record["boxes"]]
    if record["mask"] is not None:
        found["stuff"] = list(stuff_entries(mask_pixels(record)))
    return found or {"image_info": []}
