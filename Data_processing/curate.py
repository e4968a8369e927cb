"""Curate: group, split and pack the accepted images into the dataset that everything else reads.

    python -m Data_processing.curate --train 0.7 --val 0.15 --test 0.15

Reads what the clean stage wrote, and the accepted images. Writes the dataset (see Datasets/format/curated.py).
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from Data_processing.curating.duplicates import Groups
from Data_processing.curating.packing import RecordFiles, pack
from Data_processing.shared.parallel import Workers
from Data_processing.split import ANY, Shares, SplitOptions, assign, missing_classes, read_groups, with_placed
from Datasets.format.classes import read_classes
from Datasets.format.records import SPLITS
from Datasets.tools.atomic import write_text
from Datasets.tools.command import filled, options_of, run, with_options

INTERMEDIATE = Path("Data_processing/intermediate")


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
    boxes = pack(accepted, kept, groups, splits, read, filled(Workers, options), out)
    numbers = summary(groups, splits, boxes, shares)
    write_text(summary_file, json.dumps(numbers, indent=1) + "\n")
    groups.report(how.group_pattern)
    print("all images  " + "  ".join(f"{split} {part['share']:.3f}" for split, part in numbers["shares"].items()))
    for line in missing_classes(counts, dealt, shares, stated):
        print(f"warning: {line}", file=sys.stderr)
    if (stated == ANY).any() and not placed:
        warn_shares(numbers["shares"])


if __name__ == "__main__":
    run(main)
