"""What to train with, for those who have not tried anything yet: figures that follow from the annotations."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from Datasets.format.records import Record

LEAST_PIXELS = 20  # of an object's side, as the model sees it: below, the centre detector misses many
SEEN = 3000  # images, each as often as needed: about four minutes on two cores at 256 pixels
WORDS = "left|right|zero|one|two|three|letters?|digits?|texts?|numbers?|signs?|arrows?"
MIRRORED = re.compile(rf"(?<![a-z])(\w|{WORDS})(?![a-z])", re.IGNORECASE)  # in a class's name: what a mirror changes


class Proposal(NamedTuple):
    """Options of Models.train. flip: whether no class is called like something that a mirror changes."""

    size: int
    epochs: int
    batch: int
    learning_rate: float
    flip: bool


def propose(images: int, long_sides: Iterable[float], objects: Iterable[float], names: Iterable[str]) -> Proposal:
    """Options that suit photographs and a pretrained backbone.

    images: to learn from. long_sides: of the images, in pixels. objects: the size of each as a share of its image's
    long side; none where they are not known. names: of the classes.
    """
    longest = -(-int(np.median([*long_sides] or [640])) // 32) * 32  # more would only be enlarged
    smallest = np.percentile([*objects] or [1.0], 5)
    size = min(max(256, int(-(-LEAST_PIXELS / max(smallest, 0.01) // 32)) * 32), 640, max(longest, 32))
    batch = int(np.clip(2 ** round(np.log2(max(1, images) / 50)), 4, 16))
    return Proposal(
        size=size,
        epochs=int(np.clip(-(-SEEN // max(1, images)), 8, 60)),
        batch=batch,
        learning_rate=round(rate(batch), 6),
        flip=not any(MIRRORED.search(name) for name in names),
    )


def propose_for(records: Sequence[Record], classes: Iterable[str]) -> Proposal:
    """Options that suit curated records of the split train."""
    sides = [max(record["width"] or 1, record["height"] or 1) for record in records]
    objects = [
        ((box["x2"] - box["x1"]) * (box["y2"] - box["y1"])) ** 0.5 / side
        for record, side in zip(records, sides, strict=True)
        for box in record["boxes"] or []
    ]
    return propose(len(records), sides, objects, classes)


def rate(batch: int) -> float:
    """The highest learning rate of the one-cycle schedule that fits a number of images in a step."""
    return 0.0015 * float(np.sqrt(batch))
