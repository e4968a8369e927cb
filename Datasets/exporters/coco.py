"""COCO: JSON files of images, annotations and categories, the images beside them; see Datasets/format/coco.py.

    annotations/instances_SPLIT.json    images with boxes, also those in which there is nothing; loads in pycocotools
    annotations/stuff_SPLIT.json        images with a semantic mask, one annotation for each class in it, as a crowd
    annotations/stuff_SPLIT_pixelmaps/  the masks as they are, named by image id; a pixel's value is its category's id
    annotations/image_info_SPLIT.json   images of which neither is known: among the others they would count as empty
    images/SPLIT/SOURCE/...             the image files, as delivered; `file_name` begins after SPLIT

Segmentations are compressed run lengths. A reader that ignores EXIF orientation sees other pixels than the annotators
did, where an image has one. The version in `info` is the fingerprint of the curated dataset.

COCO cannot express: labels and counts without boxes; that images hold nothing where no image of the split holds
anything (a file without annotations is one that nobody annotated yet); which images belong together (group).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import msgspec
from pycocotools import mask as coco_mask

from Datasets.exporters.files import UNBOXED, Names, is_more_known, mask_pixels, write_file
from Datasets.format.coco import Document, Entry, object_entry, stuff_entries
from Datasets.format.curated import Curated
from Datasets.format.records import Box, Record


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
        found["instances"] = [_object(box, dataset) for box in record["boxes"]]
    if record["mask"] is not None:
        found["stuff"] = list(stuff_entries(mask_pixels(record)))
    return found or {"image_info": []}


def _object(box: Box, dataset: Curated) -> Entry:
    entry, segmentation = object_entry(box, dataset.classes), box["segmentation"]
    if segmentation is None:
        return entry
    return {**entry, "area": int(coco_mask.area(segmentation)), "segmentation": segmentation}
