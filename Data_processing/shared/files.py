"""The files of a source: a directory, a .zip, or a .tar of any compression.

A name is a POSIX path inside the source; none leads out of it. FILE.json#NAME is the image that a JSON file of LabelMe
holds as `imageData`, in base64. FILE.parquet#GROUP-ROW.png is the image in a row of a row group of a Parquet file.
"""

import atexit
import base64
import hashlib
import io
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.format.curated import ORIGINS
from Datasets.format.files import IMAGE_SUFFIXES, visible
from Datasets.format.records import is_safe_path
from Datasets.tools.errors import UserError

EMBEDDED = ".json#"
ROW = ".parquet#"
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)
UNREADABLE = (*DAMAGE, pa.ArrowException, NotImplementedError, RuntimeError)  # the last two: unknown or encrypted .zip
UNPACKS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
ENCRYPTED = 1  # in a .zip member's flags
NOT_UTF8 = re.compile("[\ud800-\udfff]")  # what Python makes of other bytes in a name
UTF8_FLAG = 0x800  # of a .zip's member whose name is in UTF-8
OURS = {"counts", "boxes", "mask", "sha256", "source", "group"}  # columns that other Parquet files of images lack
SHARDS = "*-of-*.parquet"  # of a curated dataset
HELD_COLUMNS = 6  # of row groups: the images and masks of three splits; in the order of names, each is then read once
DVC_CACHE = re.compile(r"[/\\]files[/\\]md5[/\\][0-9a-f]{2}[/\\][0-9a-f]{30}$")
SCRATCH = "FOURFOLD_SCRATCH"  # environment variable: the directory of unpacked archives, which child processes share
MAX_UNPACKED = "FOURFOLD_MAX_UNPACKED"  # environment variable: bytes that a file of an archive may unpack to
UNPACKED, EXPANSION = 2**29, 20  # the default for it; a file may also have so many times the bytes that it is packed in
# What an archive begins with that nothing here unpacks.
PACKED = {b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}
ALONE = frozenset({".json", ".xml"})


class MissingFile(Exception):
    """The source has no such file, or not inside itself, or it cannot be read; the message says which."""


class SourceFiles:
    """The files of one source; the subclasses are the kinds of sources.

    _members: what an archive holds, by its name inside the source. unclear: a name whose encoding it does not state.
    matched: names that are nearly those of files, as annotations have them, with the files that are meant.
    """

    unclear = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.matched: dict[str, str] = {}
        self._members: dict[str, Any] = {}
        self._whole = lru_cache(1)(self._read)
        self._packed = lru_cache(HELD_COLUMNS)(self._read_packed)

    def names(self) -> list[str]:
        """All files, sorted. Raises UserError for a name that is not in UTF-8."""
        return self._sorted

    def read(self, name: str) -> bytes:
        """A file's bytes, or those of an image inside a JSON or Parquet file. Raises MissingFile."""
        file, embedded, _ = name.rpartition(EMBEDDED)
        if embedded:
            data = self.read(f"{file}.json")
            try:
                return base64.b64decode(msgspec.json.decode(data)["imageData"])
            except (ValueError, TypeError, KeyError, RecursionError) as error:  # of JSON, of Unicode and of base64
                raise MissingFile(f"{file}.json holds no imageData: {error}") from error
        file, packed, place = name.rpartition(ROW)
        try:
            if not packed:
                return self._read(name)
            group, row = map(int, place.partition(".")[0].split("-"))
            return self._packed(f"{file}.parquet", group)[row].as_py()["bytes"] or b""
        except UNREADABLE as error:
            remedy = "" if isinstance(error, OSError) else "; is the archive damaged? Fetch it again"
            raise MissingFile(f"{name} cannot be read: {error}{remedy}") from error
        except (KeyError, ValueError, IndexError):
            raise MissingFile(f"there is no file {name}") from None

    def parquet(self, name: str) -> pq.ParquetFile:
        """A Parquet file of the source, opened. Raises KeyError or one of UNREADABLE."""
        return pq.ParquetFile(pa.BufferReader(self._whole(name)))

    def _read_packed(self, name: str, group: int, column: str | None = None) -> pa.ChunkedArray:
        file = self.parquet(name)
        column = column or image_column(file.schema_arrow)
        return file.read_row_group(group, columns=[f"{column}.bytes"])[column]

    @cached_property
    def _sorted(self) -> list[str]:
        names = sorted(name for name in self._list() if not f"/{name}".endswith(f"/{ORIGINS}"))  # these are no records
        if wrong := next(filter(NOT_UTF8.search, names), None):
            raise UserError(f"{self.path}: the file name {wrong!r} is not in UTF-8; rename the file")
        return names

    def _list(self) -> list[str]:
        return list(self._members)

    def _read(self, name: str) -> bytes:
        """A file's bytes. Raises KeyError if there is no such file, or one of UNREADABLE."""
        raise NotImplementedError


