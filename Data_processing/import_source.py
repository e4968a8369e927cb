"""Import one source: its annotations, in whatever format, become records.

    python -m Data_processing.import_source --source digits --format coco --path Datasets/raw/digits --out FILE

Reads annotation files only, from a directory or straight out of a .zip or .tar. Writes a Parquet file of records as the
source states them (see imported.py); nothing is judged here, that is the clean stage's work. `annotations` with a `*`,
such as `annotations/instances_*.json`, means all files that match: each file's name or folder then says the split.
"""

import gc
import importlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from Data_processing.shared.imported import Imported, ImportOptions, write_imported
from Data_processing.sources.annotation_files import matching, split_of
from Data_processing.sources.files import SourceFiles, folder_name, open_source
from Datasets.format.records import is_safe_path
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError


class Format(StrEnum):
    """The annotation formats, each a module of Data_processing.readers."""

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
    datumaro = "datumaro"


# The options that add_source.py has, too.
AnnotationsOption = Annotated[str | None, typer.Option(help="the annotation file, or the folder; * for any text")]
ImagesOption = Annotated[str | None, typer.Option(help="folder of the images; `.` for the source itself")]
PresetOption = Annotated[str | None, typer.Option(help="csv: tensorflow, vott or openimages; datumaro: its name")]
ColumnsOption = Annotated[list[str] | None, typer.Option(help="csv: OURS=THEIRS, for each column")]
NormalizedOption = Annotated[bool | None, typer.Option(help="csv: boxes in fractions of the size")]
DelimiterOption = Annotated[str | None, typer.Option(help="csv: between fields; tab")]


def check_source_name(name: str) -> None:
    """Raise UserError if a source cannot be called this."""
    if not re.fullmatch(r"(?!no-)[A-Za-z][\w-]*", name):
        raise UserError(f"source {name!r}: a name has letters, digits, - and _ only, and begins with a letter")


def read_annotations(
    files: SourceFiles, form: Format, options: ImportOptions
) -> tuple[list[str], str, Iterator[Imported]]:
    """The annotation files, the folder that the images are in, and the records. Raises UserError."""
    importer = importlib.import_module(f"Data_processing.readers.{form.value}")
    if "*" not in (options.annotations or "") or options.annotations in files.names():
        found = importer.find(files, options)
        return found, *importer.read(files, found, options)
    named = matching(files, options.annotations or "")
    each = [replace(options, annotations=file) for file in named]
    parts = [importer.read(files, importer.find(files, part), part) for part in each]
    rows = (_with_split(rows, split_of(file)) for file, (_, rows) in zip(named, parts, strict=True))
    return named, posixpath.commonpath([folder for folder, _ in parts]), chain.from_iterable(rows)


def _with_split(rows: Iterable[Imported], split: str | None) -> Iterator[Imported]:
    for row in rows:
        row.split = row.split or split
        yield row


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


def check_options(
    form: Format, columns: Mapping[str, str], preset: str | None, normalized: bool | None, delimiter: str | None
) -> None:
    """Raise UserError if options are given that this format has not."""
    if form is not Format.csv and (columns or normalized is not None or delimiter):
        raise UserError(f"{form.value}: columns, normalized and delimiter belong to the format csv")
    if form not in (Format.csv, Format.datumaro) and preset:
        raise UserError(f"{form.value}: preset belongs to the formats csv and datumaro")


def main(
    source: Annotated[str, typer.Option(help="the source's name")],
    format: Annotated[Format, typer.Option(help="its annotation format")],
    path: Annotated[Path, typer.Option(help="directory, .zip or .tar")],
    out: Annotated[Path, typer.Option(help="Parquet file to write")],
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    preset: PresetOption = None,
    columns: ColumnsOption = None,
    normalized: NormalizedOption = None,
    delimiter: DelimiterOption = None,
) -> None:
    """Read a source's annotations into records."""
    check_source_name(source)
    gc.disable()  # collecting would walk millions of new objects again and again, and there are no cycles to find
    pa.set_memory_pool(pa.system_memory_pool())  # which keeps pages for the next batch, where others give them back
    files = open_source(path)
    folder = None if images is None else folder_name(images)
    of_table = (parse_columns(columns or ()), preset, normalized, delimiter)
    check_options(format, *of_table)
    with replacing(out) as partial:
        found, folder, rows = read_annotations(files, format, ImportOptions(annotations, folder, *of_table))
        count = write_imported(check_paths(rows), source, partial, source_path=path, images=folder)
    print(f"{source}: {count} records from {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}")


if __name__ == "__main__":
    run(main)
