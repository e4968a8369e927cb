"""File names for exported images that stay apart on every file system, also on one that ignores case."""

import re
import unicodedata
from itertools import count
from pathlib import PurePosixPath

MAX_STEM_BYTES = 180  # file systems allow 255, of which some are needed for numbers and suffixes

JPEG = {".jfif", ".jpe"}  # which browsers write, and many readers of datasets pass over


class Names:
    """Gives out names, each once. The same paths in the same order get the same names."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def keep(self, path: str) -> str:
        """The path itself; below a numbered folder if it can be mistaken for one that was given out before.

        Two are mistaken for each other if they differ in case or Unicode form only, or if one is a folder of the other.
        """
        if self._take(PurePosixPath(path)):
            return path
        return next(str(below) for n in count(2) if self._take(below := PurePosixPath(str(n), path)))

    def flat(self, path: str) -> str:
        """The path as one name of letters, digits, `_`, `-` and `.`, numbered if its stem was given out before.

        The suffixes of JPEG that few readers know become .jpg.
        """
        name = PurePosixPath(re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", path)).strip(".") or "image")
        stem = name.stem.encode()[-MAX_STEM_BYTES:].decode(errors="ignore").lstrip(".")
        suffix = ".jpg" if name.suffix.lower() in JPEG else name.suffix
        if self._take(PurePosixPath(stem)):
            return f"{stem}{suffix}"
        return next(f"{stem}_{n}{suffix}" for n in count(2) if self._take(PurePosixPath(f"{stem}_{n}")))

    def _take(self, path: PurePosixPath) -> bool:
        name = _fold(path)
        folders = {_fold(folder) for folder in path.parents}
        if name in self._files or name in self._folders or not folders.isdisjoint(self._files):
            return False
        self._files.add(name)
        self._folders |= folders
        return True


def _fold(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())
