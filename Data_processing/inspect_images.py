"""Inspect one source's images: each is read and decoded once, in parallel.

    python -m Data_processing.inspect_images --source digits --imported FILE --out FILE

Looks at every image and mask that a record names and at every image file beside them. Writes a Parquet file with a row
a file: what stage clean judges by, and what duplicates are found by. With --facts, images whose bytes were seen before
are not decoded again, and after a kill it goes on where it was; the output is the same to the byte.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from Data_processing.inspecting.facts_store import FactsStore
from Data_processing.inspecting.image_facts import Inspected, Kind, Task, inspect_chunk
from Data_processing.shared.imported import IMPORTED_SCHEMA, images_folder, source_path
from Data_processing.shared.inspected import INSPECTED_SCHEMA
from Data_processing.shared.parallel import Engine, Workers
from Data_processing.shared.parquet_files import check_parquet
from Data_processing.sources.files import SourceFiles, open_once
from Datasets.format.file_names import IMAGE_SUFFIXES, visible
from Datasets.format.images import MAX_PIXELS
from Datasets.tools.atomic import replacing
from Datasets.tools.command import progress, run

CHUNK = 32  # images
FEW = 128  # images that threads of this process inspect, as starting others takes as long


def inspect_all(
    files: SourceFiles, tasks: list[Task], max_pixels: int, workers: Workers, facts: Path | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of all tasks in order; workers read what `facts` does not know to be unchanged.

    What a cluster's workers found is kept in `facts`, too, but they do not look into it: as SQLite writes it ahead, all
    its processes must be on one host (https://www.sqlite.org/wal.html). So a cluster decodes renamed files again.
    """
    store = FactsStore(facts, max_pixels, writing=True) if facts else None
    unchanged = _unchanged(files, tasks, store) if store else {}
    others = [task for task in tasks if task not in unchanged]
    if workers.engine is Engine.local and len(others) <= FEW:
        workers = Workers(jobs=workers.jobs, threads=True)
    shared = None if workers.engine is Engine.dask else facts
    read = _kept(workers.run(inspect_chunk, _chunks(others, files.path, max_pixels, shared)), store)
    for name, kind in tasks:
        known = store and (name, kind) in unchanged and store.get(unchanged[name, kind], kind)
        yield {**known, "image": name} if known else next(read)
    if store:
        store.close()


def _unchanged(files: SourceFiles, tasks: Iterable[Task], store: FactsStore) -> dict[Task, str]:
    """The tasks whose files are as they were when they were inspected, and their sha256."""
    versions = ((name, kind, files.version(name)) for name, kind in tasks)
    found = ((name, kind, version and store.sha256(version, kind)) for name, kind, version in versions)
    return {(name, kind): sha256 for name, kind, sha256 in found if sha256}


def _kept(chunks: Iterable[list[Inspected]], store: FactsStore | None) -> Iterator[dict[str, Any]]:
    for results in chunks:
        if store:
            store.put((each.row, each.kind, each.version) for each in results if each.is_new or each.version)
        yield from (each.row for each in results)


def _chunks(tasks: Iterable[Task], path: Path, *common: Any) -> Iterator[tuple[Any, ...]]:
    iterator = iter(tasks)
    while part := list(islice(iterator, CHUNK)):
        yield path, part, *common


def find_tasks(files: SourceFiles, imported: Path) -> list[Task]:
    """The images and masks that records name and the image files beside them, in the source's order.

    What the source lacks comes at the end. A file that some record names as its mask is a mask.
    """
    table = pq.ParquetFile(imported).read(columns=["image", "mask.path"])
    masks = {mask["path"] for mask in table["mask"].to_pylist() if mask}
    named = masks.union(table["image"].to_pylist())
    delivered = files.names()
    wanted = named.union(visible(delivered, IMAGE_SUFFIXES, images_folder(imported)))
    names = [name for name in delivered if name in wanted] + sorted(named.difference(delivered))
    return [(name, Kind.mask if name in masks else Kind.image) for name in names]


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write the inspected rows."""
    iterator = iter(rows)
    with pq.ParquetWriter(path, INSPECTED_SCHEMA, compression="zstd") as writer:
        while part := list(islice(iterator, 10_000)):
            writer.write_table(pa.Table.from_pylist(part, schema=INSPECTED_SCHEMA))


def main(
    source: Annotated[str, typer.Option(help="the source's name")],
    imported: Annotated[Path, typer.Option(help="the import stage's Parquet file")],
    out: Annotated[Path, typer.Option(help="Parquet file to write")],
    path: Annotated[Path | None, typer.Option(help="the source, if it is not where it was imported from")] = None,
    facts: Annotated[Path | None, typer.Option(help="SQLite file that keeps facts from run to run")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="larger images are not decoded")] = MAX_PIXELS,
    engine: Annotated[Engine, typer.Option(help="local processes, or a Dask cluster")] = Engine.local,
    scheduler: Annotated[str, typer.Option(help="address of the cluster's scheduler")] = "",
    jobs: Annotated[int, typer.Option(help="local processes; -1 for one a core")] = -1,
) -> None:
    """Read and decode each image of a source once and note what is found."""
    check_parquet(imported, IMPORTED_SCHEMA.names, "import")
    path = path or Path(source_path(imported))
    files = open_once(path)
    tasks = find_tasks(files, imported)
    rows = inspect_all(files, tasks, max_pixels, Workers(engine, scheduler, jobs), facts)
    with replacing(out) as partial:
        write_rows(progress(rows, len(tasks), f"inspect {source}", "images"), partial)


if __name__ == "__main__":
    run(main)
