"""Import one source: its annotations, in whatever format, become records.

    python -m Data_processing.import_source --source digits --format coco --path Datasets/raw/digits

Reads annotation files only, from a directory or straight out of a .zip or .tar. Writes a Parquet file of records as the
source states them (see imported.py); checking them is the clean stage's work. `annotations` with a `*`, such as
`annotations/instances_*.json`, means all files that match: each file's name or folder then says the split.

A format is a module of readers/ or, for a format of the team's own, of own_readers/, with two functions:

    find(files, options) -> list[str]                # the annotation files; raises UserError if there are none
    read(files, found, options) -> tuple[str, Iterator[Imported]]  # the folder of the images, and the records
"""

import gc
import importlib
import inspect
import pkgutil
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from Data_processing import own_readers, readers
from Data_processing.shared.annotation_files import split_of
from Data_processing.shared.files import SourceFiles, folder_name, inside, open_source
from Data_processing.shared.image_names import OUTSIDE, match_nearly
from Data_processing.shared.imported import About, Imported, ImportOptions, in_words, write_imported
from Datasets.format.records import SPLITS, is_safe_path
from Datasets.tools.atomic import replacing
from Datasets.tools.command import options_of, run, with_options
from Datasets.tools.errors import UserError
from Datasets.tools.params import check_licenses

# The formats that have an option; those that are not named here belong to all.
OPTIONS_OF = {
    "columns": ("csv", "via", "huggingface", "parquet"),
    "delimiter": ("csv",),
    "label_separator": ("csv",),
    "normalized": ("csv", "coco", "createml", "huggingface", "parquet"),
    "preset": ("csv", "datumaro"),
    "classes": ("masks", "csv", "via", "huggingface", "parquet", "yolo"),
    "ignore": ("masks",),
    "instances": ("masks",),
}


def check_source_name(name: str) -> None:
    """Raise UserError if a source cannot be called this."""
    if not re.fullmatch(r"(?!no-)[A-Za-z][\w-]*", name):
        raise UserError(f"source {name!r}: a name has letters, digits, - and _ only, and begins with a letter")


def formats() -> dict[str, str]:
    """The module that reads each format: ours, then the team's own; one whose name begins with _ is a helper."""
    folders = (readers, own_readers)
    return {
        module.name: f"{folder.__name__}.{module.name}"
        for folder in reversed(folders)
        for module in pkgutil.iter_modules(folder.__path__)
        if not module.name.startswith("_")
    }


def find_reader(form: str) -> Any:
    """The module that reads a format. Raises UserError if there is none."""
    if form not in formats():
        raise UserError(f"format {form!r}: no such reader; there are {', '.join(formats())}")
    return importlib.import_module(formats()[form])


def read_annotations(
    files: SourceFiles, form: str, options: ImportOptions
) -> tuple[list[str], str | None, Iterator[Imported]]:
    """The annotation files, the folder of the images (None if records name all), and the records. Raises UserError."""
    reader, pattern = find_reader(form), options.annotations or ""
    if form == "masks" or "*" not in pattern or pattern in files.names():
        found = reader.find(files, options)
        folder, rows = reader.read(files, found, options)
    else:
        found = [name for name in files.names() if fnmatchcase(name, inside("", pattern))]
        if not found:
            raise UserError(f"{files.path}: has no file like {pattern}; correct `annotations`")
        each = [replace(options, annotations=file) for file in found]
        parts = [reader.read(files, reader.find(files, part), part) for part in each]
        folder = posixpath.commonpath([folder for folder, _ in parts])
        rows = chain(*(_with_split(rows, split_of(file)) for file, (_, rows) in zip(found, parts, strict=True)))
    return found, folder, match_nearly(rows, files, options)


def _with_split(rows: Iterable[Imported], split: str | None) -> Iterator[Imported]:
    for row in rows:
        row.split = row.split or split
        yield row


