"""The kinds of sources: a directory, a .zip, or a .tar of any compression, read where it lies; nothing is unpacked."""

import base64
import hashlib
import lzma
import os
import re
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from Data_processing.sources.files import EMBEDDED, MissingFile, SourceFiles
from Datasets.format.records import is_safe_path
from Datasets.tools.errors import UserError

DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)
SHARDS = "*-of-*.parquet"  # of a curated dataset
SETTLED = 2_000_000_000  # nanoseconds; a file younger than a clock's coarsest tick may be written again in the same one
HELD_COLUMNS = 6  # of row groups: the images and masks of three splits; in the order of names, each is then read once
DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")


def open_source(path: Path) -> SourceFiles:
    """Open a source; a directory of shards is read like one of files.

    Raises UserError if it does not exist, is no directory or archive, or is damaged.
    """
    if path.is_dir():
        return WithEmbedded(Shards(path) if next(path.glob(SHARDS), None) else Directory(path))
    if not path.is_file():
        raise UserError(f"{path}: no such file or directory; correct the source's `path`, or `dvc pull` it")
    try:
        return WithEmbedded(Zip(path) if path.suffix.lower() == ".zip" else Tar(path))
    except DAMAGE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: no whole .zip or .tar archive ({reason}); was it cut off? Fetch it again, or name a directory"
        ) from error


