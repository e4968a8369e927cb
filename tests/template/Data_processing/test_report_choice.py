"""What the report chooses to show, and what it measures, on examples small enough to check by hand."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from Data_processing.reporting.data import Dataset, changes, coverage
from Data_processing.reporting.sections import duplicate_pairs, evenly, gallery
from Datasets.format.records import SPLITS


@pytest.mark.parametrize(("most", "expected"), [(4, "aabc"), (2, "ab"), (10, "aaaaabc")])
def test_every_rule_gets_its_turn(most, expected):
    rules = pd.Series(list("aaabaca"))
    assert "".join(rules[evenly(rules, most)]) == expected


def dataset(labels: list[list[int]], classes: int) -> Dataset:
    """Images of which only the classes matter, dealt to the splits in turn."""
    images = pd.DataFrame({"sha256": [hashlib.sha256(bytes([i])).hexdigest() for i in range(len(labels))]})
    images["split"] = [SPLITS[i % 3] for i in range(len(labels))]
    images["labels"] = [float(len(names)) for names in labels]
    images["boxes"] = np.nan
    rows = [(row, name) for row, names in enumerate(labels) for name in names]
    table = pd.DataFrame(rows, columns=["row", "name"])
    return Dataset([f"c{k}" for k in range(classes)], images, table, pd.DataFrame({"row": []}), [])


def test_the_gallery_covers_every_class_in_every_split():
    rng = np.random.default_rng(0)
    labels = [[0] if rng.random() < 0.9 else [int(rng.integers(1, 7))] for _ in range(240)]
    chosen = gallery(dataset(labels, 7), 24)
    assert len(chosen) == len(set(chosen)) == 24
    assert {(labels[i][0], i % 3) for i in chosen} == {(labels[i][0], i % 3) for i in range(240)}


def test_the_gallery_shows_an_image_of_nothing():
    labels = [[0]] * 50 + [[]] + [[1]] * 50
    assert 50 in gallery(dataset(labels, 2), 5)


def test_pairs_are_found_and_listed_from_the_threshold_down():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (60, 32), dtype=np.uint8)
    hashes[7], hashes[8] = hashes[1], hashes[2]
    hashes[7, 0] ^= 0b11
    hashes[8, 0] ^= 0b11111
    images = pd.DataFrame({"phash": [row.tobytes() for row in hashes]})
    images["sha256"] = ["same" if i in (3, 9) else str(i) for i in range(60)]
    assert duplicate_pairs(images, 10) == [(2, 8, 5), (1, 7, 2), (3, 9, -1)]
    assert duplicate_pairs(images, 4) == [(1, 7, 2), (3, 9, -1)]


def test_coverage_is_the_share_of_boxes_over_each_place():
    images = pd.DataFrame({"width": [100, 200], "height": [100, 50]})
    boxes = pd.DataFrame({"row": [0, 1], "x1": [0, 0], "y1": [0, 0], "x2": [50, 200], "y2": [100, 25], "name": [0, 0]})
    found = coverage(Dataset(["c"], images, pd.DataFrame(), boxes, []), 2)
    assert found.tolist() == [[1, 0.5], [0.5, 0]]


def test_changes_name_what_differs_appeared_and_vanished():
    old, new = {"images": {"train": 5, "val": 2}, "gone": 1}, {"images": {"train": 6, "val": 2}, "fresh": {"a": 3}}
    expected = [("images / train", 5, 6), ("fresh / a", None, 3), ("gone", 1, None)]
    assert changes(old, new) == expected
