"""The files of a source, read where they lie: a directory, a .zip, or a .tar in any of its compressions.

Nothing is unpacked. A name is a POSIX path inside the source; none leads out of it.
"""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from Datasets.errors import UserError
from Datasets.records import is_safe_path

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm"}


class MissingFile(Exception):
    """The source has no such file, or not inside itself; the message says which."""


class SourceFiles(Protocol):
    """What every kind of source can do."""

    path: Path
    sequential: bool  # whether files should be read in the order of `names`, by one reader

    def names(self) -> list[str]:
        """All files; sorted, or in an archive's own order where it is sequential."""

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises MissingFile."""


def open_source(path: Path) -> SourceFiles:
    """Open a source. Raises UserError if it does not exist, is no directory or archive, or is a damaged archive."""
    if path.is_dir():
        return Directory(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file or directory; correct the source's `path`, or `dvc pull` it")
    try:
        return Zip(path) if path.suffix.lower() == ".zip" else Tar(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: no whole .zip or .tar archive ({reason}); was it cut off? Fetch it again, or name a directory"
        ) from error


class Directory:
    """A source that is a directory. Symbolic links are followed as long as they stay inside it."""

    sequential = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if not file.is_dir())

    def read(self, name: str) -> bytes:
        file = self.path / name
        if not is_safe_path(name) or not file.resolve().is_relative_to(self.path.resolve()):
            raise MissingFile(f"{name} lies outside the source")
        if not file.is_file():
            raise MissingFile(f"there is no file {name}")
        return file.read_bytes()


class Zip:
    """A source that is a .zip file."""

    sequential = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)

    def names(self) -> list[str]:
        return sorted(info.filename for info in self._zip.infolist() if not info.is_dir())

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except KeyError:
            raise MissingFile(f"there is no file {name}") from None
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise MissingFile(f"{name} cannot be read from the archive: {error}") from error


class Tar:
    """A source that is a .tar file, compressed or not. Only regular files count: a link could lead anywhere."""

    sequential = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tar = tarfile.open(path)  # noqa: SIM115 - read from as long as the source is
        self._members = {member.name.removeprefix("./"): member for member in self._tar if member.isfile()}
        self._check_end()
        self._check_end()

    def names(self) -> list[str]:
        return list(self._members)

    def read(self, name: str) -> bytes:
        if name not in self._members:
            raise MissingFile(f"there is no file {name}")
        file = self._tar.extractfile(self._members[name])
        return (file or io.BytesIO()).read()

    def _check_end(self) -> None:
        """An archive that was cut off between two files reads like a whole one, but for the zeros that end it."""
        assert self._tar.fileobj is not None
        self._tar.fileobj.seek(self._tar.offset)
        block = self._tar.fileobj.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise tarfile.ReadError("it ends without an end mark")


def images_below(files: SourceFiles, folder: str) -> Iterator[str]:
    """The names of all files below `folder` ("" for all) whose suffix is an image's; hidden and __MACOSX ones apart."""
    prefix = f"{folder}/" if folder else ""
    for name in files.names():
        hidden = name.rpartition("/")[2].startswith(".") or name.startswith("__MACOSX/")
        if name.startswith(prefix) and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not hidden:
            yield name
