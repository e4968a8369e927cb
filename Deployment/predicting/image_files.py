"""The images that a person names: single files, directories, archives, and lists of files."""

import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from Datasets.format.file_names import IMAGE_SUFFIXES, visible
from Datasets.format.text_files import decode_text
from Datasets.tools.errors import UserError, one_line

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LISTS = (".txt", ".lst")


@dataclass(frozen=True)
class ImageFile:
    """An image that can be read when its turn comes.

    name: a POSIX path, relative to the directory or archive that it was found in. read: its bytes, or OSError. state:
    size and time of the file, or of its archive, by which to see that it was replaced.
    """

    name: str
    read: Callable[[], bytes]
    state: str


def image_files(sources: Sequence[Path]) -> list[ImageFile]:
    """All images in these sources. With several sources, a name begins with its source's.

    A source is an image file, a directory (searched to any depth), a .zip or .tar archive, or a .txt file with the path
    of an image in each line, relative to that file. Raises UserError for a source that does not exist, is damaged or
    holds no image, for two images of one name, and for a name that is not in UTF-8, as what is written must be.
    """
    found: dict[str, ImageFile] = {}
    for source in sources:
        before = len(found)
        _check_encoding(source, str(source.resolve()))
        for each in _images(source):
            inside = len(sources) > 1 and (source.is_dir() or is_archive(source))
            name = f"{_stem(source)}/{each.name}" if inside else each.name
            _check_encoding(source, name)
            if name in found:
                if name in list(found)[before:]:
                    raise UserError(f"{source}: {name} is in it twice; remove one")
                raise UserError(f"{source}: {name} is also in another source; rename one, or predict one by one")
            found[name] = replace(each, name=name)
        if len(found) == before:
            raise UserError(f"{source}: holds no image; suffixes looked for: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return list(found.values())


def _check_encoding(source: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{source}: the file name {name!r} is not in UTF-8; rename the file") from None


def is_archive(source: Path) -> bool:
    """Whether a name is an archive's."""
    return source.name.lower().endswith(ARCHIVES)


def _stem(source: Path) -> str:
    return source.resolve().name.partition(".")[0] if is_archive(source) else source.resolve().name


def _images(source: Path) -> Iterator[ImageFile]:
    if source.is_dir():
        paths = (path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if not path.is_dir())
        return (_on_disk(name, source / name) for name in visible(paths, IMAGE_SUFFIXES))
    if not source.is_file():
        raise UserError(f"{source}: no such file or directory")
    if is_archive(source):
        return _in_archive(source)
    if source.suffix.lower() in LISTS:
        return (_on_disk(line, source.parent / line) for line in _lines(source))
    return iter([_on_disk(source.name, source)])


def _on_disk(name: str, path: Path) -> ImageFile:
    return ImageFile(name, path.read_bytes, _state(path))


def _state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:  # as reading it will say
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _lines(file: Path) -> list[str]:
    text = decode_text(file.read_bytes(), file)
    if "\0" in text:
        raise UserError(f"{file}: holds a zero byte, which no path has; save it as text in UTF-8")
    return [stripped for line in text.splitlines() if (stripped := line.strip())]


def _in_archive(source: Path) -> Iterator[ImageFile]:
    """The images of an archive, in its own order: a compressed .tar is read from its beginning to its end only once.

    Names are those that the importers give them. Of several files of one name the last counts, as for every unpacker.
    """
    state = _state(source)
    try:
        if source.suffix.lower() == ".zip":
            file = zipfile.ZipFile(source)
            infos = (info for info in file.infolist() if not info.is_dir())
            found = {info.filename.replace("\\", "/").removeprefix("./"): info for info in infos}
            names = visible(found, IMAGE_SUFFIXES)
            return iter([ImageFile(name, _zip_reader(file, found[name]), state) for name in names])
        tar = tarfile.open(source)  # noqa: SIM115 - read from as long as its images are
        files = (member for member in tar if member.isfile() or member.islnk() or member.issym())
        members = {member.name.removeprefix("./"): member for member in files}
        names = visible(members, IMAGE_SUFFIXES)
        return iter([ImageFile(name, _tar_reader(tar, members[name]), state) for name in names])
    except Exception as error:  # damaged bytes make zipfile, tarfile and the decompressors raise nearly anything
        raise UserError(f"{source}: no whole archive: {str(error).partition(chr(10))[0]}; was it cut off?") from error


def _zip_reader(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return file.read(info)
        except Exception as error:
            raise OSError(_reason(error)) from error

    return read


def _tar_reader(file: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            opened = file.extractfile(member)
            return opened.read() if opened else b""
        except Exception as error:
            raise OSError(_reason(error)) from error

    return read


def _reason(error: Exception) -> str:
    return one_line(error) or "it ends too soon"  # zipfile's EOFError says nothing
