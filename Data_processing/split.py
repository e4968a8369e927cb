"""Which images train, which validate, which test: a group's split follows from a hash of its name and the seed alone.

    python -m Data_processing.split --accepted Data_processing/intermediate/clean/accepted.parquet --tries 1000

looks for a seed that deals every class out evenly; put it into params.yaml once, when a dataset begins.

So adding images never moves an old one, unless they show that two groups were one. Every class gets its share in
expectation, and exactly only as far as chance and the groups allow; the seed is the freedom that is left.
"""

import hashlib
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import csr_array
from typer import Option

from Data_processing.curating.duplicates import COLUMNS, Groups, find_groups
from Data_processing.shared.inspected import check_parquet
from Datasets.format.records import SPLITS
from Datasets.tools.command import options_of, run, with_options
from Datasets.tools.errors import UserError

Shares = Mapping[str, float]
Share = Annotated[float, Option(min=0, max=1, help="share of images")]
ANY, TRAIN_OR_LACKING = -1, -2  # instead of the split that a group is stated to be in: dealt out by the seed


@dataclass(frozen=True)
class SplitOptions:
    """What decides which images stay together, and about how many go into each split."""

    group_pattern: Annotated[str, Option(help="regular expression with named parts, over the image's path")] = ""
    near_duplicate_bits: Annotated[int, Option(min=0, max=256, help="of 256 that may differ")] = 24
    train: Share = 0.7
    val: Share = 0.15
    test: Share = 0.15
    keep_splits: Annotated[bool, Option(help="where a source states an image's split, keep it")] = False

    def shares(self) -> Shares:
        """The share of each split. Raises UserError unless they add up to 1."""
        shares = {split: getattr(self, split) for split in SPLITS}
        total, stated = sum(shares.values()), ", ".join(f"{split} {share:g}" for split, share in shares.items())
        if abs(total - 1) > 1e-6:
            raise UserError(f"curate: the shares {stated} add up to {total:g}, not 1")
        return shares


def name_hashes(groups: Sequence[str]) -> np.ndarray:
    """uint64 [G]: the first eight bytes of each name's sha256."""
    digests = b"".join(hashlib.sha256(group.encode()).digest()[:8] for group in groups)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def split_numbers(hashes: np.ndarray, shares: Shares, seed: int) -> np.ndarray:
    """int64 [G], indices of SPLITS, from name_hashes: where hash and seed together fall in [0, 1), cut up by shares."""
    places = (_mixed(hashes ^ _mixed(np.full(1, seed % 2**64, np.uint64))) >> np.uint64(11)) * 2.0**-53
    ends = np.cumsum([shares[split] for split in SPLITS])
    return np.searchsorted(ends / ends[-1], places, side="right")


