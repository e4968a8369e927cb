"""Which images train, which validate, which test.

A group's split follows from a hash of its name and the seed, and from nothing else: adding images never moves an old
one, unless they show that two groups were one. So every class gets its share in expectation, and exactly only as far as
chance and the groups allow. The seed is the freedom that is left, and this command looks for one that deals the classes
out evenly; put it into params.yaml once, when a dataset begins:

    python -m Data_processing.split --accepted Data_processing/intermediate/clean/accepted.parquet --tries 1000
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import typer

from Data_processing.duplicates import find_groups
from Datasets.command import run
from Datasets.errors import UserError
from Datasets.records import SPLITS

Shares = Mapping[str, float]


def check_shares(shares: Shares) -> None:
    """Raise UserError unless the shares add up to 1."""
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise UserError(
            f"curate: the shares {', '.join(f'{k} {v:g}' for k, v in shares.items())} add up to {total:g}, not 1"
        )


def split_of(group: str, shares: Shares, seed: int) -> str:
    """The split of a group: where the hash of seed and name falls in [0, 1), cut up by the shares."""
    place = int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64
    ends = np.cumsum([shares[split] for split in SPLITS])
    return SPLITS[min(int(np.searchsorted(ends, place, side="right")), len(SPLITS) - 1)]


def balance(
    groups: Sequence[str], labels: Sequence[Sequence[str]], shares: Shares, seed: int
) -> dict[str, dict[str, float]]:
    """For each class, and for all images as "", the share of its images that each split gets."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    splits = {group: split_of(group, shares, seed) for group in set(groups)}
    for group, names in zip(groups, labels, strict=True):
        for name in ("", *names):
            counts[name][splits[group]] += 1
    return {name: {split: found[split] / found.total() for split in SPLITS} for name, found in sorted(counts.items())}


def deviation(found: Mapping[str, Mapping[str, float]], shares: Shares) -> float:
    """The greatest distance of a class's share in a split from the wished one; 1 if a wished split stays empty."""
    if any(shares[split] > 0 and found[""][split] == 0 for split in SPLITS):
        return 1.0
    return max(abs(parts[split] - shares[split]) for parts in found.values() for split in SPLITS)


def best_seeds(
    groups: Sequence[str], labels: Sequence[Sequence[str]], shares: Shares, tries: int
) -> list[tuple[float, int]]:
    """The seeds below `tries` with their deviation, best first."""
    return sorted((deviation(balance(groups, labels, shares, seed), shares), seed) for seed in range(tries))


def main(
    accepted: Annotated[Path, typer.Option(help="the clean stage's accepted.parquet")],
    tries: Annotated[int, typer.Option(min=1, help="seeds to try, from 0")] = 1000,
    group_pattern: Annotated[str, typer.Option(help="as for curate")] = "",
    near_duplicate_bits: Annotated[int, typer.Option(min=0, max=256, help="as for curate")] = 24,
    train: Annotated[float, typer.Option(min=0, max=1, help="share of images")] = 0.7,
    val: Annotated[float, typer.Option(min=0, max=1, help="share of images")] = 0.15,
    test: Annotated[float, typer.Option(min=0, max=1, help="share of images")] = 0.15,
) -> None:
    """Look for a seed that deals every class out as wished; takes the group `curate` of params.yaml but its seed."""
    shares = {"train": train, "val": val, "test": test}
    check_shares(shares)
    rows = pq.read_table(accepted, columns=["image", "source", "sha256", "phash", "labels"]).to_pylist()
    groups, _, _ = find_groups(rows, group_pattern, near_duplicate_bits)
    print(f"{len(rows)} images in {len(set(groups))} groups; greatest distance of any class from its wished share:")
    for distance, seed in best_seeds(groups, [row["labels"] or () for row in rows], shares, tries)[:5]:
        print(f"seed {seed}: {distance:.3f}")


if __name__ == "__main__":
    run(main)
