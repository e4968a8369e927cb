"""Which images are the same, or nearly, and which therefore must stay together."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from Datasets.errors import UserError

BLOCK = 2048
Pair = tuple[int, int]


def exact_pairs(hashes: Sequence[str]) -> Iterator[Pair]:
    """Each index with the first one of the same sha256."""
    first: dict[str, int] = {}
    for index, sha256 in enumerate(hashes):
        if first.setdefault(sha256, index) != index:
            yield first[sha256], index


def near_pairs(hashes: np.ndarray, bits: int) -> Iterator[Pair]:
    """All pairs (i, j), i < j, of perceptual hashes uint8 [N, bytes] that differ in at most `bits` bits.

    Compares every pair, in blocks: exact, and N * N / 2 comparisons.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    for row in range(0, len(words), BLOCK):
        for column in range(row, len(words), BLOCK):
            left, right = words[row : row + BLOCK, None], words[None, column : column + BLOCK]
            distance = sum(
                np.bitwise_count(left[..., k] ^ right[..., k]).astype(np.uint16) for k in range(words.shape[1])
            )
            for i, j in zip(*np.nonzero(distance <= bits), strict=True):
                if row + i < column + j:
                    yield int(row + i), int(column + j)


def compile_pattern(pattern: str) -> re.Pattern[str] | None:
    """The group pattern, None for "". Raises UserError if it is no regular expression with named parts."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"curate.group_pattern: {pattern!r} is no regular expression: {error}") from error
    if pattern and not compiled.groupindex:
        raise UserError(f"curate.group_pattern: {pattern!r} has no named part, such as (?P<session>[0-9]+)")
    return compiled if pattern else None


def own_key(record: Mapping[str, Any], pattern: re.Pattern[str] | None) -> str:
    """What an image belongs to by itself: the named parts of its path within its source, else its own sha256."""
    found = pattern.search(record["image"]) if pattern else None
    parts = "_".join(part for part in found.groupdict().values() if part) if found else ""
    return f"{record['source']}/{parts}" if parts else str(record["sha256"])[:16]


def join_groups(keys: Sequence[str], pairs: Iterable[Pair]) -> list[str]:
    """A group for each image: images of one key and duplicates belong together, directly or by a chain.

    keys: own_key of each image. A group is named by the first of its keys in alphabetical order: images that come later
    do not rename it, unless they show that two groups were one; and even then a higher session number does not.
    """
    first: dict[str, int] = {}
    same_key = ((first.setdefault(key, index), index) for index, key in enumerate(keys))
    roots = _connected(len(keys), chain(same_key, pairs))
    names: dict[int, str] = {}
    for root, key in zip(roots, keys, strict=True):
        names[root] = min(key, names.get(root, key))
    return [names[root] for root in roots]


def _connected(number: int, pairs: Iterable[Pair]) -> list[int]:
    """For each of `number` items one that stands for all it is connected with (disjoint sets with path halving)."""
    parent = list(range(number))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for one, other in pairs:
        parent[root(other)] = root(one)
    return [root(item) for item in range(number)]


def find_groups(
    accepted: Sequence[dict[str, Any]], pattern: str, bits: int
) -> tuple[list[str], list[Pair], list[Pair]]:
    """The group of each accepted row, the exact duplicates (with the first of their kind), the near ones."""
    compiled = compile_pattern(pattern)
    exact = list(exact_pairs([row["sha256"] for row in accepted]))
    hashes = np.array([np.frombuffer(row["phash"], np.uint8) for row in accepted])
    near = sorted(set(near_pairs(hashes, bits)).difference(exact))
    return join_groups([own_key(row, compiled) for row in accepted], [*exact, *near]), exact, near
