"""Which images are the same, or nearly, and which therefore must stay together.

All arrays are over the accepted images in the order of their records. Near duplicates are found exactly, without
comparing every pair where hashes are spread: cut the bits into one part more than may differ, and two hashes within
`bits` agree in at least one part (M. Norouzi, A. Punjani, D. J. Fleet, "Fast Exact Search in Hamming Space with
Multi-Index Hashing", 2014). Many images that look alike would still make very many pairs, so of each hash only one
earlier near duplicate is kept, and what it is connected with; pairs that could change neither are left out.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from Datasets.tools.errors import UserError

ROBOFLOW = r"(?P<original>[^/]+)\.rf\.\w+\.\w+$"  # an augmented copy: ORIGINAL_jpg.rf.HASH.jpg
COPIES = "images are called as Roboflow calls augmented copies, and those of one original may be in two splits"
COLUMNS = ["image", "source", "group", "sha256", "phash"]  # of the accepted records, all that is needed here


@dataclass(frozen=True)
class Groups:
    """Which of N images stay together."""

    names: list[str]  # in the order of their first images
    numbers: np.ndarray  # int64 [N]: the group of each image, an index of `names`
    exact: np.ndarray  # int64 [E, 2]: the first image of a content, and each later one that is the same file
    near: np.ndarray  # int64 [M, 2]: an earlier image, and each one that is its near, and no exact, duplicate
    matched: int  # images whose source states no group, and in whose path the group pattern was found
    missed: Sequence[str] = ()  # those in whose path it was not, though in that of others of their source
    better: str = ""  # a group pattern that joins more augmented copies

    def words(self) -> str:
        """How many images in how many groups."""
        counts = (len(self.numbers), "image"), (len(self.names), "group")
        return " in ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)

    def report(self, pattern: str) -> None:
        """Print how many there are, and a warning if `pattern` was not found in paths that it was meant for."""
        print(f"{self.words()}; {len(self.exact)} exact and {len(self.near)} near duplicates")
        warning = f"warning: curate.group_pattern: {pattern!r} matches"
        if pattern and not self.matched:
            print(f"{warning} no path of an image whose source states no group", file=sys.stderr)
        if self.missed:
            others = f"{self.missed[0]} and {len(self.missed) - 1} more"
            print(f"{warning} other paths, but not {others}: each is a group of its own", file=sys.stderr)
        if self.better:
            print(f"warning: {COPIES}: set curate.group_pattern to {self.better}", file=sys.stderr)


def find_groups(accepted: pa.Table, pattern: str, bits: int) -> Groups:
    """Join images of one key (see own_key) and duplicates, directly or by a chain. accepted: COLUMNS of the records.

    A group takes the key of its first image: later images rename no group, unless they show that two groups were one.
    """
    compiled = compile_pattern(pattern)
    columns = (accepted[name].to_pylist() for name in ("image", "source", "group", "sha256"))
    keys = [own_key(compiled, *row) for row in zip(*columns, strict=True)]
    by_key, by_file = first_alike(pa.chunked_array([pa.array(keys, pa.string())])), first_alike(accepted["sha256"])
    own = np.arange(len(keys))
    earlier, look = look_alike(accepted["phash"], bits)
    ends = np.concatenate([by_key, by_file, look])
    first, numbers = np.unique(first_of_component(len(keys), np.tile(own, 3), ends), return_inverse=True)
    keyed, unstated = np.array(["/" in key for key in keys], bool), accepted["group"].is_null().to_numpy()
    source, matched = first_alike(accepted["source"]), keyed & unstated
    missed = np.flatnonzero(~keyed & np.isin(source, source[matched]))
    exact, near = by_file != own, (earlier >= 0) & (by_file == own)
    return Groups(
        names=[keys[index] for index in first],
        numbers=numbers,
        exact=np.stack([by_file[exact], own[exact]], axis=1),
        near=np.stack([earlier[near], own[near]], axis=1),
        matched=int(matched.sum()),
        missed=accepted["image"].take(pa.array(missed)).to_pylist(),
        better=with_copies(pattern, accepted["image"].filter(pa.array(~keyed)).to_pylist()),
    )


def first_alike(column: pa.ChunkedArray) -> np.ndarray:
    """int64 [N]: for each value of a column the index of the first that is equal."""
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return np.unique(codes, return_index=True)[1][codes]


def look_alike(hashes: pa.ChunkedArray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """For each perceptual hash, int64 [N] each: an earlier one within `bits`, or -1; the first it is connected with."""
    first = first_alike(hashes)
    distinct = np.unique(first)
    values = hashes.take(pa.array(distinct)).combine_chunks()
    packed = np.frombuffer(b"".join(values.to_pylist()), np.uint8)
    links = near_duplicates(packed.reshape(len(distinct), values.type.byte_width), bits)
    earlier = np.where(first == np.arange(len(first)), -1, first)
    found = links.earlier >= 0
    earlier[distinct[found]] = distinct[links.earlier[found]]
    return earlier, distinct[links.label][np.searchsorted(distinct, first)]


def compile_pattern(pattern: str) -> re.Pattern[str] | None:
    """The group pattern, None for "". Raises UserError if it is no regular expression with named parts."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"curate.group_pattern: {pattern!r} is no regular expression: {error}") from error
    if pattern and not compiled.groupindex:
        raise UserError(f"curate.group_pattern: {pattern!r} has no named part, such as (?P<session>[0-9]+)")
    return compiled if pattern else None


