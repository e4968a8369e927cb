"""All near duplicates among very many perceptual hashes, exactly, without comparing every pair where they are spread.

Pigeonholes: cut the bits into one part more than may differ; two hashes within `bits` then agree in at least one part.
So only hashes are compared that agree in a part: at 24 of 256 bits, about one pair in 40 of spread ones.
M. Norouzi, A. Punjani, D. J. Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing", 2014.

Many images that look alike would still make very many pairs, so no list of pairs is kept, only what is asked of them:
one earlier hash for each, and which are connected. Pairs that could change neither are left out.
"""

from itertools import count

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


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

    Exact for any `bits`. Memory grows with N alone. Where the parts would leave more pairs than there are, as when all
    images look alike without being near, every pair is compared once.
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
    """Compare all pairs of hashes with the same key, int64 [N]. words: the hashes, uint64 [N, k].

    The hashes are sorted by their keys, and each is compared with the next, then with the one after that, and so on.
    """
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
