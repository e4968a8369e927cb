"""What every exporter starts from: the records of a split, checked, with their image files."""

import io
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import numpy as np
from PIL import Image

from Datasets.format.curated import Curated
from Datasets.format.images import VOID
from Datasets.format.records import Record, box_problem, is_safe_path
from Datasets.tools.errors import UserError

UNBOXED = "images with labels or counts that no boxes stand behind"


def rows(dataset: Curated, split: str) -> Iterator[tuple[Record, bytes]]:
    """The records of a split, `image` being SOURCE/IMAGE, and the bytes of their image files.

    Raises UserError for a record that no curate stage wrote: an unsafe path, no size, an unknown class, an impossible
    box, a segmentation of another size, an image or a mask without its file.
    """
    images = dataset.images(split)
    for number, record in enumerate(dataset.records(split)):
        data = images[number]
        problem = _problem(record, dataset.classes) if data is not None else "the image file is missing"
        if problem:
            raise UserError(f"{dataset.directory}: {record['image']}: {problem}; run the curate stage, or `dvc pull`")
        yield record, data


def write_file(path: Path, data: bytes) -> None:
    """Write a file, making the folders it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def mask_pixels(record: Record, classes: int) -> np.ndarray:
    """A record's semantic mask, [height, width] of class ids + 1, 0 for background, 255 for what is not annotated.

    Raises UserError if it is no image of a single band, of another size, or has a value that stands for no class.
    """
    assert record["mask"] is not None
    try:
        pixels = np.asarray(Image.open(io.BytesIO(record["mask"]["bytes"]), formats=["PNG"]))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{record['image']}: its mask is no PNG file: {error}; draw it again") from error
    if pixels.shape != (record["height"], record["width"]):
        said = f"{record['height']} x {record['width']}"
        raise UserError(f"{record['image']}: its mask is an array of {pixels.shape}, not {said}; draw it again")
    unknown = pixels[(pixels > classes) & (pixels != VOID)]
    if unknown.size:
        raise UserError(f"{record['image']}: its mask has the value {unknown.max()}; there are {classes} classes")
    return pixels


def is_more_known(record: Record, annotated: Set[int], classes: Mapping[str, int]) -> bool:
    """Whether a record has a label of a class that is not among the ids `annotated`, or counts without boxes."""
    labels = {classes[name] for name in record["labels"] or ()}
    return not labels <= annotated or bool(record["boxes"] is None and record["counts"])


def _problem(record: Record, classes: Mapping[str, int]) -> str | None:
    width, height, boxes = record["width"], record["height"], record["boxes"] or []
    if not is_safe_path(record["image"]):
        return "the path leads outside"
    if not (width and height):
        return "width or height is missing"
    names = [*(record["labels"] or []), *(part["name"] for part in [*(record["counts"] or []), *boxes])]
    for name in names:
        if name not in classes:
            return f"class {name!r} is not in classes.json"
    for box in boxes:
        if problem := box_problem(box, width, height):
            return f"box {box['x1']:g}, {box['y1']:g}, {box['x2']:g}, {box['y2']:g} {problem}"
        if box["segmentation"] and box["segmentation"]["size"] != [height, width]:
            return f"a segmentation of {box['segmentation']['size']} in an image of {[height, width]}"
    if record["mask"] is not None and record["mask"]["bytes"] is None:
        return "the mask's file is missing"
    return None