def check_paths(rows: Iterable[Imported], left_out: Counter[str] | None = None) -> Iterator[Imported]:
    """Mark images outside the source, and those whose shapes are all left out, kinds of which `left_out` counts."""
    counted = Counter[str]() if left_out is None else left_out
    for row in rows:
        counted.update(row.left_out)
        if not is_safe_path(row.image) and OUTSIDE not in dict(row.problems):
            row.problems.append((OUTSIDE, f"{row.image!r}"))
        if row.left_out and not row.boxes and row.mask is None:
            row.boxes = None
            if not row.labels:
                kinds = in_words(Counter(row.left_out))
                row.problems.append(("no annotation", f"{kinds} left out, and nothing else"))
        yield row


def make_options(form: str, given: Mapping[str, Any]) -> ImportOptions:
    """The options of a source by their names in the command. Raises UserError for those that `form` has not."""
    own = [name for name, module in formats().items() if module.startswith(own_readers.__name__)]
    given = {**dict.fromkeys(ImportOptions.__dataclass_fields__), **given}
    licenses = [each for each in given["license"] or () if each != "None"]  # which DVC makes of an empty `license:`
    given["license"] = " AND ".join(licenses) or None
    for option, forms in OPTIONS_OF.items():
        if given[option] not in (None, []) and form not in ("", *forms, *own):
            raise UserError(f"{form}: {option} is an option of the formats {', '.join(forms)}")
    stated = {name: given[name] for name in ImportOptions.__dataclass_fields__ if given[name] is not None}
    if stated.get("split", "train") not in SPLITS:
        raise UserError(f"split: {given['split']!r} is none of {', '.join(SPLITS)}")
    if "images" in stated:
        stated["images"] = folder_name(stated["images"])
    options = ImportOptions(**{**stated, "columns": parse_columns(given["columns"] or ())})
    options.value_range()  # which raises UserError
    return options


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """`["image=filename"]` as `{"image": "filename"}`. Raises UserError for a part that is no pair, or a second one."""
    columns: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs) or ours in columns:
            raise UserError(f"columns: {pair!r} is not of the form OURS=THEIRS, or the second one for {ours!r}")
        columns[ours] = theirs
    return columns


# Options that a source's entry has in another form than ImportOptions; add_source.py has all of them, too.
IN_LISTS = {
    "columns": Annotated[list[str] | None, typer.Option(help="OURS=THEIRS for each column, as label=class_name")],
    "license": Annotated[list[str] | None, typer.Option(help="of the raw dataset, by SPDX, as CC-BY-4.0")],
}
KEYWORD = inspect.Parameter.KEYWORD_ONLY
PARAMETERS = [inspect.Parameter(name, KEYWORD, default=None, annotation=kind) for name, kind in IN_LISTS.items()]
PARAMETERS += options_of(ImportOptions)


@with_options(PARAMETERS)
def main(
    source: Annotated[str, typer.Option(help="the source's name")],
    format: Annotated[str, typer.Option(help=f"its annotation format: {', '.join(formats())}")],
    path: Annotated[Path, typer.Option(help="directory, .zip or .tar")],
    out: Annotated[Path | None, typer.Option(help="Parquet file; intermediate/imported has one a source")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="licences that are allowed; all if none is named")] = None,
    **options: Any,
) -> None:
    """Read a source's annotations into records."""
    stated = make_options(format, options)
    check_source_name(source)
    check_licenses({f"source {source}": stated.license or ""}, allow or [])
    out = out or Path(f"Data_processing/intermediate/imported/{source}.parquet")
    gc.disable()  # collecting would walk millions of new objects again and again, and there are no cycles to find
    pa.set_memory_pool(pa.system_memory_pool())  # which keeps pages for the next batch, where others give them back
    files, left_out = open_source(path), Counter[str]()
    with replacing(out) as partial:
        found, folder, rows = read_annotations(files, format, stated)
        checked = check_paths(rows, left_out)
        count = write_imported(checked, source, partial, About(path.as_posix(), folder, stated))
    if left_out:
        print(f"warning: {source}: {in_words(left_out)} left out", file=sys.stderr)
    if files.matched:
        print(f"{source}: {len(files.matched)} names of images matched approximately")
    print(f"{source}: {count} records from {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}")


if __name__ == "__main__":
    run(main)
