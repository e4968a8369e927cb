"""Which images train, which validate, which test: a group's split follows from a hash of its name and the seed alone.

So adding images never moves an old one, unless they show that two groups were one. Every class gets its share in
expectation, and exactly only as far as chance and the groups allow; the seed is the freedom that is left.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from Data_processing.curating.duplicates import COLUMNS, Groups, find_groups
from Data_processing.shared.inspected import check_parquet
from Datasets.format.records import SPLITS
from Datasets.tools.errors import UserError

Shares = Mapping[str, float]


def check_shares(shares: Shares) -> None:
    """Raise UserError unless the shares add up to 1."""
    total, stated = sum(shares.values()), ", ".join(f"{split} {share:g}" for split, share in shares.items())
    if abs(total - 1) > 1e-6:
        raise UserError(f"curate: the shares {stated} add up to {total:g}, not 1")


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


def stated_splits(groups: Groups, column: pa.ChunkedArray, keep: bool) -> np.ndarray:
    """int64 [G]: the split that a group's images are stated to be in, or -1; where they differ, that of the most.

    column: what sources state of each image. keep: whether it counts. Prints how many images change sides.
    """
    if not keep:
        return np.full(len(groups.names), -1)
    numbers = pc.fill_null(pc.index_in(column, value_set=pa.array(SPLITS)), len(SPLITS)).to_numpy()
    votes = np.zeros((len(groups.names), len(SPLITS) + 1), np.int64)
    np.add.at(votes, (groups.numbers, numbers), 1)
    votes = votes[:, : len(SPLITS)]
    moved = int((votes.sum(axis=1) - votes.max(axis=1)).sum())
    if moved:
        print(f"warning: {moved} images do not keep their source's split, as their groups span two", file=sys.stderr)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def deal(hashes: np.ndarray, shares: Shares, seed: int, stated: np.ndarray) -> np.ndarray:
    """int64 [G], indices of SPLITS: of each group what is stated, or, where that is -1, what hash and seed decide."""
    return np.where(stated < 0, split_numbers(hashes, shares, seed), stated)


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


def read_groups(accepted: Path, pattern: str, bits: int, keep_splits: bool) -> tuple[Groups, ClassCounts, np.ndarray]:
    """The groups of the clean stage's records, the classes in each, and `stated_splits`."""
    columns = [*COLUMNS, "labels", "split"]
    check_parquet(accepted, columns, "clean")
    table = pq.read_table(accepted, columns=columns)
    groups = find_groups(table, pattern, bits)
    return groups, count_classes(groups.numbers, table["labels"]), stated_splits(groups, table["split"], keep_splits)


def balance(counts: ClassCounts, splits: np.ndarray) -> np.ndarray:
    """float64 [classes, splits]: the share of each class's images in each split. splits: of each group, int64 [G]."""
    found = counts.images @ np.eye(len(SPLITS))[splits]
    return found / found.sum(axis=1, keepdims=True)


def best_seeds(
    groups: Sequence[str], counts: ClassCounts, shares: Shares, stated: np.ndarray, tries: int
) -> list[tuple[float, int]]:
    """The seeds below `tries` with the greatest distance of any class's share in a split from its target, best first.

    The distance is 1 if a split with a share stays empty. stated: as for `deal`.
    """
    hashes, targets, tried = name_hashes(groups), np.array([shares[split] for split in SPLITS]), []
    for seed in range(tries):
        found = balance(counts, deal(hashes, shares, seed, stated))
        empty = np.any((targets > 0) & (found[0] == 0))
        tried.append((1.0 if empty else float(np.abs(found - targets).max()), seed))
    return sorted(tried)


def assign(groups: Groups, counts: ClassCounts, shares: Shares, seed: int, stated: np.ndarray) -> np.ndarray:
    """The split of each group, int64 [G]; see `deal`. Raises UserError, with a remedy, if one with a share is empty."""
    splits = deal(name_hashes(groups.names), shares, seed, stated)
    empty = [split for number, split in enumerate(SPLITS) if shares[split] > 0 and number not in splits]
    if empty:
        distance, better = best_seeds(groups.names, counts, shares, stated, 200)[0]
        advice = f"set curate.seed: {better}" if distance < 1 else "add more groups, or set its share to 0"
        if 2 * len(groups.near) > len(groups.numbers):
            shared = f"{len(groups.near)} are near duplicates: if all that they share is a background"
            advice = f"{shared}, lower curate.near_duplicate_bits; or else {advice}"
        raise UserError(f"{groups.words()}, which leaves {' and '.join(empty)} empty; {advice}")
    return splits
