"""Files that people bring: which ones count, by their names, and their text."""

from collections.abc import Iterable, Iterator
from posixpath import splitext

from Datasets.tools.errors import UserError

_READABLE = ".jpg .jpeg .jpe .jfif .png .bmp .gif .tif .tiff .webp .jp2 .ppm .pgm .pnm .avif"
_UNREADABLE = ".dib .heic .heif .jxl .psd .dng .nef .arw .cr2 .cr3 .orf .rw2 .raf .exr .dcm"  # to be reported
IMAGE_SUFFIXES = frozenset(f"{_READABLE} {_UNREADABLE}".split())
TASK_DIGITS = 16  # of its sha256, which end the name of a labelling task's image (Datasets/tasks.py)
COUNT = "count_"  # begins the name of the control by which Label Studio counts a class


def visible(names: Iterable[str], suffixes: Iterable[str], folder: str = "") -> Iterator[str]:
    """The POSIX paths below `folder` ("" for all) with one of the suffixes (lower case), without hidden files.

    Hidden are also files in hidden folders below `folder`, and in __MACOSX.
    """
    prefix = f"{folder}/" if folder else ""
    for name in names:
        if name.startswith(prefix) and splitext(name)[1].lower() in suffixes:
            below = name[len(prefix) :]
            if not below.startswith((".", "__MACOSX/")) and "/." not in below:
                yield name


def decode_text(data: bytes, name: object, encoding: str = "utf-8-sig") -> str:
    """The text of a file, without a byte order mark. encoding: "utf-8" keeps the mark, for what is written back.

    Raises UserError with the line that is not UTF-8; name: of the file, for the message.
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise UserError(f"{name}: line {line}: byte 0x{byte:02x} is not UTF-8; save the file in UTF-8") from error
