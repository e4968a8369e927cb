"""The inspect stage's file, a row for each image file and each mask file of a source; and how a row is made."""

import hashlib
import io
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageStat

from Data_processing.shared.files import MissingFile, open_once
from Data_processing.shared.mask_values import open_mask, tally
from Datasets.format.images import FORMATS, FULL, WIDE, Range, UnreadableImage, extremes, open_image, to_rgb
from Datasets.tools.errors import UserError

LOOK = 512  # pixels of the longer side, at most, at which brightness, sharpness and the perceptual hash are measured
HASH_SIDE, FREQUENCIES = 64, 16  # of the perceptual hash: pixels of a side, frequencies in each direction
HASH_BYTES = FREQUENCIES**2 // 8
COSINES = 2 * np.cos(np.pi * np.outer(np.arange(FREQUENCIES), 2 * np.arange(HASH_SIDE) + 1) / (2 * HASH_SIDE))
SHARPENING = 2.5  # the power of its side with which a smaller image gets sharper; between sharp, 2, and very blurred, 4
COMPUTED_BY = (
    "Data_processing/shared/inspected.py",
    "Data_processing/shared/mask_values.py",
    "Datasets/format/images.py",
)  # facts kept are of this code
Row = dict[str, Any]  # of INSPECTED_SCHEMA
INSPECTED_SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "reason": pa.string(),  # why it cannot be used; null if it can
        "bytes": pa.int64(),
        "sha256": pa.string(),  # null if there is no such file
        "width": pa.int32(),  # of the upright image
        "height": pa.int32(),
        "mode": pa.string(),  # Pillow's name
        "phash": pa.binary(HASH_BYTES),
        "brightness": pa.float32(),
        "contrast": pa.float32(),
        "sharpness": pa.float32(),
        "values": pa.list_(pa.int32()),  # of a mask: those that occur (see mask_values.py)
        "colours": pa.list_(pa.int32()),  # the same as colours
        "lowest": pa.float64(),  # of the values of an image of more than 8 bits
        "highest": pa.float64(),
    }
)


class Facts(msgspec.Struct, gc=False, frozen=True):
    """What the clean stage judges an image by: columns of INSPECTED_SCHEMA, `bytes` as size.

    brightness: mean luma, 0 to 255. contrast: its standard deviation. sharpness: variance of its Laplacian.
    """

    image: str
    reason: str | None
    size: int | None
    sha256: str | None
    width: int | None
    height: int | None
    phash: bytes | None
    brightness: float | None
    contrast: float | None
    sharpness: float | None
    values: list[int] | None
    mode: str | None = None
    lowest: float | None = None
    highest: float | None = None
    colours: list[int] | None = None


def read_inspected(path: Path) -> dict[str, Facts]:
    """The facts of each image, by its path inside the source, in the order of the file."""
    columns = ["bytes" if name == "size" else name for name in Facts.__struct_fields__]
    table = pq.read_table(path, columns=columns)
    return {facts.image: facts for facts in map(Facts, *(table[name].to_pylist() for name in columns))}


def check_parquet(path: Path, columns: Iterable[str], stage: str) -> None:
    """Raise UserError unless `path` is a whole Parquet file with these columns, as `stage` writes it."""
    remedy = f"name a file of the stage {stage}, or run that again"
    try:
        found = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: no whole Parquet file ({reason:.120}); {remedy}") from error
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]}; {remedy}")


class Task(NamedTuple):
    """A file to inspect; `name` need not be a file of the source."""

    name: str
    is_mask: bool


class FactsStore:
    """The rows of files that were inspected before, in a SQLite file that can be deleted at any time.

    It forgets everything when the code or a library that the facts come from changes. Raises UserError if the file is
    damaged, or something else.
    """

    def __init__(self, path: Path, max_pixels: int, value_range: Range = None) -> None:
        code = [(Path(__file__).parents[2] / name).read_bytes() for name in COMPUTED_BY]
        versions = [f"{name} {metadata.version(name)}".encode() for name in ("pillow", "numpy")]
        self._recipe = hashlib.sha256(b"\0".join([*code, *versions, str(max_pixels).encode()])).digest()[:8]
        self._path, self._range = path, repr(value_range).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._one_line(), sqlite3.connect(path, timeout=60, check_same_thread=False) as self._connection:
            self._connection.execute("CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, facts BLOB)")
            self._connection.execute("DELETE FROM facts WHERE substr(key, 1, 8) != ?", (self._recipe,))

    def get(self, sha256: str, is_mask: bool) -> Row | None:
        """The row of a file of these bytes, `image` being any name; None if none is kept, or it cannot be read."""
        query = "SELECT facts FROM facts WHERE key = ?"
        with suppress(sqlite3.Error):  # as perhaps on another machine: decoding the image again does no harm
            found = self._connection.execute(query, (self._key(sha256, is_mask),)).fetchone()
            return found and msgspec.msgpack.decode(found[0])
        return None

    def put(self, tasks: Iterable[Task], rows: Iterable[Row]) -> None:
        """Keep the rows of tasks, all at once; not those of missing files, nor those kept before."""
        values = [
            (self._key(row["sha256"], task.is_mask), msgspec.msgpack.encode(row))
            for task, row in zip(tasks, rows, strict=True)
            if row["sha256"]
        ]
        with self._one_line(), self._connection:
            self._connection.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", values)

    def _key(self, sha256: str, is_mask: bool) -> bytes:
        return self._recipe + bytes([is_mask]) + hashlib.sha256(bytes.fromhex(sha256) + self._range).digest()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self._path}: {error}; delete this file, it only saves time") from error


