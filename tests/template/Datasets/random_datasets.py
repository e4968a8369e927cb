"""Random curated datasets: awkward names, fractional boxes, crowds, segmentations, masks, and what is not known."""

import hashlib
import io
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pycocotools import mask as coco_mask

from Datasets.format.curated import Curated, write_annotations, write_curated
from Datasets.format.records import SPLITS, empty_record, implied

CLASSES = {name: number for number, name in enumerate(['a:"b"\\', "car", "traffic light", "Käfer & <Co>", "no", "7"])}
FOLDERS = ["", "images/", "JPEGImages/a/", "labels/images/", "A b/", "ä/", "a\u0308/", "Ä/"]
STEMS = ["a", "A", "a.1", "b c", "-x", "images_a", "ü", "u\u0308", "a_2", "0" * 250]
names = st.sampled_from(list(CLASSES))
paths = st.builds("".join, st.tuples(*map(st.sampled_from, (FOLDERS, STEMS, [".jpg", ".JPG", ".png"]))))


def side(length: int) -> st.SearchStrategy:
    """Two edges along a side, a millionth of a pixel or more apart."""
    edge = st.one_of(st.integers(0, length).map(float), st.floats(0, length))
    return st.tuples(edge, edge).map(sorted).filter(lambda edges: edges[1] - edges[0] > 1e-6)


@st.composite
def segmentations(draw, width: int, height: int) -> dict:
    """The run lengths of a random mask, from a single pixel to full."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    pixels = rng.random((height, width)) < draw(st.sampled_from([0, 0.2, 0.7, 1]))
    pixels[rng.integers(height), rng.integers(width)] = True
    rle = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@st.composite
def boxes(draw, width: int, height: int) -> dict:
    (x1, x2), (y1, y2) = draw(side(width)), draw(side(height))
    segmentation = draw(st.none() | segmentations(width, height))
    corners = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    crowd = draw(st.sampled_from([False, False, False, True]))
    return {"name": draw(names), **corners, "crowd": crowd, "segmentation": segmentation}


def png(pixels: np.ndarray, text: str = "") -> bytes:
    """A PNG file with a text in it, so that no two images have the same bytes."""
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("path", text)
    Image.fromarray(pixels).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def image_file(record: dict) -> bytes:
    """The image file of a record: PNG or JPEG, as its name says."""
    pixels = np.random.default_rng(record["width"]).integers(0, 256, (record["height"], record["width"], 3), np.uint8)
    if record["image"].endswith(".png"):
        return png(pixels, record["image"])
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", comment=record["image"])
    return file.getvalue()


@st.composite
def records(draw, image: str) -> dict:
    """A record about which something is known."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    record = {**empty_record(image, "s"), "width": width, "height": height, "split": draw(st.sampled_from(SPLITS))}
    record["boxes"] = draw(st.none() | st.lists(boxes(width, height), max_size=4))
    if record["boxes"] is None:
        record["labels"] = draw(st.none() | st.lists(names, unique=True, max_size=3))
        if record["labels"] and draw(st.booleans()):
            record["counts"] = [{"name": name, "count": 2} for name in record["labels"]]
    if draw(st.booleans()):
        seed = draw(st.integers(0, 999))
        pixels = np.random.default_rng(seed).integers(0, len(CLASSES) + 1, (height, width), np.uint8)
        record["mask"] = {"bytes": png(pixels), "path": f"{image}.png"}
    return implied({**record, "sha256": hashlib.sha256(image_file(record)).hexdigest()})


@st.composite
def datasets(draw, least: int = 1, most: int = 8) -> list[dict]:
    """Records of different images."""
    images = draw(st.lists(paths, unique=True, min_size=least, max_size=most))
    return [draw(records(image)) for image in images]


def write_dataset(directory: Path, content: list[dict], classes: dict[str, int] = CLASSES) -> Curated:
    """Write a curated dataset as the curate stage does."""
    directory.mkdir(parents=True)
    parts = {split: [record for record in content if record["split"] == split] for split in SPLITS}
    sizes = {split: [len(image_file(record)) for record in part] for split, part in parts.items()}
    written = list(write_curated(directory, parts, sizes, lambda record: (image_file(record), None)))
    write_annotations(directory, written, classes)
    return Curated(directory)