def open_once(path: Path) -> SourceFiles:
    """As open_source; the same one for the same path, as looking through an archive takes long.

    Not once it was replaced: the processes of a cluster may live on from one version of a delivery to the next.
    """
    state = path.stat() if path.exists() else None
    return _opened(path, state and (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=8)
def _opened(path: Path, _: tuple[int, int, int] | None) -> SourceFiles:
    return open_source(path)


class Directory:
    """A source that is a directory. Symbolic links are followed inside it, and into DVC's cache, but nowhere else."""

    sequential = False

    def __init__(self, path: Path) -> None:
        self.path, self._root = path, f"{os.path.realpath(path).rstrip(os.sep)}{os.sep}"
        self._folders: dict[str, str] = {}  # each folder that was read from, and where it really is

    def names(self) -> list[str]:
        found: list[str] = []
        for folder, _, files in os.walk(self.path):
            below = Path(folder).relative_to(self.path).as_posix()
            found += files if below == "." else (f"{below}/{file}" for file in files)
        return sorted(_in_unicode(found, self.path))

    def read(self, name: str) -> bytes:
        file, _ = self._found(name)
        try:
            return Path(file).read_bytes()
        except OSError as error:
            raise MissingFile(f"{name} cannot be read: {error.strerror or error}") from error

    def version(self, name: str) -> bytes | None:
        try:
            _, status = self._found(name)
        except MissingFile:
            return None
        times = status.st_mtime_ns, status.st_ctime_ns
        if time.time_ns() - max(times) < SETTLED:
            return None
        said = f"{name}\0{status.st_dev} {status.st_ino} {status.st_size} {times}"
        return hashlib.sha256(said.encode()).digest()

    def _found(self, name: str) -> tuple[str, os.stat_result]:
        """Where a file really is, and its status; without pathlib, which takes longer than to read it."""
        folder, _, base = name.rpartition("/")
        outside = MissingFile(f"{name} lies outside the source")
        if not is_safe_path(name):
            raise outside
        try:
            if folder not in self._folders:
                self._folders[folder] = os.path.realpath(self._root + folder)
            file = f"{self._folders[folder]}{os.sep}{base}"
            status = os.lstat(file)
            if link := stat.S_ISLNK(status.st_mode):
                file = os.path.realpath(file)
            if not file.startswith(self._root) and not DVC_CACHE.search(file.replace(os.sep, "/")):
                raise outside
            if link:
                status = os.lstat(file)
        except FileNotFoundError:
            raise MissingFile(f"there is no file {name}") from None
        except (OSError, ValueError) as error:
            raise MissingFile(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if not stat.S_ISREG(status.st_mode):
            raise MissingFile(f"there is no file {name}")
        return file, status


class Shards(Directory):
    """A directory that is a curated dataset: its files, and the images and masks inside its shards under their paths.

    Raises UserError for a damaged shard.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._places: dict[str, tuple[Path, int, int, str]] = {}
        self._column = lru_cache(HELD_COLUMNS)(_read_column)
        for shard in sorted(path.glob(SHARDS)):
            try:
                self._add(shard)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{shard}: no whole Parquet file ({error}); `dvc pull` it again") from error

    def _add(self, shard: Path) -> None:
        file = pq.ParquetFile(shard)
        columns = [name for name in ("image", "mask") if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=[f"{name}.path" for name in columns])
            for name in columns:
                for row, cell in enumerate(rows[name].to_pylist()):
                    if cell and cell["path"]:
                        self._places[cell["path"]] = shard, group, row, name

    def names(self) -> list[str]:
        return sorted({*super().names(), *self._places})

    def read(self, name: str) -> bytes:
        if name not in self._places:
            return super().read(name)
        shard, group, row, column = self._places[name]
        try:
            files = self._column(shard, group, column)
        except (pa.ArrowException, OSError) as error:
            raise MissingFile(f"{name} cannot be read from {shard.name}: {error}") from error
        return files[row].as_py()["bytes"] or b""


def _read_column(shard: Path, group: int, name: str) -> pa.ChunkedArray:
    return pq.ParquetFile(shard).read_row_group(group, columns=[f"{name}.bytes"])[name]


class Zip:
    """A source that is a .zip file. Of several files of one name, the last counts, as for every unpacker."""

    sequential = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        infos = (info for info in self._zip.infolist() if not info.is_dir())
        self._members = {info.filename.replace("\\", "/").removeprefix("./"): info for info in infos}

    def names(self) -> list[str]:
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._members[name])
        except KeyError:
            raise MissingFile(f"there is no file {name}") from None
        except (*DAMAGE, NotImplementedError, RuntimeError) as error:  # of another kind of compression, or encrypted
            raise MissingFile(f"{name} cannot be read from the archive: {error}") from error

    def version(self, name: str) -> None:
        return None


class Tar:
    """A source that is a .tar file, compressed or not. Links are followed to files inside it, and nowhere else."""

    sequential = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tar = tarfile.open(path)  # noqa: SIM115 - read from as long as the source is
        files = (member for member in self._tar if member.isfile() or member.islnk() or member.issym())
        self._members = {member.name.removeprefix("./"): member for member in files}
        self._check_end()

    def names(self) -> list[str]:
        return list(_in_unicode(self._members, self.path))

    def read(self, name: str) -> bytes:
        if name not in self._members:
            raise MissingFile(f"there is no file {name}")
        try:
            file = self._tar.extractfile(self._members[name])
            if file is None:
                raise MissingFile(f"{name} is a link to no file")
            return file.read()
        except (*DAMAGE, KeyError, RecursionError) as error:  # the last two: links that lead out, or in a circle
            raise MissingFile(f"{name} cannot be read from the archive: {error}") from error

    def version(self, name: str) -> None:
        return None

    def _check_end(self) -> None:
        """An archive that was cut off between two files reads like a whole one, but for the zeros that end it."""
        assert self._tar.fileobj is not None
        self._tar.fileobj.seek(self._tar.offset)
        block = self._tar.fileobj.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise tarfile.ReadError("it ends without an end mark")


class ImageData(msgspec.Struct):
    """The part of a LabelMe file that is the image."""

    imageData: str  # noqa: N815 - LabelMe's name


class WithEmbedded:
    """A source, listed once, as importers ask again and again, and the images inside its JSON files."""

    def __init__(self, files: SourceFiles) -> None:
        self.path, self.sequential, self._files = files.path, files.sequential, files
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        if self._names is None:
            self._names = self._files.names()
        return self._names

    def read(self, name: str) -> bytes:
        try:
            return self._files.read(name)
        except MissingFile:
            if EMBEDDED not in name:
                raise
        file = f"{name.rpartition(EMBEDDED)[0]}.json"
        try:
            return base64.b64decode(msgspec.json.decode(self._files.read(file), type=ImageData).imageData)
        except (ValueError, RecursionError) as error:  # of JSON, of Unicode and of base64
            raise MissingFile(f"{file} holds no imageData: {error}") from error

    def version(self, name: str) -> bytes | None:
        return self._files.version(name)


def _in_unicode(names: Iterable[str], path: Path) -> Iterator[str]:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{path}: the file name {name!r} is not in UTF-8; rename the file") from error
        yield name
