"""What the inspect stage hands on: a row for each image file and each mask file of a source."""

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

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
    """What the clean stage judges an image by: columns of INSPECTED_SCHEMA, `bytes` as size."""

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
