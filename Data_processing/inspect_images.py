"""Inspect one source's images: each is read and decoded once, in parallel.

    python -m Data_processing.inspect_images --source digits

Writes a Parquet file with a row for each image and mask that a record names and for each image file beside them. With
--facts, images whose bytes were seen before are not decoded again; the output is the same to the byte.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from Data_processing.shared.files import open_once
from Data_processing.shared.imported import IMPORTED_SCHEMA, read_about
from Data_processing.shared.inspected import INSPECTED_SCHEMA, FactsStore, Row, Task, check_parquet, inspect_chunk
from Data_processing.shared.parallel import Workers, batched
from Datasets.format.files import IMAGE_SUFFIXES, visible
from Datasets.format.images import MAX_PIXELS
from Datasets.tools.atomic import replacing
from Datasets.tools.command import options_of, progress, run, with_options

CHUNK = 32  # images
FEW = 64  # images, which this process inspects before others have started


def find_tasks(names: list[str], imported: Path) -> list[Task]:
    """The images and masks that records name and the images beside them, in the order of `names`; missing ones last."""
    table = pq.ParquetFile(imported).read(columns=["image", "mask"])
    masks = set(filter(None, table["mask"].to_pylist()))
    named = masks.union(table["image"].to_pylist())
    folder = read_about(imported).images
    wanted = named.union(() if folder is None else visible(names, IMAGE_SUFFIXES, folder))
    found = [name for name in names if name in wanted] + sorted(named.difference(names))
    return [Task(name, name in masks) for name in found]


@with_options(options_of(Workers))
def main(
    source: Annotated[str, typer.Option(help="the source's name")],
    imported: Annotated[Path | None, typer.Option(help="the import stage's Parquet file")] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file; intermediate/inspected has one a source")] = None,
    path: Annotated[Path | None, typer.Option(help="the source, if it is not where it was imported from")] = None,
    facts: Annotated[Path | None, typer.Option(help="SQLite file that keeps facts from run to run")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="larger images are not decoded")] = MAX_PIXELS,
    **workers: Any,
) -> None:
    """Read and decode each image of a source once and note what is found."""
    imported = imported or Path(f"Data_processing/intermediate/imported/{source}.parquet")
    out = out or Path(f"Data_processing/intermediate/inspected/{source}.parquet")
    check_parquet(imported, IMPORTED_SCHEMA.names, "import")
    about = read_about(imported)
    path = path or Path(about.path)
    tasks = find_tasks(open_once(path).names(), imported)
    stated = about.options.value_range()
    store = FactsStore(facts, max_pixels, stated) if facts else None
    chunks = ((path, part, max_pixels, facts, stated) for part in batched(tasks, CHUNK))
    results = Workers(**workers).run(inspect_chunk, chunks, len(tasks) <= FEW)

    def rows() -> Iterator[Row]:
        for part, found in zip(batched(tasks, CHUNK), results, strict=True):
            if store:
                store.put(part, found)
            yield from found

    with replacing(out) as partial, pq.ParquetWriter(partial, INSPECTED_SCHEMA, compression="zstd") as writer:
        for part in batched(progress(rows(), len(tasks), f"inspect {source}", "images"), 10_000):
            writer.write_table(pa.Table.from_pylist(part, schema=INSPECTED_SCHEMA))


if __name__ == "__main__":
    run(main)
