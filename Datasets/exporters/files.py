"""What the exporters share: writing files, and names that stay apart."""

import re
import unicodedata
from collections.abc import Mapping, Set
from itertools import count
from pathlib import Path, PurePosixPath

from Datasets.format.records import Record

UNBOXED = "images with labels or counts that no boxes stand behind"
MAX_STEM_BYTES = 180  # file systems allow 255, of which some are needed for numbers and suffixes
JPEG = {".jfif", ".jpe"}  # suffixes that browsers write and many readers of datasets ignore


def write_file(path: Path, data: bytes) -> None:
    """Write a file, making the folders it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def is_more_known(record: Record, annotated: Set[int], classes: Mapping[str, int]) -> bool:
    """Whether a record has a label of a class that is not among the ids `annotated`, or counts without boxes."""
    labels = {classes[name] for name in record["labels"] or ()}
    return not labels <= annotated or bool(record["boxes"] is None and record["counts"])


class Names:
    """Gives out names that stay apart on every file system, also on one that ignores case. Depends on their order."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def keep(self, path: str) -> str:
        """The path itself, or below a numbered folder if it was given out before, perhaps in another case."""
        return path if self._take(path) else next(name for n in count(2) if self._take(name := f"{n}/{path}"))

    def flat(self, path: str) -> str:
        """The path as one name of letters, digits, `_`, `-` and `.`, numbered if its stem was given out before."""
        name = PurePosixPath(re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", path)).strip(".") or "image")
        stem = name.stem.encode()[-MAX_STEM_BYTES:].decode(errors="ignore").lstrip(".")
        suffix = ".jpg" if name.suffix.lower() in JPEG else name.suffix
        if not self._take(stem):
            stem = next(numbered for n in count(2) if self._take(numbered := f"{stem}_{n}"))
        return f"{stem}{suffix}"

    def _take(self, name: str) -> bool:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if folded in self._taken:
            return False
        self._taken.add(folded)
        return True
