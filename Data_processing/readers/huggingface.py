"""Hugging Face: `metadata.jsonl` beside images, and what the columns of its Parquet files mean.

Specification: https://huggingface.co/docs/datasets/image_dataset. `file_name` is relative to the file. `label` or
`labels` are the image's; `objects` holds each object's `bbox`, [x, y, width, height] in pixels or, with `normalized:
true`, in fractions, its category, and COCO's segmentation and iscrowd, if any. The names of numbered classes are those
of the feature in README.md's `dataset_info` or in the Parquet file, else those in `classes`; a label of -1 is none.
`columns: [label=COLUMN]` names another column of labels.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice
from posixpath import basename, splitext
from typing import Any

import msgspec

from Data_processing.shared.annotation_files import (
    UNUSABLE,
    add_shapes,
    decode_json,
    only_file,
    parse_yaml,
    pixels,
    read_text,
    split_of,
)
from Data_processing.shared.files import SourceFiles, image_column
from Data_processing.shared.image_names import row_namer
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Datasets.format.files import visible
from Datasets.tools.errors import UserError

CATEGORIES = ("category", "categories", "category_id", "label", "labels", "class")
OF_OBJECTS = ("bbox", "segmentation", "iscrowd", *CATEGORIES)
COLUMNS = {"objects", "width", "height", *OF_OBJECTS}
INNER = ("feature", "sequence", "list", "dtype", "class_label")  # between a feature and its names
NameOf = Callable[[str, Any, str], str]


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The files called metadata.jsonl, or the one named. Raises UserError if there is none."""
    found = [name for name in visible(files.names(), {".jsonl"}) if basename(name) == "metadata.jsonl"]
    return found if found and options.annotations is None else only_file(files, found, "metadata.jsonl", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    named_row, name_of = row_namer(files, options), _namer(files, options, {})

    def rows(file: str) -> Iterator[Imported]:
        lines: list[dict[str, Any]] = decode_json(files, file, dict[str, Any], "metadata")
        for number, stated in enumerate(lines, 1):
            row = named_row(stated.get("file_name"), file, f"{file}:{number}")
            yield _filled(row, stated, name_of, options)

    return options.images or "", chain.from_iterable(map(rows, found))


def parquet_records(files: SourceFiles, file: str, options: ImportOptions) -> Iterator[Imported]:
    """The records of a Parquet file with a column of images: those in it or, if it holds none, those that it names."""
    parquet, named_row = files.parquet(file), row_namer(files, options)
    schema, image = parquet.schema_arrow, image_column(parquet.schema_arrow)
    name_of = _namer(files, options, msgspec.json.decode((schema.metadata or {}).get(b"huggingface", b"{}")))
    columns = [field.name for field in schema if field.name in {*COLUMNS, *_label_columns(options)}]
    columns = [name for name in columns if not image_column([schema.field(name)])]
    if not set(columns) - {"width", "height"}:
        remedy = "set `columns: [label=COLUMN]` (--format parquet --columns label=COLUMN)"
        raise UserError(f"{files.path}: {file}: which of {', '.join(schema.names):.200} is the label? {remedy}")
    first = islice(parquet.iter_batches(1, columns=[f"{image}.bytes"]), 1)
    holds = any(batch[image][0].as_py()["bytes"] for batch in first)
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=[*columns, f"{image}.path"])
        for number, stated in enumerate(table.to_pylist()):
            place, path = f"{file}#{group}-{number}", (stated[image] or {}).get("path")
            packed = Imported(f"{place}{splitext(path or '')[1] or '.png'}", place)
            yield _filled(packed if holds else named_row(path, file, place), stated, name_of, options)


def _label_columns(options: ImportOptions) -> list[str]:
    return [options.columns["label"]] if "label" in options.columns else ["label", "labels"]


def _namer(files: SourceFiles, options: ImportOptions, about: Any) -> NameOf:
    """What names a class by its feature, what is stated of it, and where. about: the features of a Parquet file."""
    classes, names = dict(_class_names(about)), [name for name in files.names() if basename(name) == "README.md"]
    with suppress(UserError, RecursionError):  # a README may be about anything
        header = re.match(r"---\r?\n(.*?)\n---", read_text(files, names[0]), re.DOTALL) if names else None
        classes |= dict(_class_names(parse_yaml(header[1], names[0]))) if header else {}

    def name_of(feature: str, stated: Any, origin: str) -> str:
        known = dict(enumerate(classes.get(feature) or options.classes))
        if isinstance(stated, str):
            return stated
        if known or not isinstance(stated, int):
            return known[stated]
        remedy = "set `classes` to the names in the order of their numbers (--classes NAME --classes NAME ...)"
        told = f"{feature} {stated} has no name in README.md or the file"
        raise UserError(f"{files.path}: {origin}: {told}; {remedy}")

    return name_of


def _class_names(stated: Any, feature: str = "") -> Iterator[tuple[str, list[str]]]:
    """Each feature whose classes are numbers in a description of features, and their names."""
    for part in stated if isinstance(stated, list) else ():
        yield from _class_names(part, feature)
    if isinstance(stated, dict):
        feature = stated["name"] if isinstance(stated.get("name"), str) else feature
        names = stated.get("names")
        if isinstance(names, list | dict):
            yield feature, list(map(str, names.values() if isinstance(names, dict) else names))
        for key, part in stated.items():
            yield from _class_names(part, feature if key in INNER else str(key))


def _filled(row: Imported, stated: dict[str, Any], name_of: NameOf, options: ImportOptions) -> Imported:
    """The record with what a row of metadata states. Raises UserError where a number has no name."""
    row.split, row.normalized = row.split or split_of(row.origin), bool(options.normalized)
    objects = stated.get("objects", stated if "bbox" in stated else None)
    try:
        row.width, row.height = (pixels(stated.get(side), row) for side in ("width", "height"))
        if isinstance(objects, dict):
            columns = {name: objects[name] for name in OF_OBJECTS if objects.get(name) is not None}
            objects = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        if objects is not None:
            add_shapes(row, objects, lambda shape, origin: [_box(shape, row, origin, name_of)])
        for key in _label_columns(options) if "bbox" not in stated else ():
            if (value := stated.get(key)) not in (None, "", -1):
                names = [name_of(key, each, row.origin) for each in (value if isinstance(value, list) else [value])]
                row.labels = sorted({*names, *(row.labels or ()), *(box.name for box in row.boxes or ())})
    except UNUSABLE as error:
        row.problems.append(("malformed annotation", f"{error!s:.200}"))
    return row


def _box(shape: Any, row: Imported, origin: str, name_of: NameOf) -> ImportedBox:
    """Raises one of UNUSABLE, and UserError where a number has no name."""
    x, y, width, height = map(float, shape["bbox"])
    feature = next((key for key in CATEGORIES if key in shape), "category")
    name, crowd = name_of(feature, shape[feature], origin), bool(shape.get("iscrowd"))
    outline = msgspec.json.encode(shape["segmentation"]) if shape.get("segmentation") else None
    if x + width > 1.1 * (row.width or math.inf) or y + height > 1.1 * (row.height or math.inf):
        raise ValueError(f"bbox {shape['bbox']} reaches far outside; are these corners, not x, y, width, height,")
    return ImportedBox(name, x, y, x + width, y + height, origin, crowd, outline)
