"""Inspect one source's images: each is read and decoded once, in parallel.

    python -m Data_processing.inspect_images --source digits

Looks at every image and mask that a record names and at every image file beside them. Writes a Parquet file with a row
a file: what stage clean judges by, and what duplicates are found by. With --facts, images whose bytes were seen before
are not decoded again, also after a kill; the output is the same to the byte.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from Data_processing.shared.files import open_once
from Data_processing.shared.imported import IMPORTED_SCHEMA, images_folder, source_path
from Data_processing.shared.inspected import INSPECTED_SCHEMA, Row, Task, check_parquet, hash_chunk, inspect_chunk
from Data_processing.shared.parallel import Engine, EngineOption, JobsOption, SchedulerOption, Workers, batched
from Datasets.format.files import IMAGE_SUFFIXES, visible
from Datasets.format.images import MAX_PIXELS
from Datasets.tools.atomic import replacing
from Datasets.tools.command import progress, run
from Datasets.tools.errors import UserError

CHUNK = 32  # images
FEW = 64  # images, which this process inspects before others have started
COMPUTED_BY = ("Data_processing/shared/inspected.py", "Datasets/format/images.py")  # facts kept are of this code


class FactsStore:
    """The rows of files that were inspected before, in a SQLite file that can be deleted at any time.

    It forgets everything when the code or a library that the facts come from changes. path: None for a temporary file.
    All methods raise UserError if the file is damaged, or something else.
    """

    def __init__(self, path: Path | None, max_pixels: int) -> None:
        code = [(Path(__file__).parents[1] / name).read_bytes() for name in COMPUTED_BY]
        versions = [f"{name} {metadata.version(name)}".encode() for name in ("pillow", "numpy")]
        self._recipe = hashlib.sha256(b"\0".join([*code, *versions, str(max_pixels).encode()])).digest()[:8]
        self._path = path
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._one_line():
            self._connection = sqlite3.connect(path or "", isolation_level=None, timeout=60)
            self._connection.execute("CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, facts BLOB)")
            self._connection.execute("DELETE FROM facts WHERE substr(key, 1, 8) != ?", (self._recipe,))

    def is_empty(self) -> bool:
        """Whether no row is kept."""
        with self._one_line():
            return self._connection.execute("SELECT 1 FROM facts LIMIT 1").fetchone() is None

    def get(self, sha256: str, is_mask: bool) -> Row | None:
        """The row of a file of these bytes, `image` being any name; None if none was inspected."""
        with self._one_line():
            query = "SELECT facts FROM facts WHERE key = ?"
            found = self._connection.execute(query, (self._key(sha256, is_mask),)).fetchone()
        return found and msgspec.msgpack.decode(found[0])

    def put(self, tasks: Iterable[Task], rows: Iterable[Row]) -> None:
        """Keep the rows of tasks, all at once; not those of missing files."""
        values = [
            (self._key(row["sha256"], task.is_mask), msgspec.msgpack.encode(row))
            for task, row in zip(tasks, rows, strict=True)
            if row["sha256"]
        ]
        with self._one_line():
            self._connection.execute("BEGIN")
            self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", values)
            self._connection.execute("COMMIT")

    def _key(self, sha256: str, is_mask: bool) -> bytes:
        return self._recipe + bytes([is_mask]) + bytes.fromhex(sha256)

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self._path}: {error}; delete this file, it only saves time") from error


def inspect_all(path: Path, tasks: list[Task], max_pixels: int, workers: Workers, store: FactsStore) -> Iterator[Row]:
    """The rows of all tasks in order; files whose bytes `store` knows are read, but not decoded."""
    known = {} if store.is_empty() else _find_known(path, tasks, workers, store)
    decoded = _decode(path, [task for task in tasks if task not in known], max_pixels, workers, store)
    for task in tasks:
        row = store.get(known[task], task.is_mask) if task in known else next(decoded)
        assert row
        yield {**row, "image": task.name}


def _find_known(path: Path, tasks: list[Task], workers: Workers, store: FactsStore) -> dict[Task, str]:
    """The tasks whose files were inspected before, with their sha256."""
    chunks = ((path, part) for part in batched(tasks, CHUNK))
    digests = (digest for part in workers.run(hash_chunk, chunks, len(tasks) <= FEW) for digest in part)
    shown = progress(digests, len(tasks), "look for changed images", "images")
    return {
        task: sha256 for task, sha256 in zip(tasks, shown, strict=True) if sha256 and store.get(sha256, task.is_mask)
    }


def _decode(path: Path, tasks: list[Task], max_pixels: int, workers: Workers, store: FactsStore) -> Iterator[Row]:
    chunks = ((path, part, max_pixels) for part in batched(tasks, CHUNK))
    results = workers.run(inspect_chunk, chunks, len(tasks) <= FEW)
    for part, rows in zip(batched(tasks, CHUNK), results, strict=True):
        store.put(part, rows)
        yield from rows


def find_tasks(names: list[str], imported: Path) -> list[Task]:
    """The images and masks that records name and the image files beside them, in the source's order.

    names: all files of the source; what it lacks comes at the end. A file that some record names as its mask is a mask.
    """
    table = pq.ParquetFile(imported).read(columns=["image", "mask"])
    masks = set(filter(None, table["mask"].to_pylist()))
    named = masks.union(table["image"].to_pylist())
    wanted = named.union(visible(names, IMAGE_SUFFIXES, images_folder(imported)))
    found = [name for name in names if name in wanted] + sorted(named.difference(names))
    return [Task(name, name in masks) for name in found]


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write the inspected rows."""
    with pq.ParquetWriter(path, INSPECTED_SCHEMA, compression="zstd") as writer:
        for part in batched(rows, 10_000):
            writer.write_table(pa.Table.from_pylist(part, schema=INSPECTED_SCHEMA))


def main(
    source: Annotated[str, typer.Option(help="the source's name")],
    imported: Annotated[Path | None, typer.Option(help="the import stage's Parquet file")] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file; intermediate/inspected has one a source")] = None,
    path: Annotated[Path | None, typer.Option(help="the source, if it is not where it was imported from")] = None,
    facts: Annotated[Path | None, typer.Option(help="SQLite file that keeps facts from run to run")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="larger images are not decoded")] = MAX_PIXELS,
    engine: EngineOption = Engine.local,
    scheduler: SchedulerOption = "",
    jobs: JobsOption = -1,
) -> None:
    """Read and decode each image of a source once and note what is found."""
    imported = imported or Path(f"Data_processing/intermediate/imported/{source}.parquet")
    out = out or Path(f"Data_processing/intermediate/inspected/{source}.parquet")
    check_parquet(imported, IMPORTED_SCHEMA.names, "import")
    path = path or Path(source_path(imported))
    tasks = find_tasks(open_once(path).names(), imported)
    rows = inspect_all(path, tasks, max_pixels, Workers(engine, scheduler, jobs), FactsStore(facts, max_pixels))
    with replacing(out) as partial:
        write_rows(progress(rows, len(tasks), f"inspect {source}", "images"), partial)


if __name__ == "__main__":
    run(main)
