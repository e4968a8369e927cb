"""Hugging Face: `metadata.jsonl` beside images, and what the columns of its Parquet files mean.

Specification: https://huggingface.co/docs/datasets/image_dataset. `file_name` is relative to the file. `label` or
`labels`, or what `columns: [label=COLUMN]` says, are the image's; `objects` holds each object's `bbox`, [x, y, width,
height] in pixels or, with `normalized: true`, in fractions, its category, and COCO's segmentation and iscrowd, if any.
The names of numbered classes are in the Parquet file, else in `classes`; a label of -1 is none.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from posixpath import splitext
from typing import Any

import msgspec

from Data_processing.shared.annotation_files import decode_json, files_below, split_of
from Data_processing.shared.files import SourceFiles, image_column
from Data_processing.shared.image_names import row_namer
from Data_processing.shared.imported import UNUSABLE, Imported, ImportedBox, ImportOptions
from Datasets.tools.errors import UserError

CATEGORIES = ("category", "categories", "category_id", "label", "labels", "class")
OF_OBJECTS = ("bbox", "segmentation", "iscrowd", *CATEGORIES)
NameOf = Callable[[Any, str], Any]
find = partial(files_below, suffix=".jsonl", kind="JSON lines")


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    named_row, name_of = row_namer(files, options), _namer(f"{files.path}: {found[0]}", options, {})

    def rows(file: str) -> Iterator[Imported]:
        lines: list[dict[str, Any]] = decode_json(files, file, dict[str, Any], "metadata")
        for number, stated in enumerate(lines, 1):
            row = named_row(stated.get("file_name"), file, f"{file}:{number}")
            yield _filled(row, stated, name_of, options)

    return options.images or "", chain.from_iterable(map(rows, found))


def parquet_records(files: SourceFiles, file: str, options: ImportOptions) -> Iterator[Imported]:
    """The records of a Parquet file that holds images in a column of structs."""
    parquet = files.parquet(file)
    schema, image = parquet.schema_arrow, image_column(parquet.schema_arrow)
    about = msgspec.json.decode((schema.metadata or {}).get(b"huggingface", b"{}"))
    name_of = _namer(f"{files.path}: {file}", options, dict(_class_names(about)))
    columns = [name for name in ("objects", *_label_columns(options)) if name in schema.names]
    if not columns:
        remedy = "set `columns: [label=COLUMN]` (--format parquet --columns label=COLUMN)"
        raise UserError(f"{files.path}: {file}: which of {', '.join(schema.names):.200} is the label? {remedy}")
    sizes = [name for name in ("width", "height") if name in schema.names]
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=[*columns, *sizes, f"{image}.path"])
        for number, stated in enumerate(table.to_pylist()):
            suffix = splitext((stated[image] or {}).get("path") or "")[1] or ".png"
            place = f"{file}#{group}-{number}"
            yield _filled(Imported(f"{place}{suffix}", place), stated, name_of, options)


def _label_columns(options: ImportOptions) -> list[str]:
    return [options.columns["label"]] if options.columns else ["label", "labels"]


def _class_names(stated: Any, feature: str = "") -> Iterator[tuple[str, list[str]]]:
    """Each feature whose classes are numbers in a description of features, and their names."""
    if isinstance(stated, dict) and isinstance(stated.get("names"), list):
        yield feature, list(map(str, stated["names"]))
    elif isinstance(stated, dict | list):
        for key, part in stated.items() if isinstance(stated, dict) else ((feature, part) for part in stated):
            yield from _class_names(part, feature if key == "feature" else key)


def _namer(where: str, options: ImportOptions, names: dict[str, list[str]]) -> NameOf:
    """What names a class by what is stated of it, and its feature. names: those in the file, by feature."""

    def name_of(stated: Any, feature: str) -> Any:
        known = dict(enumerate(names.get(feature, options.classes)))
        if isinstance(stated, int) and not known:
            remedy = "set `classes` to the names in the order of their numbers (--classes NAME --classes NAME ...)"
            raise UserError(f"{where}: {feature} {stated} has no name in the file; {remedy}")
        return known[stated] if isinstance(stated, int) else stated

    return name_of


def _filled(row: Imported, stated: dict[str, Any], name_of: NameOf, options: ImportOptions) -> Imported:
    """The record with what a row of metadata states. Raises UserError where a number has no name."""
    row.split, row.normalized = row.split or split_of(row.origin), bool(options.normalized)
    try:
        row.set_size(stated.get("width"), stated.get("height"))
        objects = stated.get("objects")
        if isinstance(objects, dict):  # of lists
            columns = {key: objects[key] for key in OF_OBJECTS if objects.get(key) is not None}
            objects = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        if objects is not None:
            row.add_shapes(row.numbered(objects), lambda shape, origin: [_box(shape, row, origin, name_of)])
        for key in _label_columns(options):
            if (value := stated.get(key)) not in (None, "", -1):
                row.add_labels([name_of(each, key) for each in (value if isinstance(value, list) else [value])])
    except UNUSABLE as error:
        row.problems.append(("malformed annotation", f"{error!s:.200}"))
    return row


def _box(shape: Any, row: Imported, origin: str, name_of: NameOf) -> ImportedBox:
    """Raises one of UNUSABLE, and UserError where a number has no name."""
    feature = next((key for key in CATEGORIES if key in shape), "category")
    name = name_of(shape[feature], feature)
    x, y, width, height = map(float, shape["bbox"])
    outline = msgspec.json.encode(shape["segmentation"]) if shape.get("segmentation") else None
    if x + width > 1.1 * (row.width or math.inf) or y + height > 1.1 * (row.height or math.inf):
        raise ValueError(f"bbox {shape['bbox']} reaches far outside; are these corners, not x, y, width, height,")
    return ImportedBox(name, x, y, x + width, y + height, origin, bool(shape.get("iscrowd")), outline)
