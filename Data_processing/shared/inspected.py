"""The inspect stage's file: a row for each image file and each mask file of a source."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.tools.errors import UserError

HASH_BYTES = 32
INSPECTED_SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "reason": pa.string(),  # why it cannot be used; null if it can
        "bytes": pa.int64(),
        "sha256": pa.string(),  # null if there is no such file
        "width": pa.int32(),  # of the upright image
        "height": pa.int32(),
        "format": pa.string(),  # Pillow's names
        "mode": pa.string(),
        "phash": pa.binary(HASH_BYTES),
        "brightness": pa.float32(),
        "contrast": pa.float32(),
        "sharpness": pa.float32(),
        "values": pa.list_(pa.int32()),  # of a mask: those that occur
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
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {remedy}") from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: no whole Parquet file ({reason:.120}); {remedy}") from error
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]}; {remedy}")
