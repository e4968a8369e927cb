"""Importing annotations, against the fastest bare reading of the same files.

    python -m tests.benchmarks.bench_import [--images 118287] [--rounds 3]

COCO against pycocotools' `COCO()`; VOC, YOLO and CSV against no more than their parsing: lxml, splitting lines into
floats, csv.reader. Where DATUMARO_PYTHON names the interpreter of an environment with Datumaro, which holds back
packages of this project,

    python -m venv /tmp/datum && /tmp/datum/bin/pip install datumaro

Datumaro imports the same files too, in turns with the others, and VOC and YOLO are compared with it; it reads no tables
of boxes, so CSV keeps its bare reading.
"""

import argparse
import csv
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmarks.generated import BOXES, IMAGES, write_coco, write_csv, write_voc, write_yolo
from tests.benchmarks.measuring import Cost, Figure, alternated, cost, python

FORMATS = {"voc": "lxml alone", "yolo": "lines split into floats", "csv": "csv.reader alone"}
COCO_FILE = Path("annotations/instances_train.json")
DATUMARO = """
import sys
from datumaro import Dataset

items = boxes = 0
for item in Dataset.import_from(sys.argv[2], sys.argv[1]):
    items, boxes = items + 1, boxes + len(item.annotations)
assert items == int(sys.argv[3]) and boxes > items, (items, boxes)
"""
DATUMARO_FORMATS = {"coco": "coco_instances", "voc": "voc_detection", "yolo": "yolo"}
SMALL = 20_000  # images as VOC and YOLO, which are a file each


def read_coco(directory: Path) -> None:
    """The reference for COCO."""
    from pycocotools.coco import COCO

    COCO(str(directory / COCO_FILE))


def read_voc(directory: Path) -> None:
    """Each file as a tree."""
    from lxml import etree

    for file in sorted(directory.rglob("*.xml")):
        etree.fromstring(file.read_bytes())


def read_yolo(directory: Path) -> None:
    """Each line as numbers."""
    for file in sorted(directory.rglob("labels/*.txt")):
        for line in file.read_text().splitlines():
            list(map(float, line.split()))


def read_csv(directory: Path) -> None:
    """Each row as texts."""
    with (directory / "boxes.csv").open(newline="") as file:
        for _ in csv.reader(file):
            pass


def figures(images: int = IMAGES, rounds: int = 3) -> Iterator[Figure]:
    """Measure all formats."""
    datumaro = os.environ.get("DATUMARO_PYTHON")
    small = min(images, SMALL)
    with tempfile.TemporaryDirectory() as temporary:
        yield _coco(Path(temporary, "coco"), images, rounds, datumaro)
        for name, number, write in (("voc", small, write_voc), ("yolo", small, write_yolo), ("csv", images, write_csv)):
            directory = Path(temporary, name)
            write(directory, number)
            found = _measured(directory, name, rounds, number, datumaro)
            ours, against = found["ours"], found.get("Datumaro", found["bare"])
            yield Figure(
                f"import of {number:,} images as {name.upper()}",
                "Datumaro" if "Datumaro" in found else FORMATS[name],
                f"{against.seconds / ours.seconds:.2f} of its speed, "
                f"{against.processor / ours.processor:.2f} by processor time",
                "",
                _paces(found, number),
            )


def _paces(found: dict[str, Cost], number: int) -> str:
    paces = (f"{name} {number / cost.seconds:,.0f}" for name, cost in found.items())
    return f"records a second: {', '.join(paces)}"


def _coco(directory: Path, images: int, rounds: int, datumaro: str | None) -> Figure:
    boxes = BOXES * images // IMAGES
    for folder in (COCO_FILE.parent, "images"):  # Datumaro asks for the latter, even if it is empty
        (directory / folder).mkdir(parents=True)
    write_coco(directory / COCO_FILE, images, boxes)
    found = _measured(directory, "coco", rounds, images, datumaro)
    bare, ours = found["bare"], found["ours"]
    return Figure(
        f"import of {images:,} images, {boxes:,} boxes with polygons as COCO",
        "pycocotools.coco.COCO() alone",
        f"{bare.seconds / ours.seconds:.1f} times as fast, {bare.processor / ours.processor:.1f} by processor time; "
        f"{ours.memory / bare.memory:.2f} of its memory",
        "3 times, below its memory",
        f"{ours.seconds:.1f} s and {ours.memory:.0f} MB against {bare.seconds:.1f} s and {bare.memory:.0f} MB; "
        + _paces(found, images),
    )


def _measured(directory: Path, name: str, rounds: int, images: int, datumaro: str | None) -> dict[str, Cost]:
    out = directory.with_suffix(".parquet")
    options = ("--source", "s", "--format", name, "--path", directory, "--out", out)
    bare = python("tests.benchmarks.bench_import", "--bare", name, "--directory", directory)
    measured = {"ours": python("Data_processing.import_source", *options), "bare": bare}
    if datumaro and name in DATUMARO_FORMATS:
        measured["Datumaro"] = [datumaro, "-c", DATUMARO, DATUMARO_FORMATS[name], str(directory), str(images)]
    return alternated(rounds, **{each: partial(cost, command) for each, command in measured.items()})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure the importers.")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", choices=("coco", "voc", "yolo", "csv"), help="only read --directory, barely")
    parser.add_argument("--directory", type=Path, default=Path())
    options = parser.parse_args()
    if options.bare:
        {"coco": read_coco, "voc": read_voc, "yolo": read_yolo, "csv": read_csv}[options.bare](options.directory)
        return
    for figure in figures(options.images, options.rounds):
        print(figure)


if __name__ == "__main__":
    main()
