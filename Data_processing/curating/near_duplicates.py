"""All near duplicates among very many perceptual hashes, exactly, without comparing every pair where they are spread.

Pigeonholes: cut the bits into parts and give each part a tolerance t of 0 or 1 so that the sum of t + 1 exceeds `bits`;
two hashes within `bits` then differ in at most t bits in at least one part. So only hashes are compared that agree in a
part, or all but one bit of it: at a million spread hashes of 256 bits and 24 bits, one pair in 4,000.
M. Norouzi, A. Punjani, D. J. Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing", 2014; tolerances
that differ: J. Qin et al., "GPH: Similarity Search in Hamming Space", 2018.

Many images that look alike would still make very many pairs, so no list of pairs is kept, only what is asked of them:
one earlier hash for each, and which are connected. Pairs that could change neither are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Part = tuple[list[int], int]  # which bits, and how many of them may differ
BLOCK = 1024  # hashes; a block of all with all is 1,048,576 pairs
BATCH = 1 << 20  # pairs compared at once: few enough for the processor's cache, many enough for NumPy
BUDGET = 1 / 8  # of N * N pairs: one that is looked up costs several times what it costs in a block
FEW = 4096  # up to here comparing every pair is faster
WIDTH = 20  # bits of a part at most; a table has an entry for each of its values


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

    Exact for any `bits`. Memory grows with N alone. The time depends on how the hashes are spread; where very many
    crowd together without being near it ends with comparing every pair, and has then cost up to about twice that.
    """
    links = Links(len(hashes))
    columns = np.ascontiguousarray(np.ascontiguousarray(hashes).view(np.uint64).T)
    if len(hashes) <= FEW or not _search_parts(hashes, columns, bits, links):
        compare_all(columns, bits, links)
    return links


def compare_all(columns: np.ndarray, bits: int, links: Links) -> None:
    """Compare every pair of hashes, uint64 [k, N], block by block, but for blocks in which all is settled."""
    number = columns.shape[1]
    for row in range(0, number, BLOCK):
        for column in range(row, number, BLOCK):
            left, right = slice(row, row + BLOCK), slice(column, column + BLOCK)
            settled = links.settled()
            unsettled = settled[left, None] != settled[None, right]
            if unsettled.any():
                near = _distance(columns[:, left, None], columns[:, None, right]) <= bits
                one, other = np.nonzero(near & unsettled)
                links.add(one + row, other + column)


def _distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """uint16: the number of bits in which words uint64 [k, ...] differ."""
    distance = np.bitwise_count(left[0] ^ right[0]).astype(np.uint16)
    for one, other in zip(left[1:], right[1:], strict=True):
        distance += np.bitwise_count(one ^ other)
    return distance