def open_source(path: Path) -> SourceFiles:
    """Open a source; a directory of shards is read like one of files.

    Raises UserError if it does not exist, is no directory or archive, or is damaged.
    """
    if path.is_dir():
        return Shards(path) if next(path.glob(SHARDS), None) else Directory(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file or directory; correct the source's `path`, or `dvc pull` it")
    if path.suffix.lower() in ALONE:
        return OneFile(path)
    with path.open("rb") as file:
        head = file.read(8)
    if kind := next((kind for magic, kind in PACKED.items() if head.startswith(magic)), None):
        raise UserError(f"{path}: is packed by {kind}, which is not read; unpack it first, and name the directory")
    try:
        return Zip(path) if head.startswith(b"PK") or path.suffix.lower() == ".zip" else Tar(path)
    except (*DAMAGE, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        remedy = "name the directory that it is in, or if it is an archive that was cut off, fetch it again"
        raise UserError(f"{path}: no directory, and no whole .zip or .tar archive ({reason}); {remedy}") from error


def open_once(path: Path) -> SourceFiles:
    """As open_source; the same one for the same path until it is replaced, as listing an archive takes long."""
    state = path.stat() if path.exists() else None
    return _opened(path, state and (state.st_ino, state.st_size, state.st_mtime_ns))


def read_inspected_file(source: str, name: str, sha256: str | None = None) -> bytes:
    """A file of the source at a path. Raises UserError if it is gone, or no longer what its sha256, if given, says."""
    try:
        data = open_once(Path(source)).read(name)
    except MissingFile as error:
        raise UserError(f"{source}: {name}: {error}, though it was inspected; run `dvc repro` again") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{source}: {name}: changed since it was inspected; run `dvc repro` again")
    return data


@lru_cache(maxsize=8)
def _opened(path: Path, _: tuple[int, int, int] | None) -> SourceFiles:
    return open_source(path)


class Directory(SourceFiles):
    """A source that is a directory. Symbolic links are followed inside it, and into DVC's cache, but nowhere else."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._root = f"{os.path.realpath(path).rstrip(os.sep)}{os.sep}"

    def _list(self) -> list[str]:
        found: list[str] = []
        for folder, _, files in os.walk(self.path):
            below = Path(folder).relative_to(self.path).as_posix()
            found += files if below == "." else (f"{below}/{file}" for file in files)
        return found

    def parquet(self, name: str) -> pq.ParquetFile:
        """A Parquet file of the source, opened. Raises KeyError, MissingFile or one of UNREADABLE."""
        return pq.ParquetFile(self._real(name), memory_map=True)

    def _read(self, name: str) -> bytes:
        return self._real(name).read_bytes()

    def _real(self, name: str) -> Path:
        file = os.path.realpath(self._root + name) if is_safe_path(name) else ""
        if not file.startswith(self._root) and not DVC_CACHE.search(file):
            raise MissingFile(f"{name} lies outside the source")
        if not Path(file).is_file():
            raise KeyError(name)
        return Path(file)


class OneFile(SourceFiles):
    """A source that is one file of annotations, of images that other sources have."""

    def _list(self) -> list[str]:
        return [self.path.name]

    def _read(self, name: str) -> bytes:
        return {self.path.name: self.path}[name].read_bytes()


class Shards(Directory):
    """A directory that is a curated dataset: its files, and the images and masks inside its shards under their paths.

    Raises UserError for a damaged shard.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for shard in sorted(path.glob(SHARDS)):
            try:
                self._add(shard)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{shard}: no whole Parquet file ({error}); `dvc pull` it again") from error

    def _add(self, shard: Path) -> None:
        file = pq.ParquetFile(shard)
        schema = [] if image_column(file.schema_arrow) else file.schema_arrow  # paths of others may repeat
        columns = [field.name for field in schema if field.name in ("image", "mask") and pa.types.is_struct(field.type)]
        for group in range(file.num_row_groups):
            for name in columns:
                cells = file.read_row_group(group, columns=[f"{name}.path"])[name].to_pylist()
                paths = enumerate(cell and cell["path"] for cell in cells)
                self._members |= {path: (shard, group, row, name) for row, path in paths if path}

    def _list(self) -> list[str]:
        return list({*super()._list(), *self._members})

    def _read(self, name: str) -> bytes:
        if name not in self._members:
            return super()._read(name)
        shard, group, row, column = self._members[name]
        return self._packed(shard.name, group, column)[row].as_py()["bytes"] or b""


class Zip(SourceFiles):
    """A source that is a .zip file. Of several files of one name, the last counts, as for every unpacker.

    Raises UserError for one that is encrypted, or packed in a way that Python does not unpack, such as Deflate64.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._zip = zipfile.ZipFile(path)
        for info in (info for info in self._zip.infolist() if not info.is_dir()):
            encrypted = info.flag_bits & ENCRYPTED
            if encrypted or info.compress_type not in UNPACKS:
                how = "is encrypted" if encrypted else "is packed in a way that is not read (Deflate64?)"
                raise UserError(f"{path}: {info.filename} {how}; unpack the archive, and name the directory")
            name = info.filename
            if not info.flag_bits & UTF8_FLAG and not name.isascii():
                try:  # macOS and others write UTF-8 without saying so, which Python takes for code page 437
                    name = name.encode("cp437").decode()
                except UnicodeError:
                    self.unclear = name
            self._members[name.replace("\\", "/").removeprefix("./")] = info

    def _read(self, name: str) -> bytes:
        info = self._members[name]
        check_unpacked(name, info.file_size, info.compress_size)
        with self._zip.open(info) as file:
            return file.read(info.file_size + 1)  # never more than that, whatever comes


class Tar(SourceFiles):
    """A source that is a .tar file, compressed or not. Links are followed to files inside it, and nowhere else."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._tar = tarfile.open(_uncompressed(path))  # noqa: SIM115 - read from as long as the source is
        self._lock = threading.Lock()  # for the place in the file
        files = (member for member in self._tar if member.isfile() or member.islnk() or member.issym())
        self._members = {member.name.removeprefix("./"): member for member in files}
        assert self._tar.fileobj is not None
        self._tar.fileobj.seek(self._tar.offset)
        block = self._tar.fileobj.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):  # cut off between two files, it reads like a whole one
            raise tarfile.ReadError("it ends without an end mark")

    def _read(self, name: str) -> bytes:
        with self._lock:
            file = self._tar.extractfile(self._members[name])  # KeyError for a link that leads out
            if file is None:
                raise KeyError(name)
            check_unpacked(name, file.seek(0, io.SEEK_END), self.path.stat().st_size)
            file.seek(0)
            return file.read()


def _uncompressed(path: Path) -> Path:
    """A .tar that can be read at any place: the file itself or, of a compressed one, a temporary copy.

    The copy is made once for this process and its children, and deleted when this process ends.
    """
    with tarfile.open(path) as tar:
        content: Any = tar.fileobj
        if isinstance(content, io.BufferedReader):
            return path
        if SCRATCH not in os.environ:
            os.environ[SCRATCH] = tempfile.mkdtemp(prefix="fourfold-")
            atexit.register(shutil.rmtree, os.environ[SCRATCH], ignore_errors=True)
        state, scratch = path.stat(), Path(os.environ[SCRATCH])
        scratch.mkdir(parents=True, exist_ok=True)
        copy = scratch / f"{state.st_dev}-{state.st_ino}-{state.st_size}-{state.st_mtime_ns}.tar"
        if not copy.exists():
            content.seek(0)
            with tempfile.NamedTemporaryFile(dir=scratch, delete=False) as partial:
                shutil.copyfileobj(content, partial, 1 << 20)
            Path(partial.name).replace(copy)
        return copy


def check_unpacked(name: str, size: int, packed: int) -> None:
    """Raise MissingFile for a file of an archive that would unpack to more memory than its packed bytes can need."""
    stated = os.environ.get(MAX_UNPACKED, "")
    limit = int(stated) if stated.isdecimal() else max(UNPACKED, EXPANSION * packed)
    if size > limit:
        more = f"if it is to be trusted, set the environment variable {MAX_UNPACKED} to as many, or unpack the archive"
        raise MissingFile(f"{name} unpacks to {size} bytes, more than the limit of {limit}; {more}")


def is_there(image: str, names: Container[str]) -> bool:
    """Whether a source of these files has an image, or one of its JSON or Parquet files, whose images no list has."""
    return image in names or EMBEDDED in image or ROW in image


def image_column(schema: Iterable[pa.Field]) -> str | None:
    """The first column of images in Hugging Face's form, a struct of bytes and path; None if the records are ours."""
    kinds = {field.name: field.type for field in schema if pa.types.is_struct(field.type) or field.name in OURS}
    found = (name for name, kind in kinds.items() if {"bytes", "path"} <= {part.name for part in kind})
    return None if OURS.intersection(kinds) else next(found, None)


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
