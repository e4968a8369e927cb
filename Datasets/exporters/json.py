"""The JSON form of Datasets/format/records.py, images and masks beside it; README.md lists the files.

JSON cannot express size, hash, group, segmentations, and that a box is a crowd's, which becomes a box like any other.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from Datasets.exporters.files import Names, write_file
from Datasets.format.classes import write_classes
from Datasets.format.curated import Curated
from Datasets.format.records import Record, write_json


def write(directory: Path, dataset: Curated, splits: Sequence[str], lost: Counter[str]) -> Iterator[Record]:
    """Write `splits`, yielding each record once its image is written; count in `lost` what JSON cannot express."""
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
