"""Looks at a large image tile by tile, as its objects are too small in one look (Akyon et al., arXiv:2202.06934)."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from Datasets.format.predictions import Detection, PredictedBox, detection

SAME = 0.5  # of two boxes of a class in two tiles, the share of the smaller one that makes them one object
MARGIN = 0.02  # of a tile's side: a box that comes so near to where the image goes on may be cut


class Tile(NamedTuple):
    """A part of an image, in its pixels."""

    x: int
    y: int
    width: int
    height: int


def tiles(width: int, height: int, side: int, overlap: float) -> list[Tile]:
    """Tiles, at most `side` wide and high, that cover an image; neighbours share at least `overlap` of a side."""

    def starts(length: int) -> list[int]:
        number = max(0, math.ceil((length - side) / (side * (1 - overlap)))) + 1
        return np.linspace(0, max(0, length - side), number).astype(int).tolist()

    return [Tile(x, y, min(side, width), min(side, height)) for y, x in product(starts(height), starts(width))]


def merged(whole: Detection, parts: Sequence[tuple[Tile, Detection]], classes: Sequence[str]) -> Detection:
    """The boxes of the whole image and of its tiles, by non-maximum suppression within each class across looks.

    A box that the edge of a tile may have cut gives way to one that it did not cut; of others the better score stays.
    Boxes of the same look never suppress each other. The extras of Predictor are the whole image's, the uncertainty the
    sum over the looks.
    """
    looks = [(Tile(0, 0, whole["width"], whole["height"]), whole), *parts]
    found = [
        (_is_cut(box, tile, whole), number, moved(box, tile))
        for number, (tile, part) in enumerate(looks)
        for box in part["boxes"]
    ]
    found.sort(key=lambda each: (each[0], -each[2]["score"]))
    boxes = sorted(_kept(found), key=lambda box: (-box["score"], classes.index(box["name"]), box["x1"], box["y1"]))
    result: Any = whole | detection(boxes, whole["width"], whole["height"])
    if "uncertainty" in whole:
        result["uncertainty"] = sum(look["uncertainty"] for _, look in looks)  # type: ignore[misc]
    return result


def moved(box: PredictedBox, tile: Tile) -> PredictedBox:
    """A tile's box in the pixels of the image."""
    x1, y1, x2, y2 = box["x1"] + tile.x, box["y1"] + tile.y, box["x2"] + tile.x, box["y2"] + tile.y
    return PredictedBox(name=box["name"], x1=x1, y1=y1, x2=x2, y2=y2, score=box["score"])


def _is_cut(box: PredictedBox, tile: Tile, whole: Detection) -> bool:
    """Whether a box, in its tile's pixels, comes near to an edge of the tile that is none of the image."""
    near = MARGIN * max(tile.width, tile.height)
    return (
        (tile.x > 0 and box["x1"] < near)
        or (tile.y > 0 and box["y1"] < near)
        or (tile.x + tile.width < whole["width"] and box["x2"] > tile.width - near)
        or (tile.y + tile.height < whole["height"] and box["y2"] > tile.height - near)
    )


def _kept(found: Sequence[tuple[bool, int, PredictedBox]]) -> list[PredictedBox]:
    """The boxes, best first, that no better one of another look stands for. found: whether cut, the look, the box."""
    sides = np.array([[box[side] for side in ("x1", "y1", "x2", "y2")] for _, _, box in found]).reshape(-1, 4)
    looks = np.array([look for _, look, _ in found])
    names = np.array([box["name"] for _, _, box in found])
    areas = (sides[:, 2:] - sides[:, :2]).prod(1)
    kept = np.zeros(len(found), bool)
    for i in range(len(found)):
        others = np.flatnonzero(kept & (names == names[i]) & (looks != looks[i]))
        common = np.minimum(sides[others, 2:], sides[i, 2:]) - np.maximum(sides[others, :2], sides[i, :2])
        shared = common.clip(0).prod(1) / np.minimum(areas[others], areas[i])
        kept[i] = not (shared > SAME).any()
    return [found[i][2] for i in np.flatnonzero(kept).tolist()]
