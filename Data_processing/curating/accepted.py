"""The accepted records in any order, however many: on disk until they are asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from Data_processing.curating.duplicates import Groups
from Datasets.format.records import SCHEMA

BATCH = 4096  # records
COLUMNS = [*SCHEMA.names, "mask_names"]


class Accepted:
    """Accepted records by their row; see open_accepted."""

    def __init__(self, file: pa.ipc.RecordBatchFileReader) -> None:
        self._file = file
        sizes = [file.get_batch(number).num_rows for number in range(file.num_record_batches)]
        self._starts = np.cumsum([0, *sizes])

    def records(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """The records of rows, int64 [R], in their order."""
        batches = np.searchsorted(self._starts, rows, side="right") - 1
        found: list[dict[str, Any]] = [{}] * len(rows)
        for batch in np.unique(batches).tolist():
            places = np.flatnonzero(batches == batch)
            part = self._file.get_batch(batch).take(pa.array(rows[places] - self._starts[batch]))
            for place, record in zip(places.tolist(), part.to_pylist(), strict=True):
                found[place] = record
        return found


@contextmanager
def open_accepted(parquet: Path, scratch: Path) -> Iterator[Accepted]:
    """Access to the records of accepted.parquet, through an uncompressed copy at `scratch` that is removed afterwards.

    The copy is mapped into memory: only what is asked for is read, and in any order, which Parquet cannot do.
    """
    try:
        with pq.ParquetFile(parquet, pre_buffer=False) as file, pa.OSFile(str(scratch), "wb") as sink:
            batches = file.iter_batches(BATCH, columns=COLUMNS)
            with pa.ipc.new_file(sink, pa.schema([file.schema_arrow.field(name) for name in COLUMNS])) as writer:
                for batch in batches:
                    writer.write_batch(batch.select(COLUMNS))
        with pa.memory_map(str(scratch)) as mapped:
            yield Accepted(pa.ipc.open_file(mapped))
    finally:
        scratch.unlink(missing_ok=True)


class Chosen(Sequence[Any]):
    """Some of the accepted records, in a given order, with their group and split; a slice is read when it is taken."""

    def __init__(self, accepted: Accepted, rows: np.ndarray, groups: Groups, split: str) -> None:
        """rows: int64 [R]. groups: of all accepted records."""
        self._accepted, self._rows, self._groups, self._split = accepted, rows, groups, split

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return self[index : index + 1 or None][0]
        rows = self._rows[index]
        names = (self._groups.names[number] for number in self._groups.numbers[rows].tolist())
        records = self._accepted.records(rows)
        return [{**record, "group": name, "split": self._split} for record, name in zip(records, names, strict=True)]
