"""The files of an accepted record in the curated dataset: its image, and its semantic mask as Datasets has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from Data_processing.shared.files import read_inspected_file
from Data_processing.shared.mask_values import NEITHER, Names, in_colour, numbers, open_mask
from Datasets.format.coco import draw
from Datasets.format.images import VOID, mask_file
from Datasets.format.records import Box, Record
from Datasets.tools.errors import UserError


@dataclass(frozen=True)
class RecordFiles:
    """Reads the files of records. draw: make a mask where a source has none, but outlines all objects."""

    paths: Mapping[str, str]  # the directory or archive of each source
    classes: Mapping[str, int]  # ids by name
    draw: bool = False

    def __call__(self, record: Record) -> tuple[bytes, bytes | None]:
        """The image file and the mask's PNG file, if any. Raises UserError if the image changed or the mask is gone."""
        source = self.paths[record["source"]]
        image = read_inspected_file(source, record["image"], record["sha256"])
        drawable = self.draw and record["boxes"] is not None
        if (record["mask"] or drawable) and (number := len(self.classes)) >= VOID:
            raise UserError(f"{number} classes: a mask can tell at most {VOID - 1} apart; name fewer in clean.keep")
        mask = None
        if record["mask"]:
            place = self.paths.get(record["mask_source"], source)  # type: ignore[typeddict-item]
            file = read_inspected_file(place, record["mask"]["path"] or "")
            mask = remap(file, dict(record["mask_names"] or ()), self.classes)  # type: ignore[typeddict-item]
        elif drawable:
            mask = draw_mask(record["boxes"] or (), self.classes, record["width"] or 0, record["height"] or 0)
        return image, None if mask is None else mask_file(mask, optimize=True)


def remap(file: bytes, names: Names, classes: Mapping[str, int]) -> np.ndarray:
    """The mask, uint8 [H, W], of a mask file whose values stand for `names`; those of no class become background."""
    table = np.zeros(NEITHER + 1, np.uint8)  # of which only what is used takes memory
    table[VOID] = VOID
    for value, name in names.items():
        table[value] = VOID if name is None else classes[name] + 1 if name in classes else 0
    return table[numbers(open_mask(file), in_colour(names))]


def draw_mask(boxes: Sequence[Box], classes: Mapping[str, int], width: int, height: int) -> np.ndarray | None:
    """The mask, uint8 [height, width], of objects that all have a segmentation; None if one has not."""
    if any(box["segmentation"] is None for box in boxes):
        return None
    return draw(((box, classes[box["name"]] + 1) for box in boxes), width, height)
