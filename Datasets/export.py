"""Export the curated dataset to other tools: in COCO, YOLO, Pascal VOC or the JSON interchange form, with its images.

    python -m Datasets.export --curated Datasets/curated --to coco --out DIR [--split train --split val]

Reads the shards and classes.json. Image files are written as they were delivered, byte by byte. Each format's module in
Datasets/exporters says what it writes and what it cannot say; how much of the latter there was is printed.
"""

import importlib
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from Datasets.format.curated import Curated
from Datasets.format.records import SPLITS
from Datasets.tools.atomic import replacing
from Datasets.tools.command import progress, run
from Datasets.tools.errors import UserError


class Format(StrEnum):
    """The formats, each a module of Datasets.exporters."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    json = "json"


def chosen_splits(dataset: Curated, wanted: Sequence[str]) -> dict[str, int]:
    """The splits to write and how many images each has: those wanted, or else all that are not empty.

    Raises UserError for a wanted split that is none of ours or empty, and if nothing is left.
    """
    numbers = {split: len(dataset.images(split)) for split in SPLITS}
    filled = {split: number for split, number in numbers.items() if number}
    for split in wanted:
        if split not in filled:
            raise UserError(f"--split {split}: {dataset.directory} has images in {', '.join(filled) or 'no split'}")
    if not filled:
        raise UserError(f"{dataset.directory}: holds no images; run the curate stage, or `dvc pull`")
    return {split: number for split, number in filled.items() if not wanted or split in wanted}


def check_target(out: Path) -> None:
    """Raise UserError if `out` holds something: an export by hand must not delete what nobody versions."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"--out {out}: exists already; delete it first, or name another directory")


def main(
    to: Annotated[Format, typer.Option(help="the format")],
    out: Annotated[Path, typer.Option(help="directory to write; must not exist, or be empty")],
    curated: Annotated[Path, typer.Option(help="the curated dataset")] = Path("Datasets/curated"),
    split: Annotated[list[str] | None, typer.Option(help="train, val or test; can be repeated. Default: all")] = None,
) -> None:
    """Write the curated dataset in another tool's format, with its image files."""
    check_target(out)
    dataset = Curated(curated)
    splits = chosen_splits(dataset, split or [])
    exporter = importlib.import_module(f"Datasets.exporters.{to.value}")
    lost: Counter[str] = Counter()
    with replacing(out.resolve()) as partial:
        partial.mkdir()
        for _ in progress(
            exporter.write(partial, dataset, list(splits), lost), sum(splits.values()), "export", "images"
        ):
            pass
    print(f"{out}: " + ", ".join(f"{number} {name}" for name, number in splits.items()) + f" images as {to.value}")
    for what, number in lost.items():
        if number:
            print(f"{to.value} cannot say: {what}: {number}")


if __name__ == "__main__":
    run(main)