def choose_parts(hashes: np.ndarray, bits: int) -> list[Part]:
    """Disjoint parts of the bits, whose tolerances' t + 1 add up to bits + 1; [] if they would be too narrow.

    The bits are dealt out by how evenly they divide the hashes, so that no part is left with those that hardly vary.
    """
    total = hashes.shape[1] * 8
    pairs = 0 if (bits + 1) * WIDTH <= total else (bits + 1) // 2
    tolerances = [1] * pairs + [0] * (bits + 1 - 2 * pairs)
    exact = tolerances.count(0) if 1 in tolerances else 0  # looked up once, not once a bit: may be 4 bits narrower
    width = min(WIDTH, (total + 4 * exact) // len(tolerances))
    if width < 8:
        return []
    widths = [width if t or not exact else width - 4 for t in tolerances]
    sample = hashes[:: max(1, len(hashes) // 50_000)]
    even = np.argsort(np.abs(np.unpackbits(sample, axis=1).mean(axis=0) - 0.5), kind="stable")
    parts: list[Part] = [([], t) for t in tolerances]
    for bit in even[: sum(widths)].tolist():
        emptiest = min(range(len(parts)), key=lambda p: len(parts[p][0]) / widths[p])
        parts[emptiest][0].append(bit)
    return parts


def _search_parts(hashes: np.ndarray, columns: np.ndarray, bits: int, links: Links) -> bool:
    """Find all links by parts; False if they cannot, or if that turned out no better than to compare every pair."""
    parts = choose_parts(hashes, bits)
    keys = [_keys(hashes, places) for places, _ in parts]
    for key in keys:
        _link_neighbours(key, columns, bits, links)
    left_over = BUDGET * len(hashes) ** 2
    for (places, tolerance), key in zip(parts, keys, strict=True):
        table = Table.of(key, columns, links, len(places))
        for flip in (0, *(1 << np.arange(len(places) * tolerance))):
            one, start, stop = table.matches(int(flip))
            left_over -= int((stop - start).sum())
            if left_over < 0:
                return False
            for left, right in _pairs(one, start, stop):
                links.add(*(table.order[side] for side in _near(table.columns, left, right, bits)))
    return bool(parts)


def _keys(hashes: np.ndarray, places: list[int]) -> np.ndarray:
    """int64 [N]: the bits at `places` as one number."""
    keys = np.zeros(len(hashes), np.int64)
    for place in places:
        keys = keys << 1 | hashes[:, place // 8] >> (7 - place % 8) & 1
    return keys


def _link_neighbours(keys: np.ndarray, columns: np.ndarray, bits: int, links: Links) -> None:
    """Compare each hash with the one before it, and with the first, of those with its key.

    This finds nothing that the search would not, but settles at little cost most pairs among images that look alike.
    """
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    later = np.flatnonzero(same) + 1
    places = np.arange(len(keys))
    first = np.maximum.accumulate(np.where(np.append(False, same), 0, places))
    for earlier in (first[later], later - 1):
        links.add(*_near(columns, order[later], order[earlier], bits))


@dataclass
class Table:
    """Hashes in the order of their keys, those of one key in that of what is settled among them."""

    order: np.ndarray  # int64 [N]: the index of the hash at each place
    columns: np.ndarray  # uint64 [k, N]: the hashes at each place
    keys: np.ndarray  # int64 [N]
    starts: np.ndarray  # int64 [values + 1]: where each value of a key begins
    codes: np.ndarray  # int64 [N], ascending: key and settled as one number
    alone: np.ndarray  # bool [N]: no other hash shares what is settled

    @classmethod
    def of(cls, keys: np.ndarray, columns: np.ndarray, links: Links, width: int) -> "Table":
        """The table of keys int64 [N] of `width` bits."""
        settled = links.settled()
        codes = keys * len(keys) + settled
        order = np.argsort(codes)
        starts = np.append(0, np.cumsum(np.bincount(keys, minlength=1 << width)))
        alone = (np.bincount(settled, minlength=len(keys)) == 1)[settled]
        return cls(order, columns[:, order], keys[order], starts, codes[order], alone[order])

    def matches(self, flip: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places, and from where to where, int64 [M] each, the hashes lie whose key differs by `flip`; unsettled pairs.

        Each pair comes once: with a flip from the side whose key lacks the bit, without one from the first.
        """
        if not flip:
            start, stop = np.searchsorted(self.codes, self.codes, side="right"), self.starts[self.keys + 1]
            one = np.flatnonzero(start < stop)
            return one, start[one], stop[one]
        one = np.flatnonzero(self.keys & flip == 0)
        wanted = self.keys[one] | flip
        start, stop = self.starts[wanted], self.starts[wanted + 1]
        crowd = np.flatnonzero(~self.alone[one] & (start < stop))  # leave out what is settled with them
        code = self.codes[one[crowd]] + flip * len(self.order)
        low, high = (np.searchsorted(self.codes, code, side=side) for side in ("left", "right"))
        one = np.concatenate([one, one[crowd]])
        start, stop = np.concatenate([start, high]), np.concatenate([stop, stop[crowd]])
        stop[crowd] = low
        some = start < stop
        return one[some], start[some], stop[some]


def _pairs(one: np.ndarray, start: np.ndarray, stop: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each of `one` with all numbers from its start to before its stop, int64 [P] each, in batches."""
    ends = np.cumsum(stop - start)
    first = 0
    while first < len(one):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + BATCH, side="right")))
        length = (stop - start)[first:last]
        shift = np.repeat(start[first:last] - (ends[first:last] - length - done), length)
        yield np.repeat(one[first:last], length), np.arange(len(shift)) + shift
        first = last


def _near(columns: np.ndarray, one: np.ndarray, other: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the pairs, int64 [P] each, that are within `bits`; word by word, as the first leaves few."""
    distance = np.zeros(len(one), np.uint16)
    for column in columns:
        distance = distance + np.bitwise_count(column[one] ^ column[other])
        near = distance <= bits
        one, other, distance = one[near], other[near], distance[near]
    return one, other
