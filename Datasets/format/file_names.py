"""Which files of a directory or an archive count, by their names: POSIX paths relative to it."""

from collections.abc import Iterable, Iterator
from posixpath import splitext

_READ = ".jpg .jpeg .jpe .jfif .png .bmp .gif .tif .tiff .webp .jp2 .ppm .pgm .pnm"
_UNREAD = ".dib .heic .heif .avif"  # they are told as unreadable, rather than passed over
IMAGE_SUFFIXES = frozenset(f"{_READ} {_UNREAD}".split())


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
