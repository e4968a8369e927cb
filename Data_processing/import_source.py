"""Import one source: its annotations, in whatever format, become records.

    python -m Data_processing.import_source --source digits --format coco --path Datasets/raw/digits --out FILE

Reads annotation files only, from a directory or straight out of a .zip or .tar. Writes a Parquet file of records as the
source states them (see imported.py); nothing is judged here, that is the clean stage's work.
"""

import gc
import importlib
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from Data_processing.imported import Imported, ImportOptions, write_imported
from Data_processing.source_files import folder_name, open_source
from Datasets.atomic import replacing
from Datasets.command import run
from Datasets.errors import UserError
from Datasets.records import is_safe_path


class Format(StrEnum):
    """The annotation formats, each a module of Data_processing.importers."""

    coco = "coco"
    voc = "voc"
    yolo = "yolo"
    folders = "folders"
    csv = "csv"
    parquet = "parquet"
    json = "json"
    labelme = "labelme"
    cvat = "cvat"
    label_studio = "label_studio"


def check_paths(rows: Iterable[Imported]) -> Iterator[Imported]:
    """Mark records whose image lies outside the source."""
    for row in rows:
        if not is_safe_path(row.image):
            row.problems.append(("outside the source", f"{row.image!r}"))
        yield row


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """`["image=filename"]` as `{"image": "filename"}`. Raises UserError for a part that is no pair, or a second one."""
    columns: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs) or ours in columns:
            raise UserError(f"columns: {pair!r} is not of the form OURS=THEIRS, or the second one for {ours!r}")
        columns[ours] = theirs
    return columns


def main(
    source: Annotated[str, typer.Option(help="the source's name")],
    format: Annotated[Format, typer.Option(help="its annotation format")],
    path: Annotated[Path, typer.Option(help="directory, .zip or .tar")],
    out: Annotated[Path, typer.Option(help="Parquet file to write")],
    annotations: Annotated[str | None, typer.Option(help="the annotation file, or the folder of them")] = None,
    images: Annotated[str | None, typer.Option(help="folder of the images; `.` for the source itself")] = None,
    preset: Annotated[str | None, typer.Option(help="csv: tensorflow or openimages")] = None,
    columns: Annotated[list[str] | None, typer.Option(help="csv: OURS=THEIRS, for each column")] = None,
    normalized: Annotated[bool | None, typer.Option(help="csv: boxes in fractions of the size")] = None,
    delimiter: Annotated[str | None, typer.Option(help="csv: between fields; tab")] = None,
) -> None:
    """Read a source's annotations into records."""
    if not re.fullmatch(r"(?!no-)[A-Za-z][\w-]*", source):
        raise UserError(f"source {source!r}: a name has letters, digits, - and _ only, and begins with a letter")
    gc.disable()  # collecting would walk millions of new objects again and again, and there are no cycles to find
    files = open_source(path)
    importer = importlib.import_module(f"Data_processing.importers.{format.value}")
    folder = None if images is None else folder_name(images)
    of_table = (parse_columns(columns or ()), preset, normalized, delimiter)
    if of_table != ({}, None, None, None) and format is not Format.csv:
        raise UserError(f"{format.value}: columns, preset, normalized and delimiter belong to the format csv")
    options = ImportOptions(annotations, folder, *of_table)
    found = importer.find(files, options)
    with replacing(out) as partial:
        folder, rows = importer.read(files, found, options)
        count = write_imported(check_paths(rows), source, partial, source_path=path, images=folder)
    print(f"{source}: {count} records from {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}")


if __name__ == "__main__":
    run(main)
