"""Hugging Face: `metadata.jsonl` beside images, and what the columns of its Parquet files mean.

Specification: https://huggingface.co/docs/datasets/image_dataset. `file_name` is relative to the file. `label` or
`labels` are the image's; `objects` holds each object's `bbox`, [x, y, width, height] in pixels or, with `normalized:
true`, in fractions, its category, and COCO's segmentation and iscrowd, if any. The names of numbered classes are those
of the feature in README.md's `dataset_info` or in the Parquet file, else those in `classes`; a label of -1 is none.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from posixpath import basename
from typing import Any

import msgspec

from Data_processing.shared.annotation_files import (
    UNUSABLE,
    add_shapes,
    only_file,
    parse_yaml,
    pixels,
    read_text,
    split_of,
)
from Data_processing.shared.files import SourceFiles, image_column
from Data_processing.shared.image_names import ImageFinder, named_row
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
    finder, name_of = ImageFinder(files, options.images), _namer(files, options, {})

    def record(file: str, line: str, origin: str) -> Imported:
        try:
            stated = msgspec.json.decode(line, type=dict[str, Any])
        except (ValueError, RecursionError) as error:
            return Imported(origin, origin, problems=[("malformed annotation", str(error))])
        return _filled(named_row(stated.get("file_name"), file, origin, finder), stated, name_of, options)

    lines = ((file, *pair) for file in found for pair in enumerate(read_text(files, file).splitlines(), 1))
    return options.images or "", (
        record(file, line, f"{file}:{number}") for file, number, line in lines if line.strip()
    )


def parquet_records(files: SourceFiles, file: str, options: ImportOptions) -> Iterator[Imported]:
    """The records of a Parquet file with a column of images: those in it or, if it holds none, those that it names."""
    parquet, finder, suffix = files.parquet(file), ImageFinder(files, options.images), files.packed_suffix(file)
    schema, image = parquet.schema_arrow, image_column(parquet.schema_arrow)
    about = msgspec.json.decode((schema.metadata or {}).get(b"huggingface", b"{}"))
    name_of = _namer(files, options, about)
    columns = [field.name for field in schema if field.name in COLUMNS and not image_column([field])]
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=[*columns, f"{image}.path"])
        for number, stated in enumerate(table.to_pylist()):
            place = f"{file}#{group}-{number}"
            named = None if suffix else named_row((stated[image] or {}).get("path"), file, place, finder)
            yield _filled(named or Imported(f"{place}{suffix}", place), stated, name_of, options)


def _namer(files: SourceFiles, options: ImportOptions, about: Any) -> NameOf:
    """What names a class by its feature, what is stated, and where. about: the features of a Parquet file.

    It raises ValueError, and UserError where a number has no name.
    """
    classes, names = dict(_class_names(about)), [name for name in files.names() if basename(name) == "README.md"]
    with suppress(UserError, RecursionError):  # a README may be about anything
        header = re.match(r"---\r?\n(.*?)\n---", read_text(files, names[0]), re.DOTALL) if names else None
        classes |= dict(_class_names(parse_yaml(header[1], names[0]))) if header else {}

    def name_of(feature: str, stated: Any, origin: str) -> str:
        known = classes.get(feature) or options.classes
        if isinstance(stated, str) and not (known and stated.isdecimal()):
            return stated
        if isinstance(stated, int) and not known:
            remedy = "set `classes` to the names in the order of their numbers (--classes NAME --classes NAME ...)"
            raise UserError(
                f"{files.path}: {origin}: {feature} {stated} has no name in README.md or the file; {remedy}"
            )
        if int(stated) not in range(len(known)):
            raise ValueError(f"{feature} {stated} of {len(known)} names")
        return known[int(stated)]

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
        labels = [(key, stated[key]) for key in ("label", "labels") if stated.get(key) not in (None, "", -1)]
        if labels and objects is not stated:
            pairs = [(key, value) for key, each in labels for value in (each if isinstance(each, list) else [each])]
            names = {name_of(key, value, row.origin) for key, value in pairs}
            row.labels = sorted({*names, *(box.name for box in row.boxes or ())})
    except UNUSABLE as error:
        row.problems.append(("malformed annotation", f"{error!s:.200}"))
    return row


def _box(shape: Any, row: Imported, origin: str, name_of: NameOf) -> ImportedBox:
    """Raises one of UNUSABLE, and UserError where a number has no name."""
    x, y, width, height = map(float, shape["bbox"])
    feature = next((key for key in CATEGORIES if key in shape), "category")
    outline = msgspec.json.encode(shape["segmentation"]) if shape.get("segmentation") else None
    if x + width > 1.1 * (row.width or math.inf) or y + height > 1.1 * (row.height or math.inf):
        raise ValueError(f"bbox {shape['bbox']} reaches far outside; are these corners, not x, y, width, height,")
    return ImportedBox(
        name_of(feature, shape[feature], origin),
        x,
        y,
        x + width,
        y + height,
        origin,
        bool(shape.get("iscrowd")),
        outline,
    )
