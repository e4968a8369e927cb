"""The files of a source: what every kind of source can do, and what names in it mean; source_readers.py has the kinds.

A name is a POSIX path inside the source; none leads out of it. FILE.json#NAME is the image that a JSON file of LabelMe
holds as `imageData`, in base64.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from posixpath import splitext
from typing import Protocol

IMAGE_SUFFIXES = {
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".jp2",
        ".ppm",
        ".pgm",
        ".pnm",
    ),
    *(".dib", ".heic", ".heif", ".avif"),  # not read, and so told as unreadable
}
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


def visible(names: Iterable[str], suffixes: Iterable[str], folder: str = "") -> Iterator[str]:
    """The names below `folder` ("" for all) with one of the suffixes (lower case).

    Without hidden files, all that lies in hidden folders below that one, and __MACOSX.
    """
    prefix = f"{folder}/" if folder else ""
    for name in names:
        if name.startswith(prefix) and splitext(name)[1].lower() in suffixes:
            below = name[len(prefix) :]
            if not below.startswith((".", "__MACOSX/")) and "/." not in below:
                yield name


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