def _mixed(values: np.ndarray) -> np.ndarray:
    """uint64: a step of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def stated_splits(groups: Groups, column: pa.ChunkedArray, keep: bool, shares: Shares) -> np.ndarray:
    """int64 [G]: the split that a group's images are stated to be in, or ANY; where they differ, that of the most.

    Where no image is stated to be in a split that has a share, TRAIN_OR_LACKING instead of train. column: what sources
    state of each image. keep: whether it counts. Prints how many images change sides, and what is taken out of train.
    """
    if not keep:
        return np.full(len(groups.names), ANY)
    numbers = pc.fill_null(pc.index_in(column, value_set=pa.array(SPLITS)), len(SPLITS)).to_numpy()
    votes = np.zeros((len(groups.names), len(SPLITS) + 1), np.int64)
    np.add.at(votes, (groups.numbers, numbers), 1)
    votes = votes[:, : len(SPLITS)]
    moved = int((votes.sum(axis=1) - votes.max(axis=1)).sum())
    if moved:
        print(f"warning: {moved} images do not keep their source's split, as their groups span two", file=sys.stderr)
    stated = np.where(votes.any(axis=1), votes.argmax(axis=1), ANY)
    lacking = [split for split, share in _of_train(shares, stated).items() if share and split != "train"]
    if lacking and (stated == 0).any():
        print(f"{' and '.join(lacking)}: stated of no image, so taken out of train by groups; a share of 0 prevents it")
        stated[stated == 0] = TRAIN_OR_LACKING
    return stated


def _of_train(shares: Shares, stated: np.ndarray) -> dict[str, float]:
    """The shares of train and of the splits in which no group is stated to be; 0 for others."""
    return {split: 0.0 if split != "train" and n in stated else shares[split] for n, split in enumerate(SPLITS)}


def deal(hashes: np.ndarray, shares: Shares, seed: int, stated: np.ndarray) -> np.ndarray:
    """int64 [G], indices of SPLITS: of each group what is stated, or else what hash and seed decide."""
    lacking = stated == TRAIN_OR_LACKING
    splits = np.where(stated == ANY, split_numbers(hashes, shares, seed), stated)
    if lacking.any():
        splits[lacking] = split_numbers(hashes[lacking], _of_train(shares, stated), seed)
    return splits


@dataclass(frozen=True)
class ClassCounts:
    """How many images of each class each group has."""

    names: list[str]  # the classes, after "", which stands for all images
    images: csr_array  # int64 [classes, G]


def count_classes(groups: np.ndarray, labels: pa.ChunkedArray) -> ClassCounts:
    """From the group of each image, int64 [N], and the class names in it, lists or null."""
    lists = labels.combine_chunks()
    names = ["", *sorted(pc.unique(lists.flatten()).to_pylist())]
    numbers = pc.index_in(lists.flatten(), value_set=pa.array(names)).to_numpy()
    classes = np.append(np.zeros(len(groups), np.int64), numbers)
    owners = np.append(groups, groups[pc.list_parent_indices(lists).to_numpy()])
    shape = len(names), groups.max(initial=-1) + 1
    return ClassCounts(names, csr_array((np.ones(len(classes), np.int64), (classes, owners)), shape))


def read_groups(accepted: Path, how: SplitOptions) -> tuple[Groups, ClassCounts, np.ndarray]:
    """The groups of the clean stage's records that no source's entry places, the classes in each, `stated_splits`."""
    columns = [*COLUMNS, "labels", "split"]
    check_parquet(accepted, columns, "clean")
    table = pq.read_table(accepted, columns=columns)
    table = table.filter(pa.array(_placed(table) < 0))
    groups = find_groups(table, how.group_pattern, how.near_duplicate_bits)
    stated = stated_splits(groups, table["split"], how.keep_splits, how.shares())
    return groups, count_classes(groups.numbers, table["labels"]), stated


def _placed(table: pa.Table) -> np.ndarray:
    """int64 [N]: the split in which its source's entry places each image, or -1."""
    of_source = json.loads(table.schema.metadata[b"placed"])
    numbers = {source: SPLITS.index(split) for source, split in of_source.items()}
    return np.array([numbers.get(source, -1) for source in table["source"].to_pylist()], np.int64)


def with_placed(
    accepted: Path, how: SplitOptions, groups: Groups, dealt: np.ndarray
) -> tuple[Groups, np.ndarray, np.ndarray]:
    """All groups, the split of each, and which images stay, bool [N]. groups, dealt: of the images not placed.

    These stay where they would be without the placed ones. A placed image whose group has images in another split is
    left out: there it would change what is compared, and elsewhere it would be a leak. Prints how many there are.
    """
    table = pq.read_table(accepted, columns=COLUMNS)
    splits = _placed(table)
    free = splits < 0
    if free.all():
        return groups, dealt, free
    splits[free] = dealt[groups.numbers]
    groups = find_groups(table, how.group_pattern, how.near_duplicate_bits)
    numbers = groups.numbers
    found = np.zeros((len(numbers), len(SPLITS)), bool)
    found[numbers, splits] = True
    kept = free | (found.sum(axis=1) == 1)[numbers]
    if out := table["image"].filter(pa.array(~kept)).to_pylist():
        why = "are left out, as images of their groups are in another split than their source's `split`"
        print(f"warning: {len(out)} images, such as {out[0]}, {why}", file=sys.stderr)
        groups = find_groups(table.filter(pa.array(kept)), how.group_pattern, how.near_duplicate_bits)
    return groups, splits[kept][np.unique(groups.numbers, return_index=True)[1]], kept