open_facts = lru_cache(maxsize=1)(FactsStore)


def inspect_chunk(
    path: Path, tasks: Sequence[Task], max_pixels: int, facts: Path | None = None, value_range: Range = None
) -> list[Row]:
    """Read files of the source at `path` and inspect those whose bytes are not known to the store at `facts`."""
    files, store, rows = open_once(path), open_facts(facts, max_pixels, value_range) if facts else None, []
    for name, is_mask in tasks:
        try:
            data = files.read(name)
        except MissingFile as error:
            rows.append({**dict.fromkeys(INSPECTED_SCHEMA.names), "image": name, "reason": str(error)})
            continue
        known = store.get(hashlib.sha256(data).hexdigest(), is_mask) if store else None
        rows.append({**known, "image": name} if known else inspect(name, data, max_pixels, is_mask, value_range))
    return rows


def inspect(name: str, data: bytes, max_pixels: int, is_mask: bool = False, value_range: Range = None) -> Row:
    """The row of an image file, or of a mask file."""
    sha256 = hashlib.sha256(data).hexdigest()
    row: Row = {**dict.fromkeys(INSPECTED_SCHEMA.names), "image": name, "bytes": len(data), "sha256": sha256}
    try:
        image = open_mask(data, max_pixels) if is_mask else open_image(data, max_pixels, luma=True)
        row |= {"width": image.width, "height": image.height, "mode": image.mode}
        if is_mask:
            values, colours = map(set, zip(*tally(image), strict=True))
            return row | {"values": sorted(values), "colours": sorted(colours)}
        row["mode"] = Image.open(io.BytesIO(data), formats=FORMATS).mode  # as stored
        if image.mode[0] in FULL or image.info[WIDE]:
            row["lowest"], row["highest"] = extremes(image)
        return row | _look(image, value_range)
    except UnreadableImage as error:
        return {**row, "reason": str(error)}


def _look(image: Image.Image, value_range: Range) -> Row:
    """What an image looks like: brightness, contrast, sharpness and perceptual hash.

    Measured after averaging squares of whole pixels, such that the longer side has at most LOOK, as that is many times
    as fast as resizing to LOOK itself. What it does to the sharpness is undone by SHARPENING.
    """
    plain = image.mode in ("RGB", "L") and not image.info[WIDE]
    grey = image.convert("L") if plain else Image.fromarray(to_rgb(image, value_range)).convert("L")
    factor = math.ceil(max(grey.size) / LOOK)
    grey = grey.reduce(factor)
    luma = ImageStat.Stat(grey)
    scale = (max(grey.size) / LOOK) ** SHARPENING if factor > 1 else 1.0
    looks = {"brightness": luma.mean[0], "contrast": luma.stddev[0], "sharpness": scale * sharpness(np.asarray(grey))}
    return {**looks, "phash": perceptual_hash(grey)}


def perceptual_hash(grey: Image.Image) -> bytes:
    """pHash of 256 bits: which of the 16 x 16 lowest frequencies of the 64 x 64 image are above their median.

    Images that look alike differ in few bits, unrelated ones in about half. The usual 64 bits are too few: unrelated
    demonstration scenes come as close as 4 bits, but not below 58 of 256. C. Zauner, "Implementation and Benchmarking
    of Perceptual Image Hash Functions", 2010; the bits are those of the library imagehash.
    """
    small = grey.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    low = (COSINES @ np.asarray(small, np.float64) @ COSINES.T).round(3)  # so that what is 0 is so on every processor
    return np.packbits(low > np.median(low)).tobytes()


def sharpness(luma: np.ndarray) -> float:
    """The variance of the Laplacian of uint8 [H, W]: low where nothing has an edge (Pech-Pacheco et al., 2000)."""
    y = np.pad(luma, 1, mode="edge").astype(np.int16)
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return float(laplacian.astype(np.float32).var(dtype=np.float64))
