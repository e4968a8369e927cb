"""Chooses the images to label next: a model is unsure of them, and they differ from each other and the labelled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from Datasets.format.curated import open_parquet
from Datasets.tools.atomic import replacing
from Datasets.tools.errors import UserError

OUTPUTS = Path("Models/outputs")
UNSURE = 4  # times as many as are wanted: of the most uncertain so many, those that differ most are chosen
NEAR = 0.2  # of the median distance between a labelled image and the nearest other: what is nearer is a near duplicate


def next_images(
    pool: Annotated[Path, typer.Argument(help="what `Deployment.predict` wrote of unlabelled images, .parquet")],
    to: Annotated[Path, typer.Option(help="Parquet file to write, the chosen rows of the pool, the first one first")],
    count: Annotated[int, typer.Option(min=1, help="how many images")] = 100,
    labelled: Annotated[Path | None, typer.Option(help="features.parquet of a review; default: by the id")] = None,
) -> None:
    """Choose the images to label next, and no near duplicates of what is labelled or chosen.

    By k-centre greedy over the features (Sener and Savarese, 2018, arXiv:1708.00489), among the most uncertain.
    """
    if to.suffix != ".parquet" or to.resolve() == pool.resolve():
        raise UserError(f"--to {to}: must end in .parquet, and not be the pool; name another file")
    remedy = "`python -m Deployment.predict` writes it --to a .parquet"
    table = read(pool, ("uncertainty", "features", "source", "error"), remedy)
    unreadable = int(table["error"].is_valid().to_numpy().sum())
    table = table.filter(table["error"].is_null())
    if not len(table):
        raise UserError(f"{pool}: has {unreadable} images, and none could be read; its column `error` says why")
    labelled = labelled or OUTPUTS / table["source"][0].as_py() / "features.parquet"
    reviewed = read(labelled, ("features",), f"`dvc repro review@{labelled.parent.name}` makes it")
    known, own = vectors(reviewed, labelled), vectors(table, pool)
    weights = {(each.schema.metadata or {}).get(b"weights") for each in (reviewed, table)} - {None}
    if len(weights) > 1 or known.shape[1] != own.shape[1]:
        raise UserError(f"{pool}: is of other weights than {labelled}; `dvc repro`, and predict it again")
    chosen = choose(own, table["uncertainty"].to_numpy(), known, count)
    with replacing(to) as partial:
        pq.write_table(table.take(pa.array(chosen, pa.int64())), partial, compression="zstd")
    print(f"{to}: {len(chosen)} of {len(table)} images, {unreadable} unreadable")
    if len(chosen) < min(count, len(table)):
        print("the others are near duplicates of what is labelled, or of those")


def read(path: Path, columns: Sequence[str], remedy: str) -> pa.Table:
    """A table that has these columns, at least. Raises UserError, with the remedy."""
    table = open_parquet(path, remedy).read()
    if missing := set(columns).difference(table.schema.names):
        raise UserError(f"{path}: has no {', '.join(sorted(missing))}; {remedy}")
    return table


def vectors(table: pa.Table, path: Path) -> np.ndarray:
    """Features float32 [N, D], of length 1."""
    if table["features"].null_count or not len(table):
        raise UserError(f"{path}: has images without features; the script's forward() must give `features`")
    values = np.array(table["features"].to_pylist(), np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)


def choose(pool: np.ndarray, uncertainty: np.ndarray, labelled: np.ndarray, count: int) -> list[int]:
    """Rows of the pool: one after another the one farthest from the labelled and the chosen, of the most uncertain.

    pool, labelled: features [N, D] and [M, D], of length 1.
    """
    near = NEAR * float(np.median(nearest(labelled, labelled, others=True))) if len(labelled) > 1 else 0.0
    distance = nearest(pool, labelled)
    order = np.argsort(-uncertainty, kind="stable")
    candidates = order[distance[order] > near][: UNSURE * count]
    chosen: list[int] = []
    while len(chosen) < count and len(candidates) and distance[candidates].max() > near:
        best = int(candidates[distance[candidates].argmax()])
        chosen.append(best)
        distance[candidates] = np.minimum(distance[candidates], np.linalg.norm(pool[candidates] - pool[best], axis=1))
    return chosen


def nearest(rows: np.ndarray, centres: np.ndarray, others: bool = False) -> np.ndarray:
    """The distance of each row to the nearest centre; others: the rows are the centres, and none is its own nearest."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), 1000):  # so that memory does not grow with the square of the number
        part = slice(start, start + 1000)
        squares = np.maximum(2 - 2 * rows[part] @ centres.T, 0)
        if others:
            squares[np.arange(len(squares)), np.arange(start, start + len(squares))] = np.inf
        found[part] = np.sqrt(squares.min(1))
    return found
