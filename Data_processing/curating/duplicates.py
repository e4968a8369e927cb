"""Which images are the same, or nearly, and which therefore must stay together.

Everything here is over the accepted images in the order of their records: source by source, in the source's own order.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from Data_processing.curating.near_duplicates import first_of_component, near_duplicates
from Datasets.tools.errors import UserError

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

    def words(self) -> str:
        """How many images in how many groups."""
        counts = (len(self.numbers), "image"), (len(self.names), "group")
        return " in ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)

    def report(self, pattern: str) -> None:
        """Print how many there are, and a warning if `pattern` was not found in all paths that it was meant for."""
        duplicates = f"{len(self.exact)} exact and {len(self.near)} near duplicates"
        print(f"{self.words()}; {duplicates}")
        if pattern and not self.matched:
            where = "no path of an image whose source states no group"
            print(f"warning: curate.group_pattern: {pattern!r} matches {where}", file=sys.stderr)
        if self.missed:
            where = f"other paths, but not {self.missed[0]} and {len(self.missed) - 1} more: each is a group of its own"
            print(f"warning: curate.group_pattern: {pattern!r} matches {where}", file=sys.stderr)


def find_groups(accepted: pa.Table, pattern: str, bits: int) -> Groups:
    """Join the accepted images, of which COLUMNS are read, by `pattern`, by sha256 and by near duplicates.

    Images of one key (see own_key) and duplicates belong together, directly or by a chain. A group takes the key of its
    first image. So images that come later in the order of the records neither rename a group nor move an old image,
    unless they show that two groups were one, where the first one's name wins.
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


def own_key(pattern: re.Pattern[str] | None, image: str, source: str, group: str | None, sha256: str) -> str:
    """What an image belongs to by itself: SOURCE/ and the group that the source states, or else the named parts of the
    image's path; else the start of its sha256.
    """
    if group is not None:
        return f"{source}/{group}"
    found = pattern.search(image) if pattern else None
    parts = "_".join(part for part in found.groupdict().values() if part) if found else ""
    return f"{source}/{parts}" if parts else sha256[:16]
