"""Curate: group, split and pack the accepted images into the dataset that everything else reads.

    python -m Data_processing.curate --cleaned DIR --out Datasets/curated --summary FILE

Reads the clean stage's accepted.parquet and classes.json and, once more, the accepted images, whose sha256 must be what
the inspect stage saw. Writes Parquet shards, metadata.json and classes.json (see Datasets/curated.py) and a summary.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import pyarrow.parquet as pq
import typer

from Data_processing.duplicates import Pair, find_groups
from Data_processing.source_files import MissingFile, open_source
from Data_processing.split import Shares, balance, best_seeds, check_shares, split_of
from Datasets.atomic import replacing
from Datasets.classes import read_classes
from Datasets.command import run
from Datasets.curated import ReadImage, write_annotations, write_curated
from Datasets.errors import UserError
from Datasets.progress import progress
from Datasets.records import SCHEMA, SPLITS, Record


def reader(paths: Mapping[str, str]) -> ReadImage:
    """Reads the image file of a record. Raises UserError if it is not the file that was inspected."""
    files = {source: open_source(Path(path)) for source, path in paths.items()}

    def read(record: Record) -> bytes:
        where = f"{paths[record['source']]}: {record['image']}"
        try:
            data = files[record["source"]].read(record["image"])
        except MissingFile as error:
            raise UserError(f"{where}: {error}, though it was inspected; run `dvc repro` again") from error
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise UserError(f"{where}: changed since it was inspected; run `dvc repro` again")
        return data

    return read


def assign(rows: Sequence[dict[str, Any]], groups: Sequence[str], shares: Shares, seed: int) -> None:
    """Set group and split of each row. Raises UserError, naming a better seed, if a wished split stays empty."""
    for row, group in zip(rows, groups, strict=True):
        row |= {"group": group, "split": split_of(group, shares, seed)}
    filled = {row["split"] for row in rows}
    empty = [split for split in SPLITS if shares[split] > 0 and split not in filled]
    if empty:
        distance, better = best_seeds(groups, [row["labels"] or () for row in rows], shares, 200)[0]
        advice = f"set curate.seed: {better}" if distance < 1 else "deliver more groups, or set its share to 0"
        raise UserError(f"{len(set(groups))} groups of {len(rows)} images leave {' and '.join(empty)} empty; {advice}")


def summary(rows: Sequence[dict[str, Any]], exact: Sequence[Pair], near: Sequence[Pair]) -> dict[str, Any]:
    """The dataset in numbers, for `dvc metrics diff`."""
    parts = {split: [row for row in rows if row["split"] == split] for split in SPLITS}
    names = {split: Counter(box["name"] for row in part for box in row["boxes"] or ()) for split, part in parts.items()}
    return {
        "images": {split: len(part) for split, part in parts.items()},
        "groups": {split: len({row["group"] for row in part}) for split, part in parts.items()},
        "boxes": {split: dict(sorted(counts.items())) for split, counts in names.items()},
        "exact_duplicates": len(exact),
        "near_duplicates": len(near),
    }


def tell_balance(rows: Sequence[dict[str, Any]], shares: Shares, seed: int) -> None:
    """Print the share of all images and of each class's images in each split."""
    found = balance([row["group"] for row in rows], [row["labels"] or () for row in rows], shares, seed)
    width = max(len("all images"), *map(len, found))
    for name, parts in found.items():
        print(f"{name or 'all images':{width}}  " + "  ".join(f"{split} {parts[split]:.3f}" for split in SPLITS))
        for split in SPLITS:
            if shares[split] > 0 and not parts[split]:
                print(
                    f"warning: {split} has no image with {name}; try the seeds of Data_processing.split",
                    file=sys.stderr,
                )


def main(
    cleaned: Annotated[Path, typer.Option(help="the clean stage's directory")],
    out: Annotated[Path, typer.Option(help="directory to write the dataset to")],
    summary_file: Annotated[Path, typer.Option("--summary", help="JSON file to write the dataset's numbers to")],
    group_pattern: Annotated[str, typer.Option(help="regular expression with named parts, over the image's path")] = "",
    near_duplicate_bits: Annotated[int, typer.Option(min=0, max=256, help="of 256 that may differ")] = 24,
    train: Annotated[float, typer.Option(min=0, max=1, help="share of images")] = 0.7,
    val: Annotated[float, typer.Option(min=0, max=1, help="share of images")] = 0.15,
    test: Annotated[float, typer.Option(min=0, max=1, help="share of images")] = 0.15,
    seed: Annotated[int, typer.Option(help="of the split; see Data_processing.split")] = 0,
) -> None:
    """Group, split and pack the accepted images."""
    shares = {"train": train, "val": val, "test": test}
    check_shares(shares)
    table = pq.read_table(cleaned / "accepted.parquet")
    rows = table.to_pylist()
    groups, exact, near = find_groups(rows, group_pattern, near_duplicate_bits)
    assign(rows, groups, shares, seed)
    read = reader(json.loads(table.schema.metadata[b"source_paths"]))
    write(rows, read, read_classes(cleaned / "classes.json"), out)
    with replacing(summary_file) as partial:
        partial.write_text(json.dumps(summary(rows, exact, near), indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows)} images in {len(set(groups))} groups; {len(exact)} exact and {len(near)} near duplicates")
    tell_balance(rows, shares, seed)


def write(rows: Sequence[dict[str, Any]], read: ReadImage, classes: Mapping[str, int], out: Path) -> None:
    """Write the dataset to `out`, whole or not at all."""
    chosen = {split: [row for row in rows if row["split"] == split] for split in SPLITS}
    records = {
        split: [cast(Record, {k: row[k] for k in SCHEMA.names}) for row in part] for split, part in chosen.items()
    }
    sizes = {split: [row["bytes"] for row in part] for split, part in chosen.items()}
    with replacing(out) as partial:
        partial.mkdir()
        for _ in progress(write_curated(partial, records, sizes, read), len(rows), "curate", "images"):
            pass
        write_annotations(partial, (record for part in records.values() for record in part), classes)


if __name__ == "__main__":
    run(main)
