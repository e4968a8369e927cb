"""Semantic masks: PNG files whose pixel values are class ids + 1, 0 for background, 255 for what is not annotated."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from Datasets.format.images import VOID, open_image
from Datasets.format.records import Box
from Datasets.tools.errors import UserError


def check_number(classes: Mapping[str, int]) -> None:
    """Raise UserError if there are more classes than a pixel of a mask can tell apart."""
    if len(classes) >= VOID:
        raise UserError(f"{len(classes)} classes: a mask can tell at most {VOID - 1} apart; name fewer in clean.keep")


def remap(file: bytes, names: Mapping[int, str], classes: Mapping[str, int]) -> np.ndarray:
    """The mask, uint8 [H, W], of a source's mask file. names: the class that each value in it stands for.

    What stands for none of `classes` becomes background.
    """
    table = np.zeros(256, np.uint8)
    table[VOID] = VOID
    for value, name in names.items():
        if name in classes:
            table[value] = classes[name] + 1
    return table[np.asarray(open_image(file))]


def draw(boxes: Sequence[Box], classes: Mapping[str, int], width: int, height: int) -> np.ndarray | None:
    """The mask, uint8 [height, width], of objects that all have a segmentation; None if one has not.

    Drawn from the largest to the smallest, so that none is hidden by what it lies on; of equals, in their order.
    """
    outlines = [box["segmentation"] for box in boxes if box["segmentation"] is not None]
    if len(outlines) < len(boxes):
        return None
    mask = np.zeros((height, width), np.uint8)
    areas = [int(coco_mask.area(outline)) for outline in outlines]
    for index in sorted(range(len(boxes)), key=lambda index: -areas[index]):
        mask[coco_mask.decode(outlines[index]).astype(bool)] = classes[boxes[index]["name"]] + 1
    return mask


def values(image: Image.Image) -> list[int]:
    """The values that occur in a mask file. Raises ValueError if it is no image of a single band of 8 bits."""
    if image.mode not in ("L", "P"):
        raise ValueError(f"a mask has a palette or is grey, with 8 bits; this one is {image.mode}")
    return np.unique(np.asarray(image)).tolist()


def encode(mask: np.ndarray) -> bytes:
    """A mask, uint8 [H, W], as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG", optimize=True)
    return file.getvalue()
