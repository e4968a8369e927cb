"""Export the curated dataset to other tools: as COCO, YOLO, Pascal VOC or the JSON interchange form, with its images.

    python -m Datasets.export --curated Datasets/curated --to coco --out DIR [--split train --split val]

Image files are written as they were delivered, byte by byte. Datasets/exporters/README.md lists the files of each
format. The command prints how much there was that the format cannot express.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec
import typer

from Datasets.exporters import voc, yolo
from Datasets.exporters.files import UNBOXED, Names, is_more_known, write_file
from Datasets.format.classes import write_classes
from Datasets.format.coco import Document, Entry, object_entry, stuff_entries
from Datasets.format.curated import Curated
from Datasets.format.images import read_mask
from Datasets.format.records import SPLITS, Record, write_json
from Datasets.tools.atomic import replacing
from Datasets.tools.command import progress, run
from Datasets.tools.errors import UserError


def write_coco(directory: Path, dataset: Curated, splits: Sequence[str], lost: Counter[str]) -> Iterator[Record]:
    """Write JSON files of images, annotations and categories, beside the images.

    COCO cannot express labels and counts without boxes, nor that the images of a split all hold nothing.
    """
    numbers = count(1)
    version = dataset.fingerprint()
    for split in splits:
        names, documents = Names(), dict[str, Document]()
        for record, data in zip(dataset.records(split), dataset.images(split), strict=True):
            number, name = next(numbers), names.keep(record["image"])
            write_file(directory / "images" / split / name, data)
            found = coco_annotations(record, dataset)
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


def coco_annotations(record: Record, dataset: Curated) -> dict[str, list[Entry]]:
    """The annotations by the kind of file: an image of which nothing is known must not look like an empty one."""
    found = {}
    if record["boxes"] is not None:
        found["instances"] = [object_entry(box, dataset.classes) for box in record["boxes"]]
    if record["mask"] is not None:
        found["stuff"] = list(stuff_entries(read_mask(record["mask"]["bytes"])))
    return found or {"image_info": []}


def write_json_form(directory: Path, dataset: Curated, splits: Sequence[str], lost: Counter[str]) -> Iterator[Record]:
    """Write the form of Datasets/format/records.py, images and masks beside it.

    JSON cannot express size, hash, group, segmentations, and that a box is a crowd's: it becomes one like any other.
    """
    names = Names()
    written = []
    for split in splits:
        for record, data in zip(dataset.records(split), dataset.images(split), strict=True):
            image, mask = names.keep(f"images/{split}/{record['image']}"), None
            write_file(directory / image, data)
            if record["mask"] is not None:
                path = names.keep(f"masks/{split}/{PurePosixPath(record['image']).with_suffix('.png')}")
                mask = {"bytes": None, "path": path}
                write_file(directory / path, record["mask"]["bytes"])
            written.append(Record(**{**record, "image": image, "mask": mask}))
            lost["crowds, written as boxes like any other"] += sum(box["crowd"] for box in record["boxes"] or [])
            lost["segmentations"] += sum(box["segmentation"] is not None for box in record["boxes"] or [])
            yield record
    write_json(written, directory / "metadata.json")
    write_classes(dataset.classes, directory / "classes.json")


Format = StrEnum("Format", ["coco", "yolo", "voc", "json"])
# Each writes splits, yields a record once its image is written, and counts what its format cannot express
WRITERS = {Format.coco: write_coco, Format.yolo: yolo.write, Format.voc: voc.write, Format.json: write_json_form}


def chosen_splits(dataset: Curated, wanted: Sequence[str]) -> dict[str, int]:
    """The splits to write and how many images each has: those wanted, or else all that are not empty.

    Raises UserError for a wanted split that is empty or unknown, and if there are no images.
    """
    numbers = {split: number for split in SPLITS if (number := len(dataset.images(split)))}
    if not numbers:
        raise UserError(f"{dataset.directory}: holds no images; run the curate stage, or `dvc pull`")
    for split in wanted:
        if split not in numbers:
            raise UserError(f"--split {split}: {dataset.directory} has images in {', '.join(numbers)}")
    return {split: number for split, number in numbers.items() if not wanted or split in wanted}


def main(
    to: Annotated[Format, typer.Option(help="the format")],
    out: Annotated[Path, typer.Option(help="directory to write; must not exist, or be empty")],
    curated: Annotated[Path, typer.Option(help="the curated dataset")] = Path("Datasets/curated"),
    split: Annotated[list[str] | None, typer.Option(help="train, val or test; can be repeated. Default: all")] = None,
) -> None:
    """Write the curated dataset in another tool's format, with its image files."""
    dataset = Curated(curated)
    splits = chosen_splits(dataset, split or [])
    lost: Counter[str] = Counter()
    with replacing(out.resolve()) as partial:
        partial.mkdir()
        records = WRITERS[to](partial, dataset, list(splits), lost)
        for _ in progress(records, sum(splits.values()), "export", "images"):
            pass
    print(f"{out}: " + ", ".join(f"{number} {name}" for name, number in splits.items()) + f" images as {to.value}")
    for what, number in lost.items():
        if number:
            print(f"{to.value} cannot express: {what}: {number}")


if __name__ == "__main__":
    run(main)
