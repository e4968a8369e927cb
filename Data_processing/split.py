"""Look for a seed that deals every class out evenly; put it into params.yaml once, when a dataset begins.

python -m Data_processing.split --accepted Data_processing/intermediate/clean/accepted.parquet --tries 1000
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from Data_processing.curating.splits import SplitOptions, best_seeds, deal, missing_classes, name_hashes, read_groups
from Datasets.tools.command import options_of, run, with_options


@with_options(options_of(SplitOptions))
def main(
    accepted: Annotated[Path, typer.Option(help="the clean stage's accepted.parquet")],
    tries: Annotated[int, typer.Option(min=1, help="seeds to try, from 0")] = 1000,
    **options: Any,
) -> None:
    """Look for a seed that splits every class by the shares; give it what `curate` of params.yaml says of the same."""
    how = SplitOptions(**options)
    shares = how.shares()
    groups, counts, stated = read_groups(accepted, how)
    groups.report(how.group_pattern)
    best = best_seeds(groups.names, counts, shares, stated, tries)
    print("classes missing from a split, and how far a class's share of a split is from its target on average:")
    for empty, missing, off, seed in best[:5]:
        print(f"seed {seed}: {missing}, {off:.4f}{f'; {empty} splits are empty' if empty else ''}")
    for line in missing_classes(counts, deal(name_hashes(groups.names), shares, best[0][-1], stated), shares, stated):
        print(f"seed {best[0][-1]}: {line}")


if __name__ == "__main__":
    run(main)
