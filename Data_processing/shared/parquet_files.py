"""Parquet files that stages hand on: whether one given by hand is whole and what it is taken for."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.tools.errors import UserError


def check_parquet(path: Path, columns: Iterable[str], stage: str) -> None:
    """Raise UserError for what `stage` did not write: no whole Parquet file, or one without these columns."""
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
