"""The files of a source: what every kind of source can do, and what names in it mean; source_readers.py has the kinds.

A name is a POSIX path inside the source; none leads out of it. FILE.json#NAME is the image that a JSON file of LabelMe
holds as `imageData`, in base64.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from Datasets.format.file_names import IMAGE_SUFFIXES, visible

EMBEDDED = ".json#"


class MissingFile(Exception):
    """The source has no such file, or not inside itself, or it cannot be read; the message says which."""


class SourceFiles(Protocol):
    """What every kind of source can do."""

    path: Path
    sequential: bool  # whether files should be read in the order of `names`, by one reader

    def names(self) -> list[str]:
        """All files; sorted, or in an archive's own order where it is sequential."""

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises MissingFile."""

    def version(self, name: str) -> bytes | None:
        """What changes whenever the file does, found without reading it; None where that cannot be known."""


def images_below(files: SourceFiles, folder: str) -> Iterator[str]:
    """The names of all image files below `folder` ("" for all)."""
    return visible(files.names(), IMAGE_SUFFIXES, folder)


def inside(folder: str, name: str) -> str:
    """A name that an annotation gives, relative to a folder, as a path inside the source; Windows' \\ counts as /."""
    path = f"{folder}/{name}" if folder else name
    framed = f"/{path}/"
    if "\\" in framed or "//" in framed or "/./" in framed:  # else pathlib, which is slow, would write the same
        return str(PurePosixPath(folder, name.replace("\\", "/")))
    return path


def folder_name(option: str) -> str:
    """A folder as the user writes it (`.`, `./images/`) as names inside a source begin: "", "images"."""
    name = str(PurePosixPath(option))
    return "" if name == "." else name
