"""The curated dataset: no image on both sides of a split, and pixels that find their way back."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from Datasets.format.curated import Curated
from Datasets.format.images import FILL, letterbox
from Datasets.format.records import SPLITS
from tests.contract.checkout import ROOT


def splits_of(curated: Path, field: str) -> dict[str, set[str]]:
    """The splits in which each value of a field of the records occurs."""
    found = defaultdict(set)
    for split in SPLITS:
        for record in Curated(curated).records(split, masks=False):
            found[record[field]].add(split)
    return found


def leaks(curated: Path) -> list[str]:
    """Groups and images that are in more than one split."""
    found = [(field, splits_of(curated, field)) for field in ("group", "sha256")]
    return [
        f"{field} {value}: {sorted(where)}" for field, all_ in found for value, where in all_.items() if len(where) > 1
    ]


def test_no_group_and_no_image_is_in_two_splits(curated_project):
    curated = curated_project / "Datasets/curated"
    assert set().union(*splits_of(curated, "sha256").values()) == set(SPLITS)
    assert leaks(curated) == []


@pytest.mark.skipif(not (ROOT / "Datasets/curated/classes.json").exists(), reason="no dataset is curated here")
def test_no_group_and_no_image_of_this_projects_own_dataset_is_in_two_splits():
    assert leaks(ROOT / "Datasets/curated") == []


def test_each_annotation_of_the_source_is_in_the_dataset(curated_project):
    curated = Curated(curated_project / "Datasets/curated")
    records = [record for split in SPLITS for record in curated.records(split)]
    assert len(records) == 60
    boxes = [box for record in records for box in record["boxes"]]
    assert {box["name"] for box in boxes} == set(curated.classes) == {"disc", "square"}
    assert all(box["segmentation"] and record["mask"]["bytes"] for record in records for box in record["boxes"])
    assert sum(count["count"] for record in records for count in record["counts"]) == len(boxes)


@pytest.mark.parametrize("shape", [(96, 96), (720, 1280), (33, 500), (5, 3)])
@pytest.mark.parametrize("size", [96, 320])
def test_boxes_and_pixels_return_from_the_letterbox(shape, size):
    height, width = shape
    random = np.random.default_rng(size)
    boxed = letterbox(random.integers(0, 256, (height, width, 3), dtype=np.uint8), size)
    assert boxed.pixels.shape == (size, size, 3)
    corners = np.sort(random.random((20, 2, 2)), 1) * (width, height)
    boxes = corners.reshape(20, 4)
    square = boxed.to_square(boxes)
    assert square.min() >= 0 and square.max() <= size
    np.testing.assert_allclose(boxed.to_image(square), boxes, atol=1e-6)
    mask = boxed.mask_to_square(np.ones(shape, np.uint8), 0)
    assert (boxed.pixels[mask == 0] == FILL).all() and mask.any()
    assert (boxed.mask_to_image(mask, width, height) == 1).all()
