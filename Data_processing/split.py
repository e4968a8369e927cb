"""Look for a seed that deals every class out evenly; put it into params.yaml once, when a dataset begins.

python -m Data_processing.split --accepted Data_processing/intermediate/clean/accepted.parquet --tries 1000
"""

from pathlib import Path
from typing import Annotated

import typer

from Data_processing.curating.splits import best_seeds, check_shares, deal, missing_classes, name_hashes, read_groups
from Datasets.tools.command import run


def main(
    accepted: Annotated[Path, typer.Option(help="the clean stage's accepted.parquet")],
    tries: Annotated[int, typer.Option(min=1, help="seeds to try, from 0")] = 1000,
    group_pattern: Annotated[str, typer.Option(help="as for curate")] = "",
    near_duplicate_bits: Annotated[int, typer.Option(min=0, max=256, help="as for curate")] = 24,
    train: Annotated[float, typer.Option(min=0, max=1, help="share of images")] = 0.7,
    val: Annotated[float, typer.Option(min=0, max=1, help="share of images")] = 0.15,
    test: Annotated[float, typer.Option(min=0, max=1, help="share of images")] = 0.15,
    keep_splits: Annotated[bool, typer.Option(help="as for curate")] = False,
) -> None:
    """Look for a seed that splits every class by the shares; give it what `curate` of params.yaml says of the same."""
    shares = {"train": train, "val": val, "test": test}
    check_shares(shares)
    groups, counts, stated = read_groups(accepted, group_pattern, near_duplicate_bits, keep_splits, shares)
    groups.report(group_pattern)
    best = best_seeds(groups.names, counts, shares, stated, tries)
    print("classes missing from a split, and how far a class's share of a split is from its target on average:")
    for empty, missing, off, seed in best[:5]:
        print(f"seed {seed}: {missing}, {off:.4f}{f'; {empty} splits are empty' if empty else ''}")
    for line in missing_classes(counts, deal(name_hashes(groups.names), shares, best[0][-1], stated), shares, stated):
        print(f"seed {best[0][-1]}: {line}")


if __name__ == "__main__":
    run(main)
