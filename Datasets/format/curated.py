"""Reading and writing the curated dataset, `Datasets/curated`.

`SPLIT-00000-of-0000N.parquet`: a row an image, the record's columns with `image` as struct<bytes, path>, path being
SOURCE/IMAGE. Hugging Face datasets, DuckDB, Ray Data and Spark read this layout as it is. The bytes are the file as
delivered, its EXIF orientation too; sha256 is of them. The schema's metadata has the `range` of images of more than 8
bits, as JSON. Beside the shards, `metadata.json` has the same annotations as JSON, and `classes.json` maps class names
to ids. `tables/origins.parquet` says where each annotation came from. It is no part of the shards, which stay the same
files, in DVC's cache too, if only a line number changes. `croissant.json` has fields and licences, README.md is a card.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate, pairwise, starmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.format.classes import read_classes, write_classes
from Datasets.format.images import Range
from Datasets.format.records import IMAGE_TYPE, SCHEMA, SPLITS, Record, write_json
from Datasets.tools.errors import UserError, one_line

SHARD_BYTES = 45_000_000  # of images in a shard, at most about
ROW_GROUP_BYTES = 1_000_000  # small, so that reading one image reads little else
HELD_ROW_GROUPS = 16  # while images are read; in their order, each is then read once
OPEN_SHARDS = 64  # of the files that a process may have open
REMEDY = "delete it, and `dvc checkout`, or `dvc pull`, brings it back"
_HUGGINGFACE = {"info": {"features": {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}}}
CURATED_SCHEMA = pa.schema(
    [field.with_type(IMAGE_TYPE) if field.name == "image" else field for field in SCHEMA],
    metadata={"huggingface": json.dumps(_HUGGINGFACE)},
)
ORIGINS = "tables/origins.parquet"  # in a folder, so that *.parquet are shards
ORIGINS_SCHEMA = pa.schema(
    {
        "image": pa.string(),  # SOURCE/IMAGE
        "sha256": pa.string(),
        "path": pa.string(),  # the directory or archive that is the source
        "origin": pa.string(),  # file and line or id; `SOURCE: ` before it is of the source that corrects
        "boxes": pa.list_(pa.string()),  # likewise, of each box of the record
    }
)
_ANNOTATIONS = ["image.path", *(name for name in SCHEMA.names if name != "image")]

# From a record to its image file, and to its mask as a PNG file where it is made only now
ReadFiles = Callable[[Record], tuple[bytes, bytes | None]]


class Curated:
    """A curated dataset to read from. Raises UserError if `directory` holds none, or a split is not complete."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.classes = read_classes(directory / "classes.json")

    def shards(self, split: str) -> list[Path]:
        """The files of a split, in order."""
        shards = sorted(self.directory.glob(f"{split}-*-of-*.parquet"))
        if not shards or any(not shard.stem.endswith(f"-of-{len(shards):05d}") for shard in shards):
            problem = f"{self.directory}: {len(shards)} shards of {split}, which are not all"
            raise UserError(f"{problem}; `dvc checkout`, or `dvc pull`, brings them back")
        return shards

    def records(self, split: str, masks: bool = True) -> list[Record]:
        """The annotations of a split, in the order of its images; `image` is SOURCE/IMAGE. Reads no image bytes.

        masks: whether to read the masks' files, which take most of the memory; without, a mask has its path alone.
        """
        return [record for shard in self.shards(split) for record in _annotations(shard, masks)]

    def images(self, split: str) -> "ImageFiles":
        """The image files of a split, by the index of their record."""
        return ImageFiles(self.shards(split))

    def files(self, split: str) -> dict[str, Callable[[], bytes]]:
        """What reads each image file of a split, by the `image` of its record, in their order."""
        images, records = self.images(split), self.records(split, masks=False)
        return {record["image"]: partial(images.__getitem__, row) for row, record in enumerate(records)}

    @property
    def value_range(self) -> Range:
        """What becomes 0 and 255 of images of more than 8 bits."""
        shard = next(iter(sorted(self.directory.glob("*-of-*.parquet"))), None)
        metadata = (open_parquet(shard).schema_arrow.metadata or {}) if shard else {}
        return json.loads(metadata.get(b"range", b"null"))

    @property
    def licenses(self) -> dict[str, str]:
        """The licence of each source, "" where none is stated, as croissant.json has them; {} without the file."""
        file = self.directory / "croissant.json"
        about = json.loads(file.read_text("utf-8")) if file.exists() else {}
        return {each["name"]: each["license"] for each in about.get("isBasedOn", [])}

    def fingerprint(self) -> str:
        """A sha256 over class ids, annotations, splits and the images' hashes: other data, another fingerprint."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        if self.value_range:
            digest.update(json.dumps(self.value_range).encode())
        for shard in (shard for split in SPLITS for shard in self.shards(split)):
            for record in _annotations(shard, masks=True):
                digest.update(json.dumps(record, default=bytes.hex).encode())
        return digest.hexdigest()


class ImageFiles(Sequence[bytes]):
    """Random access to the image files in `shards`; reading one reads its row group, of which some are held."""

    def __init__(self, shards: Iterable[Path]) -> None:
        self._open = lru_cache(OPEN_SHARDS)(open_parquet)
        self._column = lru_cache(HELD_ROW_GROUPS)(self._read)
        self._groups = [(shard, group) for shard in shards for group in range(self._open(shard).num_row_groups)]
        rows = (self._open(shard).metadata.row_group(group).num_rows for shard, group in self._groups)
        self._ends = list(accumulate(rows, initial=0))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect_right(self._ends, index) - 1
        return self._column(group)[index - self._ends[group]].as_py()["bytes"]

    def _read(self, number: int) -> pa.ChunkedArray:
        shard, group = self._groups[number]
        return self._open(shard).read_row_group(group, columns=["image.bytes"], use_threads=False)["image"]


def _annotations(shard: Path, masks: bool) -> Iterator[Record]:
    columns = [name if masks or name != "mask" else "mask.path" for name in _ANNOTATIONS]
    for row in open_parquet(shard).read(columns=columns).to_pylist():
        yield Record(**{**row, "image": row["image"]["path"]})  # type: ignore[typeddict-item]


def open_parquet(path: Path, remedy: str = REMEDY) -> pq.ParquetFile:
    """A Parquet file to read from. Raises UserError, with the remedy, for what is none."""
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {one_line(error)}; {remedy}") from error


def write_curated(
    directory: Path,
    records: Mapping[str, Sequence[Record]],
    sizes: Mapping[str, Sequence[int]],
    read: ReadFiles,
    run: Callable[..., Iterable[list[Record]]] = starmap,
    value_range: Range = None,
) -> Iterator[Record]:
    """Write the shards of a curated dataset, yielding each record once its shard is written, for `write_annotations`.

    records: by split, in the order to write; read in slices, one for each shard. sizes: their images' bytes, by which
    shards are cut. run: calls a function with each of many arguments, in order, perhaps in other processes.
    value_range: of images of more than 8 bits.
    """
    cuts = {split: _cuts(sizes[split]) for split in SPLITS}
    shards = (
        (directory / f"{split}-{number:05d}-of-{len(cuts[split]):05d}.parquet", records[split][rows], read, value_range)
        for split in SPLITS
        for number, rows in enumerate(cuts[split])
    )
    for written in run(write_shard, shards):
        yield from written


def _cuts(sizes: Sequence[int]) -> list[slice]:
    """Where to cut images of `sizes` bytes into shards of about the same size."""
    ends = np.cumsum([0, *sizes])
    number = max(1, -(-int(ends[-1]) // SHARD_BYTES))
    bounds = np.searchsorted(ends, ends[-1] * np.arange(number) / number).tolist()
    return [slice(start, end) for start, end in pairwise([*bounds, len(sizes)])]


def write_shard(path: Path, records: Sequence[Record], read: ReadFiles, value_range: Range = None) -> list[Record]:
    """Write one shard; returns the records, of a mask the path alone."""
    rows = [_row(record, *read(record)) for record in records]
    held = sum(len(row["image"]["bytes"]) for row in rows)
    group = max(1, len(rows) * ROW_GROUP_BYTES // max(1, held))
    about = {**(CURATED_SCHEMA.metadata or {}), **({"range": json.dumps(value_range)} if value_range else {})}
    table = pa.Table.from_pylist(rows, schema=CURATED_SCHEMA.with_metadata(about))
    pq.write_table(table, path, row_group_size=group, compression="zstd", use_dictionary=False)
    masks = [row["mask"] and {**row["mask"], "bytes": None} for row in rows]
    return [Record(**{**record, "mask": mask}) for record, mask in zip(records, masks, strict=True)]


def _row(record: Record, image: bytes, mask: bytes | None) -> dict[str, Any]:
    path = image_path(record)
    row = {**record, "image": {"bytes": image, "path": path}}
    return row if mask is None else {**row, "mask": {"bytes": mask, "path": f"{path}.mask.png"}}


def write_annotations(directory: Path, records: Iterable[Record], classes: Mapping[str, int]) -> None:
    """Write metadata.json (images named as in the shards) and classes.json."""
    write_json((Record(**{**r, "image": image_path(r)}) for r in records), directory / "metadata.json")
    write_classes(classes, directory / "classes.json")


def write_origins(directory: Path, origins: pa.Table) -> None:
    """Write a table of ORIGINS_SCHEMA into a curated dataset."""
    (directory / ORIGINS).parent.mkdir(exist_ok=True)
    pq.write_table(origins, directory / ORIGINS, compression="zstd", use_dictionary=["path"])


def read_origins(directory: Path) -> dict[str, dict[str, Any]]:
    """Where each image's annotations came from: rows of ORIGINS_SCHEMA by `image`; empty for a dataset without them."""
    if not (directory / ORIGINS).exists():
        return {}
    return {row["image"]: row for row in open_parquet(directory / ORIGINS).read().to_pylist()}


def image_path(record: Record) -> str:
    """The name of a record's image among several sources."""
    return f"{record['source']}/{record['image']}"
