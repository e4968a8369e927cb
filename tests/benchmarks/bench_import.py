"""Importing annotations, against the fastest bare reading of the same files.

    python -m tests.benchmarks.bench_import [--images 118287] [--rounds 3]

COCO against pycocotools' `COCO()`. Datumaro holds back pandas and pyarrow and cannot be installed beside them, so VOC,
YOLO and CSV are measured against no more than their parsing: lxml, splitting lines into floats, csv.reader.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmarks.generated import BOXES, IMAGES, write_coco, write_csv, write_voc, write_yolo
from tests.benchmarks.measuring import Cost, Figure, alternated, cost, python

SMALL = 20_000  # images as VOC and YOLO, which are a file each


def read_coco(directory: Path) -> None:
    """The reference for COCO."""
    from pycocotools.coco import COCO

    COCO(str(directory / "instances.json"))


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
    small = min(images, SMALL)
    with tempfile.TemporaryDirectory() as temporary:
        yield _coco(Path(temporary, "coco"), images, rounds)
        for name, number, write in (("voc", small, write_voc), ("yolo", small, write_yolo), ("csv", images, write_csv)):
            directory = Path(temporary, name)
            write(directory, number)
            found = _measured(directory, name, rounds)
            bare, ours = found["bare"], found["ours"]
            yield Figure(
                f"import of {number:,} images as {name.upper()}",
                {"voc": "lxml alone", "yolo": "lines split into floats", "csv": "csv.reader alone"}[name],
                f"{bare.seconds / ours.seconds:.2f} of its speed",
                "",
                f"{number / ours.seconds:,.0f} records a second, bare {number / bare.seconds:,.0f}",
            )


def _coco(directory: Path, images: int, rounds: int) -> Figure:
    boxes = BOXES * images // IMAGES
    directory.mkdir()
    write_coco(directory / "instances.json", images, boxes)
    found = _measured(directory, "coco", rounds)
    bare, ours = found["bare"], found["ours"]
    return Figure(
        f"import of {images:,} images, {boxes:,} boxes with polygons as COCO",
        "pycocotools.coco.COCO() alone",
        f"{bare.seconds / ours.seconds:.1f} times as fast, {bare.processor / ours.processor:.1f} by processor time; "
        f"{ours.memory / bare.memory:.2f} of its memory",
        "5 times, below its memory",
        f"{ours.seconds:.1f} s and {ours.memory:.0f} MB against {bare.seconds:.1f} s and {bare.memory:.0f} MB",
    )


def _measured(directory: Path, name: str, rounds: int) -> dict[str, Cost]:
    out = directory.with_suffix(".parquet")
    options = ("--source", "s", "--format", name, "--path", directory, "--out", out)
    bare = python("tests.benchmarks.bench_import", "--bare", name, "--directory", directory)
    return alternated(
        rounds, bare=partial(cost, bare), ours=partial(cost, python("Data_processing.import_source", *options))
    )


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
