"""Which images the report shows: chosen by rules, never at random, so that the same dataset shows the same images."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from Data_processing.reporting.data import Dataset, box_measures
from Datasets.format.records import SPLITS

CANDIDATES = 8  # images looked at for each class in each split
WINDOW = 2048  # an image is compared with at most so many of its group
BLOCK = 512


def evenly(rules: pd.Series, most: int) -> pd.Index:
    """The index of at most `most` entries, in which every rule gets its turn before any gets a second one."""
    turn = rules.groupby(rules).cumcount()
    order = pd.DataFrame({"turn": turn, "rule": rules}).sort_values(["turn", "rule"], kind="stable")
    return order.head(most).sort_values(["rule", "turn"], kind="stable").index


def gallery(dataset: Dataset, most: int) -> list[int]:
    """At most `most` images that between them show as many classes of as many splits as they can, and one of nothing.

    Greedy set cover over the pairs (class, split): each image adds as many unseen pairs as any could, and among those
    that add as many, the one with fewest boxes is taken. What is left of `most` is filled with other images.
    """
    images = dataset.images
    order = images["sha256"].rank(method="first").to_numpy()
    splits = pd.Categorical(images["split"], categories=SPLITS).codes
    chosen = list(images.index[images["labels"] == 0][:1])
    wanted = _pairs_of_candidates(dataset, order, splits)
    boxes = images["boxes"].fillna(0).to_numpy()
    seen: set[int] = set()
    while wanted and len(chosen) < most:
        best = min(wanted, key=lambda row: (-len(wanted[row] - seen), boxes[row], order[row]))
        if not wanted[best] - seen:
            break
        chosen.append(best)
        seen |= wanted.pop(best)
    return sorted(int(row) for row in [*chosen, *_fill(chosen, order, splits, most - len(chosen))])


def _fill(chosen: list[int], order: np.ndarray, splits: np.ndarray, room: int) -> list[int]:
    """At most `room` further images, each of the split of which fewest were chosen."""
    rows = np.argsort(order)
    rows = rows[~np.isin(rows, chosen)]
    waiting = {split: list(rows[splits[rows] == split][:room]) for split in range(len(SPLITS))}
    shown = Counter(splits[chosen].tolist())
    found: list[int] = []
    while len(found) < room and any(waiting.values()):
        split = min((split for split in waiting if waiting[split]), key=lambda split: shown[split])
        shown[split] += 1
        found.append(waiting[split].pop(0))
    return found


def _pairs_of_candidates(dataset: Dataset, order: np.ndarray, splits: np.ndarray) -> dict[int, set[int]]:
    """For each image that is looked at, the (class, split) pairs that it shows, as numbers."""
    labels = dataset.labels
    table = pd.DataFrame({"row": labels["row"], "pair": labels["name"] * len(SPLITS) + splits[labels["row"]]})
    first = table.assign(order=order[table["row"]]).sort_values("order").groupby("pair").head(CANDIDATES)["row"]
    found: dict[int, set[int]] = {}
    for row, pair in table[table["row"].isin(first)].itertuples(index=False):
        found.setdefault(int(row), set()).add(int(pair))
    return found


def extremes(dataset: Dataset, most: int) -> dict[str, pd.Series]:
    """The images at the ends of what was measured, where mistakes gather: for each heading the values, by image."""
    images = dataset.images
    longer = images[["width", "height"]].max(axis=1)
    found = {
        "Darkest": images["brightness"].nsmallest(most),
        "Brightest": images["brightness"].nlargest(most),
        "Least sharp": images["sharpness"].nsmallest(most),
        "Smallest": longer.nsmallest(most),
    }
    if len(dataset.boxes):
        found["Most boxes"] = images["boxes"].nlargest(most)
        found["Smallest boxes"] = (
            box_measures(dataset)["side"].groupby(dataset.boxes["row"]).min().nsmallest(most) * 100
        )
    return found


def exact_pairs(images: pd.DataFrame) -> list[tuple[int, int]]:
    """Each image with the first one of the same file."""
    codes, _ = pd.factorize(images["sha256"])
    _, first = np.unique(codes, return_index=True)
    return [(int(first[codes[row]]), int(row)) for row in np.flatnonzero(first[codes] != np.arange(len(codes)))]


def near_pairs(images: pd.DataFrame, bits: int) -> list[tuple[int, int, int]]:
    """Near duplicates (one, other, distance in bits), farthest apart first: at the threshold mistakes would show.

    Near duplicates share a group, so only members of a group are compared: each with those before it, at most WINDOW,
    and listed with the nearest of them. Copies of one file are left out.
    """
    files = images["sha256"].to_numpy()
    found = [
        (int(one), int(other), int(distance))
        for members in _groups(images)
        for one, other, distance in _nearest_before(members, images["phash"].to_numpy()[members])
        if distance <= bits and files[one] != files[other]
    ]
    return sorted(found, key=lambda pair: (-pair[2], pair[:2]))


def _groups(images: pd.DataFrame) -> Iterator[np.ndarray]:
    """The row numbers of each group of more than one image."""
    codes, _ = pd.factorize(images["group"])
    order = np.argsort(codes, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(part) > 1:
            yield part


def _nearest_before(members: np.ndarray, hashes: np.ndarray) -> Iterator[tuple[int, int, int]]:
    words = np.frombuffer(b"".join(hashes), np.uint64).reshape(len(members), -1)
    for start in range(0, len(members), BLOCK):
        low = max(0, start - WINDOW)
        block, before = words[start : start + BLOCK], words[low : start + BLOCK]
        distance = np.zeros((len(block), len(before)), np.uint16)
        for k in range(words.shape[1]):
            distance += np.bitwise_count(block[:, None, k] ^ before[None, :, k])
        distance[np.arange(len(before))[None] >= np.arange(start - low, start - low + len(block))[:, None]] = 999
        for i, j in enumerate(distance.argmin(1)):
            if distance[i, j] < 999:
                yield int(members[low + j]), int(members[start + i]), int(distance[i, j])