def with_copies(pattern: str, images: Iterable[str]) -> str:
    """The pattern that also joins Roboflow's augmented copies; "" if it matches all that are among the images."""
    own = compile_pattern(pattern)
    missed = (image for image in images if not (own and own.search(image)) and re.search(ROBOFLOW, image))
    return "|".join(filter(None, (pattern, ROBOFLOW))) if any(missed) else ""


def own_key(pattern: re.Pattern[str] | None, image: str, source: str, group: str | None, sha256: str) -> str:
    """What an image belongs to by itself: the group that its source states, or parts of its path, or its sha256."""
    if group is not None:
        return f"{source}/{group}"
    found = pattern.search(image) if pattern else None
    parts = "_".join(part for part in found.groupdict().values() if part) if found else ""
    return f"{source}/{parts}" if parts else sha256[:16]


class Links:
    """What is known so far of `number` hashes: which have an earlier near duplicate, and which are connected."""

    def __init__(self, number: int) -> None:
        self.earlier = np.full(number, -1)  # int64 [N]: the index of an earlier near duplicate, -1 if none is known
        self.label = np.arange(number)  # int64 [N]: the first of all hashes that it is connected with

    def settled(self) -> np.ndarray:
        """int64 [N]: pairs of equal numbers can bring nothing new: they are connected, and the later has an earlier."""
        own = np.arange(len(self.label))
        return np.where((self.earlier < 0) & (self.label != own), own, self.label)

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Take note of pairs of near duplicates, indices int64 [P] each, in any order."""
        low, high = np.minimum(one, other), np.maximum(one, other)
        new = self.earlier[high] < 0
        self.earlier[high[new]] = low[new]
        ends = np.stack([self.label[low], self.label[high]])
        ends = ends[:, ends[0] != ends[1]]
        if ends.size:
            labels, places = np.unique(ends, return_inverse=True)
            renamed = np.arange(len(self.label))
            renamed[labels] = labels[first_of_component(len(labels), *places.reshape(2, -1))]
            self.label = renamed[self.label]


def first_of_component(number: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """int64 [number]: for each of `number` items the first that it is connected with by edges, indices [P] each."""
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(number, number))
    _, component = connected_components(graph, directed=False)
    return np.unique(component, return_index=True)[1][component]


def near_duplicates(hashes: np.ndarray, bits: int) -> Links:
    """What connects hashes uint8 [N, 8 * k], no two alike, of which two are near if they differ in at most `bits` bits.

    Memory grows with N alone. Where the parts would leave more pairs than there are, every pair is compared once.
    """
    links, words = Links(len(hashes)), np.ascontiguousarray(hashes).view(np.uint64)
    keys = part_keys(hashes, bits)
    sizes = [np.unique(key, return_counts=True)[1] for key in keys]
    if sum(int((size * (size - 1)).sum()) for size in sizes) > len(hashes) * (len(hashes) - 1):
        keys = [np.zeros(len(hashes), np.int64)]
    for key in keys:
        compare_alike(key, words, bits, links)
    return links


def part_keys(hashes: np.ndarray, bits: int) -> list[np.ndarray]:
    """int64 [N] for each of bits + 1 parts of the bits: its first 62 bits as a number.

    The bits are dealt out by how evenly they divide the hashes, so that no part is left with those that hardly vary.
    """
    sample = np.unpackbits(hashes[:: max(1, len(hashes) // 50_000)], axis=1)
    even = np.argsort(np.abs(sample.sum(axis=0) * 2 - len(sample)), kind="stable")
    keys = []
    for part in range(bits + 1):
        key = np.zeros(len(hashes), np.int64)
        for place in even[part :: bits + 1][:62]:
            key = key << 1 | hashes[:, place // 8] >> (7 - place % 8) & 1
        keys.append(key)
    return keys


def compare_alike(keys: np.ndarray, words: np.ndarray, bits: int, links: Links) -> None:
    """Compare hashes, uint64 [N, k], of one key, int64 [N]: sorted, each with the next, then the one after it, …"""
    order = np.argsort(keys, kind="stable")
    keys, columns = keys[order], np.ascontiguousarray(words[order].T)
    one, settled = np.arange(len(keys)), links.settled()[order]
    for step in count(1):
        one = one[: np.searchsorted(one, len(keys) - step)]
        one = one[keys[one] == keys[one + step]]
        if not len(one):
            return
        if step & (step - 1) == 0:  # now and then, as it takes long: what was settled stays so
            settled = links.settled()[order]
        near = one[settled[one] != settled[one + step]]
        distance = np.zeros(len(near), np.uint16)
        for column in columns:  # word by word, as the first leaves few
            distance = distance + np.bitwise_count(column[near] ^ column[near + step])
            near, distance = near[distance <= bits], distance[distance <= bits]
        links.add(order[near], order[near + step])
