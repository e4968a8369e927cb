"""What one image file shows by itself: readable or not, size, hashes, brightness, sharpness."""

import hashlib
import io
import math
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from Data_processing.inspecting.facts_store import FactsStore
from Data_processing.shared.inspected import INSPECTED_SCHEMA
from Data_processing.shared.masks import values
from Data_processing.sources.files import MissingFile, SourceFiles, open_once
from Datasets.format.images import FORMATS, UnreadableImage, open_image, to_rgb

LOOK = 512  # pixels of the longer side, at most, at which brightness, sharpness and the perceptual hash are measured
HASH_SIDE, FREQUENCIES = 64, 16  # of the perceptual hash: pixels of a side, frequencies in each direction
COSINES = 2 * np.cos(np.pi * np.outer(np.arange(FREQUENCIES), 2 * np.arange(HASH_SIDE) + 1) / (2 * HASH_SIDE))
SHARPENING = 2.5  # the power of its side with which a smaller image gets sharper; between sharp, 2, and very blurred, 4


def inspect(name: str, data: bytes, max_pixels: int) -> dict[str, Any]:
    """A row of INSPECTED_SCHEMA: the facts of an image file.

    brightness: mean luma, 0 to 255. contrast: its standard deviation. sharpness: variance of the luma's Laplacian.
    phash: see perceptual_hash. All are measured after averaging squares of whole pixels, such that the longer side has
    at most LOOK, many times as fast as resizing it to LOOK itself; what that does to sharpness is taken back.
    """
    row: dict[str, Any] = dict.fromkeys(INSPECTED_SCHEMA.names)
    row |= {"image": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    try:
        image = open_image(data, max_pixels, luma=True)
    except UnreadableImage as error:
        return {**row, "reason": str(error)}
    grey = image.convert("L") if image.mode in ("RGB", "L") else Image.fromarray(to_rgb(image)).convert("L")
    mode = Image.open(io.BytesIO(data), formats=FORMATS).mode  # as stored
    row |= {"width": image.width, "height": image.height, "format": image.format, "mode": mode}
    factor = math.ceil(max(grey.size) / LOOK)
    grey = grey.reduce(factor)
    brightness, contrast = mean_and_deviation(grey)
    scale = (max(grey.size) / LOOK) ** SHARPENING if factor > 1 else 1.0
    row |= {"brightness": brightness, "contrast": contrast, "sharpness": scale * sharpness(np.asarray(grey))}
    return {**row, "phash": perceptual_hash(grey)}


def inspect_mask(name: str, data: bytes, max_pixels: int) -> dict[str, Any]:
    """A row of INSPECTED_SCHEMA: the facts of a mask file."""
    row: dict[str, Any] = dict.fromkeys(INSPECTED_SCHEMA.names)
    row |= {"image": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    try:
        image = open_image(data, max_pixels)
        size = {"width": image.width, "height": image.height, "format": image.format, "mode": image.mode}
        return {**row, **size, "values": values(image)}
    except ValueError as error:
        return {**row, "reason": str(error)}


def perceptual_hash(grey: Image.Image) -> bytes:
    """pHash of 256 bits: which of the 16 x 16 lowest frequencies of the 64 x 64 image are above their median.

    Images that look alike differ in few bits, unrelated ones in about half. The usual 64 bits are too few where large
    smooth areas look alike: unrelated demonstration scenes come as close as 4 bits, but not below 58 of 256.
    C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010; the bits are those of the
    library imagehash. The DCT is two products of matrices, as to import SciPy's takes as long as a hundred images.
    """
    small = grey.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    low = (COSINES @ np.asarray(small, np.float64) @ COSINES.T).round(3)  # so that what is 0 is so on every processor
    return np.packbits(low > np.median(low)).tobytes()


def mean_and_deviation(grey: Image.Image) -> tuple[float, float]:
    """The mean and the standard deviation of an image of mode L."""
    levels, counts = np.arange(256), np.array(grey.histogram())
    mean = float(counts @ levels / counts.sum())
    return mean, float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()))


def sharpness(luma: np.ndarray) -> float:
    """The variance of the Laplacian of uint8 [H, W]: low where nothing has an edge (Pech-Pacheco et al., 2000)."""
    y = np.pad(luma, 1, mode="edge").astype(np.int16)
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1]
    laplacian += y[1:-1, :-2]
    laplacian += y[1:-1, 2:]
    laplacian -= 4 * y[1:-1, 1:-1]
    values = laplacian.ravel().astype(np.float32)
    return float(values @ values / values.size - values.mean(dtype=np.float64) ** 2)


class Kind(StrEnum):
    """What a file of a source is for."""

    image = "image"
    mask = "mask"


Task = tuple[str, Kind]


class Inspected(NamedTuple):
    """A row of INSPECTED_SCHEMA, the file's use and version (see SourceFiles), and whether no store has the row yet."""

    row: dict[str, Any]
    kind: Kind
    version: bytes | None = None
    is_new: bool = False


def inspect_named(
    files: SourceFiles, name: str, kind: Kind, max_pixels: int, store: FactsStore | None = None
) -> Inspected:
    """What is found for a name that need not be a file of the source."""
    version = files.version(name)  # before it is read, so that what changes meanwhile is read again another time
    try:
        data = files.read(name)
    except MissingFile as error:
        return Inspected({**dict.fromkeys(INSPECTED_SCHEMA.names), "image": name, "reason": str(error)}, kind)
    known = store.get(hashlib.sha256(data).hexdigest(), kind) if store else None
    if known:
        return Inspected({**known, "image": name}, kind, version)
    row = (inspect_mask if kind is Kind.mask else inspect)(name, data, max_pixels)
    return Inspected(row, kind, version, is_new=True)


def inspect_chunk(path: Path, tasks: Sequence[Task], max_pixels: int, facts: Path | None) -> list[Inspected]:
    """What inspect_named finds for each task; a process that is given many chunks opens the source once."""
    files, store = open_once(path), _store_once(facts, max_pixels) if facts else None
    return [inspect_named(files, name, kind, max_pixels, store) for name, kind in tasks]


@lru_cache(maxsize=1)
def _store_once(facts: Path, max_pixels: int) -> FactsStore:
    return FactsStore(facts, max_pixels)
