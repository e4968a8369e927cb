"""Packs accepted records with their images and masks into the curated dataset, and writes its cards."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from Data_processing.curating.duplicates import Groups
from Data_processing.shared.files import read_inspected_file
from Data_processing.shared.mask_values import NEITHER, Names, in_colour, numbers, open_mask
from Data_processing.shared.parallel import Workers
from Datasets.format.cards import render_card
from Datasets.format.coco import draw
from Datasets.format.curated import ORIGINS_SCHEMA, write_annotations, write_curated, write_origins
from Datasets.format.images import VOID, mask_file
from Datasets.format.records import SCHEMA, SPLITS, Box, Record
from Datasets.tools.atomic import replacing
from Datasets.tools.command import progress
from Datasets.tools.errors import UserError

RECORD_COLUMNS = [*SCHEMA.names, "mask_names", "mask_source", "bytes"]
FEW_BYTES = 100_000_000  # of images, which one process packs before others have started
CARDS = Path(__file__).parent
PARQUET = {"@type": "cr:FileObject", "encodingFormat": "application/x-parquet"}


@dataclass(frozen=True)
class SplitRecords(Sequence[Any]):
    """The records of one split; a slice of them becomes Python objects when it is taken."""

    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        return self.table[index].to_pylist()


@dataclass(frozen=True)
class RecordFiles:
    """Reads the files of records. draw: make a mask where a source has none, but outlines all objects."""

    paths: Mapping[str, str]  # the directory or archive of each source
    classes: Mapping[str, int]  # ids by name
    draw: bool = False

    def __call__(self, record: Record) -> tuple[bytes, bytes | None]:
        """The image file and the mask's PNG file, if any. Raises UserError if the image changed or the mask is gone."""
        source = self.paths[record["source"]]
        image = read_inspected_file(source, record["image"], record["sha256"])
        drawable = self.draw and record["boxes"] is not None
        if (record["mask"] or drawable) and (number := len(self.classes)) >= VOID:
            raise UserError(f"{number} classes: a mask can tell at most {VOID - 1} apart; name fewer in clean.keep")
        mask = None
        if record["mask"]:
            place = self.paths.get(record["mask_source"], source)  # type: ignore[typeddict-item]
            file = read_inspected_file(place, record["mask"]["path"] or "")
            mask = remap(file, dict(record["mask_names"] or ()), self.classes)  # type: ignore[typeddict-item]
        elif drawable:
            mask = draw_mask(record["boxes"] or (), self.classes, record["width"] or 0, record["height"] or 0)
        return image, None if mask is None else mask_file(mask, optimize=True)


def remap(file: bytes, names: Names, classes: Mapping[str, int]) -> np.ndarray:
    """The mask, uint8 [H, W], of a mask file whose values stand for `names`; those of no class become background."""
    table = np.zeros(NEITHER + 1, np.uint8)  # of which only what is used takes memory
    table[VOID] = VOID
    for value, name in names.items():
        table[value] = VOID if name is None else classes[name] + 1 if name in classes else 0
    return table[numbers(open_mask(file), in_colour(names))]


def draw_mask(boxes: Sequence[Box], classes: Mapping[str, int], width: int, height: int) -> np.ndarray | None:
    """The mask, uint8 [height, width], of objects that all have a segmentation; None if one has not."""
    if any(box["segmentation"] is None for box in boxes):
        return None
    return draw(((box, classes[box["name"]] + 1) for box in boxes), width, height)


def pack(
    accepted: Path, kept: np.ndarray, groups: Groups, splits: np.ndarray, read: RecordFiles, workers: Workers, out: Path
) -> dict[str, dict[str, int]]:
    """Write the dataset to `out`, whole or not at all; returns the number of boxes by split and class."""
    table = pq.read_table(accepted, columns=RECORD_COLUMNS).filter(pa.array(kept))
    value_range = json.loads(table.schema.metadata[b"range"])
    for name, values, rows in (("group", groups.names, groups.numbers), ("split", SPLITS, splits[groups.numbers])):
        column = pa.array(values, pa.string()).take(pa.array(rows))
        table = table.set_column(table.schema.get_field_index(name), name, column)
    parts = {split: table.filter(pc.equal(table["split"], split)) for split in SPLITS}
    records = {split: SplitRecords(part) for split, part in parts.items()}
    sizes = {split: part["bytes"].to_pylist() for split, part in parts.items()}
    few = sum(map(sum, sizes.values())) < FEW_BYTES
    with replacing(out, "classes.json", "metadata.json", "*-of-*.parquet") as partial:
        partial.mkdir()
        each = functools.partial(workers.run, few=few)
        written = write_curated(partial, records, sizes, read, each, value_range)
        write_annotations(partial, progress(written, len(table), "curate", "images"), read.classes)
        write_origins(partial, origins(accepted, kept, read.paths))
        write_cards(partial, json.loads(table.schema.metadata[b"licenses"]), read.classes, parts)
    drawn = {split: pc.struct_field(pc.list_flatten(part["boxes"]), "name") for split, part in parts.items()}
    return {split: column.to_pandas().value_counts().sort_index().to_dict() for split, column in drawn.items()}


def origins(accepted: Path, kept: np.ndarray, paths: Mapping[str, str]) -> pa.Table:
    """Where the annotations of the images that are `kept` came from, in ORIGINS_SCHEMA. paths: of each source."""
    columns = ["source", "image", "sha256", "origin", "box_origins"]
    table = pq.read_table(accepted, columns=columns).filter(pa.array(kept))
    sources = table["source"].combine_chunks()
    images = pc.binary_join_element_wise(sources, table["image"].combine_chunks(), "/")
    places = pa.array(map(paths.get, sources.to_pylist()), pa.string())
    values = [images, table["sha256"], places, table["origin"], table["box_origins"]]
    return pa.Table.from_arrays(values, schema=ORIGINS_SCHEMA)


def write_cards(out: Path, licenses: Mapping[str, str], classes: Iterable[str], parts: Mapping[str, pa.Table]) -> None:
    """Write README.md, a card for people and Hugging Face, and croissant.json (1.1) for programs, beside the shards.

    licenses: of each source, "" where none is stated. parts: the records by split.
    """
    name, images = ", ".join(licenses), {split: len(part) for split, part in parts.items()}
    shown = {split: pc.list_flatten(part["labels"]).to_pandas().value_counts() for split, part in parts.items()}
    values = {"name": name, "licenses": licenses, "classes": [*classes], "images": images, "shown": shown}
    (out / "README.md").write_text(render_card(CARDS / "dataset_card.md", values) + "\n", encoding="utf-8")
    about = json.loads((CARDS / "croissant.json").read_text("utf-8"))
    about |= {"name": name, "description": f"{sum(images.values())} images with annotations, from {name}"}
    about["license"] = sorted({each or "unknown" for each in licenses.values()})
    about["isBasedOn"] = [{"@type": "sc:Dataset", "name": each, "license": licenses[each]} for each in licenses]
    for shard in sorted(out.glob("*-of-*.parquet")):
        place, sha256 = dict.fromkeys(("@id", "name", "contentUrl"), shard.name), hashlib.sha256(shard.read_bytes())
        about["distribution"].append({**PARQUET, **place, "sha256": sha256.hexdigest()})
    (out / "croissant.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