def balance(counts: ClassCounts, splits: np.ndarray) -> np.ndarray:
    """float64 [classes, splits]: the share of each class's images in each split. splits: of each group, int64 [G]."""
    found = counts.images @ np.eye(len(SPLITS))[splits]
    return found / found.sum(axis=1, keepdims=True)


def missing_classes(counts: ClassCounts, splits: np.ndarray, shares: Shares, stated: np.ndarray) -> list[str]:
    """A line for each class that a split with a share lacks, with what helps. splits, stated: as for `deal`."""
    wanted, lines = [number for number, split in enumerate(SPLITS) if shares[split] > 0], []
    for number, name in enumerate(counts.names[1:], 1):
        owners = counts.images[[number]].indices
        if empty := [SPLITS[split] for split in wanted if split not in splits[owners]]:
            fixed, remedy = stated[owners], "try the seeds of Data_processing.split"
            if (stay := len({*wanted}.difference(fixed.tolist())) - (fixed < 0).sum()) > 0:
                others = ", or keep_splits: false" if (fixed >= 0).any() else ""
                remedy = f"{stay} of them whatever the seed: only more images of it, in other groups{others}, help"
            lines.append(f"{' and '.join(empty)}: no image with {name} (groups that have it: {len(owners)}); {remedy}")
    return lines


def best_seeds(
    groups: Sequence[str], counts: ClassCounts, shares: Shares, stated: np.ndarray, tries: int
) -> list[tuple[int, int, float, int]]:
    """Of the seeds below `tries`, best first: how many splits are empty, how many classes missing from a split, how far
    a class's share is from its target on average, and the seed. stated: as for `deal`.
    """
    hashes, targets, tried = name_hashes(groups), np.array([shares[split] for split in SPLITS]), []
    for seed in range(tries):
        found = balance(counts, deal(hashes, shares, seed, stated))
        empty = ((targets > 0) & (found == 0)).sum(axis=1)
        tried.append((int(empty[0]), int(empty[1:].sum()), float(np.abs(found - targets).mean()), seed))
    return sorted(tried)


def assign(
    groups: Groups, counts: ClassCounts, shares: Shares, seed: int, stated: np.ndarray, placed: Collection[str] = ()
) -> np.ndarray:
    """The split of each group, int64 [G]; see `deal`. Raises UserError, with a remedy, if one with a share is empty and
    not one of `placed`, which have other images.
    """
    splits = deal(name_hashes(groups.names), shares, seed, stated)
    wanted = {split for split in SPLITS if shares[split] > 0}.difference(placed)
    empty = [split for number, split in enumerate(SPLITS) if split in wanted and number not in splits]
    if empty:
        still_empty, *_, better = best_seeds(groups.names, counts, shares, stated, 200)[0]
        advice = "add more groups, or set its share to 0" if still_empty else f"set curate.seed: {better}"
        if 2 * len(groups.near) > len(groups.numbers):
            shared = f"{len(groups.near)} are near duplicates: if all that they share is a background"
            advice = f"{shared}, lower curate.near_duplicate_bits; or else {advice}"
        raise UserError(f"{groups.words()}, which leaves {' and '.join(empty)} empty; {advice}")
    return splits


@with_options(options_of(SplitOptions))
def main(
    accepted: Annotated[Path, Option(help="the clean stage's accepted.parquet")],
    tries: Annotated[int, Option(min=1, help="seeds to try, from 0")] = 1000,
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
