"""Curate: group, split and pack the accepted images into the dataset that everything else reads.

    python -m Data_processing.curate --train 0.7 --val 0.15 --test 0.15

Reads what the clean stage wrote, and the accepted images. Writes the dataset (see Datasets/format/curated.py).
"""

import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from Data_processing.curating.duplicates import Groups
from Data_processing.curating.record_files import RecordFiles
from Data_processing.shared.parallel import Workers
from Data_processing.split import ANY, Shares, SplitOptions, assign, missing_classes, read_groups, with_placed
from Datasets.format.cards import render_card
from Datasets.format.classes import read_classes
from Datasets.format.curated import ORIGINS_SCHEMA, write_annotations, write_curated, write_origins
from Datasets.format.records import SCHEMA, SPLITS
from Datasets.tools.atomic import replacing
from Datasets.tools.command import filled, options_of, progress, run, with_options

INTERMEDIATE = Path("Data_processing/intermediate")
RECORD_COLUMNS = [*SCHEMA.names, "mask_names", "mask_source", "bytes"]
CARDS = Path(__file__).parent / "curating"
PARQUET = {"@type": "cr:FileObject", "encodingFormat": "application/x-parquet"}
FEW_BYTES = 100_000_000  # of images, which one process packs before others have started


@dataclass(frozen=True)
class SplitRecords(Sequence[Any]):
    """The records of one split; a slice of them becomes Python objects when it is taken."""

    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        return self.table[index].to_pylist()


def summary(
    groups: Groups, splits: np.ndarray, boxes: Mapping[str, Mapping[str, int]], shares: Shares
) -> dict[str, Any]:
    """The groups in numbers, for `dvc metrics diff`. splits: of each group, int64 [G]. boxes: by split and class."""
    images, total = np.bincount(groups.numbers), len(groups.numbers)
    inside = {split: images[splits == number] for number, split in enumerate(SPLITS)}
    return {
        "images": {split: int(sizes.sum()) for split, sizes in inside.items()},
        "groups": {split: len(sizes) for split, sizes in inside.items()},
        "exact_duplicates": len(groups.exact),
        "near_duplicates": len(groups.near),
        "boxes": boxes,
        "shares": {
            split: {
                "target": shares[split],
                "share": round(float(sizes.sum() / total), 4),
                "largest_group": round(float(sizes.max(initial=0) / total), 4),
            }
            for split, sizes in inside.items()
        },
    }


def warn_shares(found: Mapping[str, Mapping[str, float]]) -> None:
    """Warn, a line a split, if one is off by more than 0.05 of all images, or by more than half of its target."""
    if any(abs(s["share"] - s["target"]) > min(0.05, s["target"] / 2) for s in found.values()):
        for split, part in found.items():
            line = f"{part['share']:.1%} of images, target {part['target']:.1%}"
            print(f"warning: {split}: {line}; its largest group has {part['largest_group']:.1%}", file=sys.stderr)
        hint = "try the seeds of Data_processing.split, or a group_pattern of smaller groups"
        print(f"warning: {hint}; of a fixed camera, lower curate.near_duplicate_bits", file=sys.stderr)


@with_options([*options_of(SplitOptions), *options_of(Workers)])
def main(
    cleaned: Annotated[Path, typer.Option(help="the clean stage's directory")] = INTERMEDIATE / "clean",
    out: Annotated[Path, typer.Option(help="directory to write the dataset to")] = Path("Datasets/curated"),
    summary_file: Annotated[Path, typer.Option("--summary", help="JSON file to write")] = INTERMEDIATE / "curated.json",
    seed: Annotated[int, typer.Option(help="of the split; see Data_processing.split")] = 0,
    draw_masks: Annotated[bool, typer.Option(help="draw a semantic mask where all objects have segmentations")] = False,
    **options: Any,
) -> None:
    """Group, split and pack the accepted images."""
    accepted = cleaned / "accepted.parquet"
    how = filled(SplitOptions, options)
    shares = how.shares()
    groups, counts, stated = read_groups(accepted, how)
    placed = json.loads(pq.read_schema(accepted).metadata[b"placed"]).values()
    dealt = assign(groups, counts, shares, seed, stated, placed)
    groups, splits, kept = with_placed(accepted, how, groups, dealt)
    paths = json.loads(pq.read_schema(accepted).metadata[b"source_paths"])
    read = RecordFiles(paths, read_classes(cleaned / "classes.json"), draw_masks)
    boxes = write(accepted, kept, groups, splits, read, filled(Workers, options), out)
    numbers = summary(groups, splits, boxes, shares)
    with replacing(summary_file) as partial:
        partial.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    groups.report(how.group_pattern)
    print("all images  " + "  ".join(f"{split} {part['share']:.3f}" for split, part in numbers["shares"].items()))
    for line in missing_classes(counts, dealt, shares, stated):
        print(f"warning: {line}", file=sys.stderr)
    if (stated == ANY).any() and not placed:
        warn_shares(numbers["shares"])


def write(
    accepted: Path, kept: np.ndarray, groups: Groups, splits: np.ndarray, read: RecordFiles, workers: Workers, out: Path
) -> dict[str, dict[str, int]]:
    """Write the dataset to `out`, whole or not at all; returns the number of boxes by split and class."""
    table = pq.read_table(accepted, columns=RECORD_COLUMNS).filter(pa.array(kept))
    value_range = json.loads(table.schema.metadata[b"range"])
    for name, names, numbers in (("group", groups.names, groups.numbers), ("split", SPLITS, splits[groups.numbers])):
        values = pa.array(names, pa.string()).take(pa.array(numbers))
        table = table.set_column(table.schema.get_field_index(name), name, values)
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


if __name__ == "__main__":
    run(main)
