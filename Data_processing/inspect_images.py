"""Inspect one source's images: each is read and decoded once, in parallel.

    python -m Data_processing.inspect_images --source digits --path Datasets/raw/digits --imported FILE --out FILE

Looks at every image that a record names and at every image file beside them. Writes a Parquet file with a row an image:
what stage clean judges by, and what duplicates are found by.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import joblib
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from Data_processing.image_facts import inspect_chunk, inspect_named
from Data_processing.imported import images_folder
from Data_processing.inspected import INSPECTED_SCHEMA
from Data_processing.source_files import SourceFiles, images_below, open_source
from Datasets.atomic import replacing
from Datasets.command import run
from Datasets.images import MAX_PIXELS
from Datasets.progress import progress

CHUNK = 32


def inspect_all(path: Path, names: list[str], max_pixels: int, jobs: int) -> Iterator[dict[str, Any]]:
    """The rows of all names in order, by `jobs` processes; by one for a few names, or for a tar, which has no index."""
    files = open_source(path)
    if files.sequential or jobs == 1 or len(names) <= CHUNK:
        yield from (inspect_named(files, name, max_pixels) for name in names)
        return
    chunks = (names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
    work = (joblib.delayed(inspect_chunk)(path, chunk, max_pixels) for chunk in chunks)
    for rows in joblib.Parallel(n_jobs=jobs, return_as="generator")(work):
        yield from rows


def names_to_inspect(files: SourceFiles, imported: Path) -> list[str]:
    """The images that records name and the image files beside them, in the source's order; what it lacks at the end."""
    named = set(pq.read_table(imported, columns=["image"])["image"].to_pylist())
    delivered = files.names()
    wanted = named.union(images_below(files, images_folder(imported)))
    return [name for name in delivered if name in wanted] + sorted(named.difference(delivered))


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write the inspected rows."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=INSPECTED_SCHEMA), path, compression="zstd")


def main(
    source: Annotated[str, typer.Option(help="the source's name")],
    path: Annotated[Path, typer.Option(help="the source: directory, .zip or .tar")],
    imported: Annotated[Path, typer.Option(help="the import stage's Parquet file")],
    out: Annotated[Path, typer.Option(help="Parquet file to write")],
    max_pixels: Annotated[int, typer.Option(min=1, help="larger images are not decoded")] = MAX_PIXELS,
    jobs: Annotated[int, typer.Option(help="processes; -1 for one a core")] = -1,
) -> None:
    """Read and decode each image of a source once and note what is found."""
    names = names_to_inspect(open_source(path), imported)
    rows = inspect_all(path, names, max_pixels, jobs)
    with replacing(out) as partial:
        write_rows(progress(rows, len(names), f"inspect {source}", "images"), partial)


if __name__ == "__main__":
    run(main)
