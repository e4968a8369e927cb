"""Facts of images that were inspected before, kept by the sha256 of their files, in a SQLite file.

A source that grew by a few images costs the decoding of those few, and a stage that was killed goes on from there. What
has the same inode, size and times as when it was read is not even read again. The file can be deleted at any time. It
forgets everything when the code or a library that the facts come from changes.
"""

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from Datasets.tools.errors import UserError

CODE = ("image_facts.py", "../shared/masks.py", "../../Datasets/format/images.py")  # what facts are computed by
LIBRARIES = ("pillow", "numpy")


class FactsStore:
    """Rows of INSPECTED_SCHEMA by sha256 and kind. All raise UserError if `path` is another file, or damaged.

    Of several processes, all on one host, one may write, the others are given writing=False; where no file is yet, they
    find nothing, and make none. Threads may share it.
    """

    def __init__(self, path: Path, max_pixels: int, writing: bool = False) -> None:
        self._prefix, self._path, self._lock = _recipe(max_pixels), path, threading.Lock()
        if writing:
            path.parent.mkdir(parents=True, exist_ok=True)
        place = path if writing or path.exists() else ":memory:"
        with self._one_line():
            self._connection = sqlite3.connect(place, isolation_level=None, timeout=60, check_same_thread=False)
        with self._using() as connection:
            if place != path or writing:
                connection.execute("CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, facts BLOB)")
            if writing:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost facts, nothing else
                connection.execute("DELETE FROM facts WHERE substr(key, 1, 8) != ?", (self._prefix,))
            connection.execute("SELECT * FROM facts LIMIT 1")

    def sha256(self, version: bytes, kind: str) -> str | None:
        """The sha256 of the file that was read in this version (see SourceFiles) and whose facts are known, if any."""
        found = self._found(self._prefix + version + kind.encode())
        return None if found is None else found.hex()

    def get(self, sha256: str, kind: str) -> dict[str, Any] | None:
        """The row of a file of these bytes, `image` being another's name; None if it was not inspected."""
        found = self._found(self._key(sha256, kind))
        return None if found is None else msgspec.msgpack.decode(found)

    def put(self, rows: Iterable[tuple[dict[str, Any], str, bytes | None]]) -> None:
        """Keep rows, each with its kind and its file's version, all at once."""
        values = []
        for row, kind, version in rows:
            values.append((self._key(row["sha256"], kind), msgspec.msgpack.encode(row)))
            if version:
                values.append((self._prefix + version + kind.encode(), bytes.fromhex(row["sha256"])))
        with self._using() as connection:
            connection.execute("BEGIN")
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", values)
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _found(self, key: bytes) -> bytes | None:
        with self._using() as connection:
            found = connection.execute("SELECT facts FROM facts WHERE key = ?", (key,)).fetchone()
        return found and found[0]

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time: from Python 3.13 on, another would get its answers."""
        with self._lock, self._one_line():
            yield self._connection

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self._path}: {error}; delete this file, it only saves time") from error

    def _key(self, sha256: str, kind: str) -> bytes:
        return self._prefix + bytes.fromhex(sha256) + kind.encode()


def _recipe(max_pixels: int) -> bytes:
    """8 bytes that change with whatever the facts depend on beside the file."""
    code = [Path(__file__).parent.joinpath(name).read_bytes() for name in CODE]
    said = [*code, *(metadata.version(name).encode() for name in LIBRARIES), str(max_pixels).encode()]
    return hashlib.sha256(b"\0".join(said)).digest()[:8]
