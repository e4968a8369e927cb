"""Which files of a source an annotation means by a name, a path of another machine, or a URL."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from posixpath import basename, dirname, splitext
from urllib.parse import parse_qs, unquote, urlsplit

from Data_processing.shared.files import SourceFiles, images_below, inside
from Data_processing.shared.imported import ImportOptions
from Datasets.format.files import IMAGE_SUFFIXES
from Datasets.tools.errors import UserError

SAMPLE = 100  # images whose names are looked for to find their folder
LEADS_OUT = re.compile(r"~?[\\/]|[A-Za-z]:[\\/]|\w+://|(\.[\\/])*\.\.[\\/]|data/local-files/")  # as a name begins
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio sets before a name


def find_folder(
    files: SourceFiles, options: ImportOptions, file: str, images: Iterable[str], known: Iterable[str]
) -> str:
    """The folder that the option `images` states; else the one below which `known` names end in the first `images`.

    "" if there is none; a name that leads out of the source does not count. Of several folders, the one that the
    annotation file lies in is meant, or the one that it is named after (`instances_train2017.json`). Raises UserError
    if none of them is.
    """
    if options.images is not None:
        return options.images
    wanted: dict[str, list[str]] = defaultdict(list)
    for name in (inside("", image) for image in islice(images, SAMPLE) if not LEADS_OUT.match(image)):
        wanted[basename(name)].append(name)
    alike = ((path, name) for path in known for name in wanted.get(basename(path), ()))
    folders = {path.removesuffix(name).rstrip("/") for path, name in alike if f"/{path}".endswith(f"/{name}")}
    if dirname(file) in folders:
        return dirname(file)
    named = [folder for folder in folders if splitext(file)[0].endswith(f"_{basename(folder)}")]
    candidates = named or sorted(folders)
    if len(candidates) > 1:
        raise UserError(
            f"{files.path}: images of {file} lie in {' and in '.join(candidates[:5])}; set `images` (--images)"
        )
    return candidates[0] if candidates else ""


def path_of(address: str) -> str:
    """The path of a URL, also of Label Studio's for local files, or of a file of any system; without / around it."""
    try:
        split = urlsplit(address)
        local = parse_qs(split.query).get("d", [""])[0] if "local-files" in split.path else ""
    except ValueError:  # such as a host in half a bracket
        return address.strip("/") or address
    plain = address if not split.scheme and "?" not in address else unquote(split.path)
    return (local or plain).replace("\\", "/").strip("/") or address


def ends(address: str) -> Iterator[str]:
    """What a path or URL may mean inside the source: ever shorter ends of its path, as written and unquoted."""
    path = path_of(address)
    for form in dict.fromkeys((path, unquote(path))):
        parts = form.split("/")
        for start in range(len(parts)):
            yield "/".join(parts[start:])
        if UPLOADED.match(parts[-1]) and "upload" in parts:
            yield UPLOADED.sub("", parts[-1])


def any_posix(path: str) -> str:
    """A path of any system, with / between its parts and without a drive."""
    return re.sub(r"^[A-Za-z]:(?=/)", "", path.strip().replace("\\", "/"))


def path_candidates(path: str, bases: Iterable[str], by_end: bool = False) -> Iterator[str]:
    """Where in the source a path may lead, from each base, steps out of it left out.

    by_end, or if the path is absolute: then by any end of it, from each base.
    """
    for base in bases:
        whole = posixpath.normpath(posixpath.join(base, any_posix(path)))
        parts = [part for part in whole.split("/") if part not in ("", ".", "..")]
        yield "/".join(parts)
        if by_end or whole.startswith("/"):
            for start in range(len(parts)):
                yield from (posixpath.normpath(posixpath.join(each, *parts[start:])) for each in bases)


def find_places(paths: Sequence[str], bases: Sequence[str], is_there: Callable[[str], bool]) -> list[str | None]:
    """The files or folders that paths mean; by any end of them if as they stand none is there."""
    places: list[str | None] = []
    for by_end in (False, True):
        places = [next(filter(is_there, path_candidates(path, bases, by_end)), None) for path in paths]
        if any(place is not None for place in places):
            break
    return places


def ambiguity(name: str, found: Sequence[str]) -> list[tuple[str, str]]:
    """The problem of a record whose image's name means several files."""
    return [("ambiguous image", f"{name}: {' or '.join(found[:3])}")] if len(found) > 1 else []


def without_suffix(name: str) -> str:
    """The name without an image's suffix; another suffix, as in `a.b`, belongs to the name."""
    stem, suffix = splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


class ImageFinder:
    """The image files of a source, to be found by what annotations call them; listed when the first one is looked for.

    folder: where they are, if known.
    """

    def __init__(self, files: SourceFiles, folder: str | None) -> None:
        self.folder, self._files = folder, files

    @cached_property
    def _by_base(self) -> dict[str, list[tuple[str, str]]]:
        """Pairs of what a file may be called, with and without suffix, and the file; by the former's last part."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for file in images_below(self._files, self.folder or ""):
            stem = without_suffix(file)
            for called in (file, stem) if without_suffix(stem) == stem else (file,):  # not a.jpg for a.jpg.png
                found[called.rpartition("/")[2]].append((called, file))
        return found

    def find(self, name: str) -> list[str]:
        """The file `name` in the folder; where there is none and the folder is not known, all whose paths end so.

        A name without an image's suffix, as CVAT writes those of a video's frames, means the files of that stem.
        """
        path = inside(self.folder or "", name)
        candidates = self._by_base.get(path.rpartition("/")[2], [])
        exact = [file for called, file in candidates if called == path]
        if exact or self.folder is not None:
            return exact
        return [file for called, file in candidates if called.endswith(f"/{path}")]

    def by_end(self, address: str) -> list[str]:
        """The files that the longest end of a path or URL means, wherever that led once."""
        return next(filter(None, map(self.find, ends(address))), [])

    def by_end_if_outside(self, name: str) -> list[str]:
        """As by_end, for a name that leads out of the source, such as a URL; none for any other."""
        return self.by_end(name) if LEADS_OUT.match(name) else []
