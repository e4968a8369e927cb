"""Masks as run lengths, in the compressed form of the COCO API, with NumPy only: what a bundle has.

Specification: rleEncode and rleToString in https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c
"""

from typing import TypedDict

import numpy as np


class RunLengths(TypedDict):
    """size is [height, width]; counts: the lengths of runs, down the columns, of pixels outside and inside in turn."""

    size: list[int]
    counts: str


def encode(mask: np.ndarray) -> RunLengths:
    """The run lengths of a mask, bool [H, W]."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels, prepend=False)) if pixels.size else np.empty(0, np.int64)
    return RunLengths(size=list(mask.shape), counts=_text(np.diff(changes, prepend=0, append=pixels.size)))


def _text(lengths: np.ndarray) -> str:
    """Each length, from the fourth on as the difference to the last but one, as digits of five bits, lowest first."""
    left = lengths.astype(np.int64)
    left[3:] -= lengths[1:-2]
    columns, going = [], np.ones(len(left), bool)
    while going.any():
        digits = left & 31
        left >>= 5
        more = np.where(digits & 16, left != -1, left != 0)  # the highest bit written is the sign
        columns.append(np.where(going, digits + 32 * more + 48, 0).astype(np.uint8))
        going &= more
    written = np.stack(columns, axis=1)
    return written[written > 0].tobytes().decode("ascii")
