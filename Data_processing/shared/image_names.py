"""Which files of a source an annotation means by a name, a path of another machine, or a URL."""

import posixpath
import re
import unicodedata
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice, product
from posixpath import basename, commonprefix, dirname, splitext
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from Data_processing.shared.annotation_files import folder_split
from Data_processing.shared.files import SourceFiles, images_below, inside, is_embedded
from Data_processing.shared.imported import Imported, ImportOptions
from Datasets.format.files import IMAGE_SUFFIXES
from Datasets.format.records import is_safe_path
from Datasets.tools.errors import UserError

SAMPLE = 100  # images whose names are looked for to find their folder
LEADS_OUT = re.compile(r"~?[\\/]|[A-Za-z]:[\\/]|\w+://|(\.[\\/])*\.\.[\\/]|data/local-files/")  # as a name begins
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio sets before a name
LED_OUT = re.compile(r"^/|(^|/)(~|\.\.)/|:/")  # in a path that `inside` made of one that leads out of the source
IN_ZIP = ("cp949", "cp932", "gb18030", "big5", "cp1252", "cp1251", "cp866")  # encodings that a .zip does not state
OF_KIND = re.compile("images?|imgs?|jpegimages|labels?|annotations?|anno?|txts?|xmls?|jsons?|data(set)?")  # folders
OF_MASKS = re.compile(r"masks?|segmentation\w*|gt|ground_?truth", re.IGNORECASE)
NEIGHBOURS = 2  # names before and after one in order that may be the nearest


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
    wanted = [inside("", image) for image in islice(images, SAMPLE) if not LEADS_OUT.match(image)]
    known = list(known)
    folders = _holding(wanted, known, str) or {f for f in _holding(wanted, known, alike) if not _has_masks(f)}
    if dirname(file) in folders:
        return dirname(file)
    named = [folder for folder in folders if splitext(file)[0].endswith(f"_{basename(folder)}")]
    candidates = named or sorted(folders)
    if len(candidates) > 1:
        raise UserError(
            f"{files.path}: images of {file} lie in {' and in '.join(candidates[:5])}; set `images` (--images)"
        )
    return candidates[0] if candidates else ""


def _holding(wanted: Iterable[str], known: Iterable[str], form: Callable[[str], str]) -> set[str]:
    """The folders below which known names end in wanted ones, both compared in a form."""
    ends: dict[str, set[str]] = defaultdict(set)
    for name in map(form, wanted):
        ends[basename(name)].add(f"/{name}")
    shown = ((path, f"/{form(path)}") for path in known)
    pairs = ((path, end) for path, name in shown for end in ends.get(basename(name), ()) if name.endswith(end))
    return {"/".join(path.split("/")[: -end.count("/")]) for path, end in pairs}


def _has_masks(folder: str) -> bool:
    return any(map(OF_MASKS.fullmatch, folder.split("/")))


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


def named_row(name: Any, file: str, origin: str, finder: ImageFinder) -> Imported:
    """A record of the image that a file names: the one beside it, else what the longest end of the name means."""
    if not isinstance(name, str) or not name.strip():
        return Imported(origin, origin, problems=[("malformed annotation", f"{name!r:.80} for an image's name")])
    place = inside(dirname(file) if finder.folder is None else finder.folder, name)
    found = (finder.find(place) if finder.folder is None else []) or finder.by_end(name)
    image = found[0] if found else place
    return Imported(image, origin, split=folder_split(image), problems=ambiguity(name, found))


def folded(path: str) -> str:
    """A name in the form to compare it in: unquoted, in lower case, of Unicode's composed form."""
    return unicodedata.normalize("NFC", unquote(path).casefold()).strip()


def alike(path: str) -> str:
    """What names that are nearly the same have in common: as `folded`, without suffixes of images."""
    stem = folded(path)
    while (shorter := without_suffix(stem)) != stem:
        stem = shorter
    return stem


class NearNames:
    """Names to be found by ones that are nearly right; listed when the first is looked for.

    Nearly right is a name in another Unicode form, case or quoting, with another image's suffix or none, with what
    Label Studio sets before it or not, or in an encoding that a .zip does not state. taken: those that are no answer.
    """

    def __init__(self, names: Iterable[str], taken: Collection[str | None] = ()) -> None:
        self._names, self._taken = list(names), taken

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        """By the last part, with and without what Label Studio sets before it, and by the whole path after a /."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in (name for name in self._names if name not in self._taken):
            path = alike(name)
            for key in {basename(path), UPLOADED.sub("", basename(path)), f"/{path}"}:
                found[key].append(name)
        return found

    @cached_property
    def _ordered(self) -> tuple[list[tuple[str, str]], ...]:
        """Pairs of a name's last part and the name, ordered by how the former begins, and by how it ends."""
        pairs = [(folded(basename(name)), name) for name in self._names]
        return sorted(pairs), sorted((part[::-1], name) for part, name in pairs)

    def find(self, name: str) -> list[str]:
        """What a name may mean: the names most like it, in folders that do not contradict."""
        led_out = bool(LED_OUT.search(name))
        path = path_of(name) if led_out else name
        return next(filter(None, (self._find(form, led_out) for form in (path, *_in_zip(path)))), [])

    def _find(self, path: str, led_out: bool) -> list[str]:
        if same := self._by_stem.get(f"/{alike(path)}"):
            return [name for name in same if folded(name) == folded(path)] or same
        stem, wanted = basename(alike(path)), folders_of(path)
        plain = UPLOADED.sub("", stem)
        found = self._by_stem.get(stem) or [n for n in self._by_stem.get(plain, ()) if basename(alike(n)) == plain]
        there = {name: folders_of(name) for name in found if not _has_masks(name)}
        shared = {n: len(wanted & folders) for n, folders in there.items() if led_out or may_share(wanted, folders)}
        most = max(shared.values(), default=0)
        fits = [name for name, number in shared.items() if number == most]
        return [name for name in fits if folded(basename(name)) == folded(basename(path))] or fits

    def only(self, name: str) -> str | None:
        """The name that it may mean, if that is a single one."""
        found = self.find(name)
        return found[0] if len(found) == 1 else None

    def problem(self, name: str, what: str = "") -> tuple[str, str]:
        """The problem of a record whose image is not there. what: to say in the place of that."""
        if len(found := self.find(name)) > 1:
            return ambiguity(name, found)[0]
        return "missing image", f"{what or f'there is no file {name}'}; the nearest is {self._nearest(name)}"

    def _nearest(self, name: str) -> str:
        """Of the names that begin or end much alike, the one with most in common at both ends."""
        sought, near = folded(basename(name)), [(0, "none")]
        for ordered, key in zip(self._ordered, (sought, sought[::-1]), strict=True):
            at = bisect(ordered, (key, ""))
            for _, other in ordered[max(0, at - NEIGHBOURS) : at + NEIGHBOURS]:
                pair = [sought, folded(basename(other))]
                near.append((len(commonprefix(pair)) + len(commonprefix([part[::-1] for part in pair])), other))
        return max(near[1:] or near)[1]


def folders_of(path: str) -> set[str]:
    """The names of a path's folders, without those that only say what kind of files they hold."""
    return {part for part in folded(path).split("/")[:-1] if part and not OF_KIND.fullmatch(part)}


def may_share(one: set[str], other: set[str]) -> bool:
    """Whether two paths with such folders may be of one place, of which one states more than the other."""
    return one <= other or other <= one


def _in_zip(path: str) -> Iterator[str]:
    """What becomes of a name in a .zip that does not state its encoding, and may look like UTF-8."""
    for encoding, taken_for in product(IN_ZIP, ("cp437", "utf-8")) if not path.isascii() else ():
        with suppress(UnicodeError):
            yield unicodedata.normalize("NFC", path).encode(encoding).decode(taken_for).replace("\\", "/")


def match_nearly(rows: Iterable[Imported], files: SourceFiles, options: ImportOptions) -> Iterator[Imported]:
    """The rows; last those whose image is not there, with the only one that it may mean, or else a problem.

    Without the problem where the source corrects others, whose images they may be.
    """
    names, missing, folder = set(files.names()), [], options.images or ""
    taken: set[str | None] = set()
    for row in rows:
        if row.image in names or is_embedded(row.image):
            taken.update((row.image, row.mask))
            yield row
        else:
            missing.append(row)
    near, told = (
        NearNames(images_below(files, folder), taken),
        any(images_below(files, folder)) and not options.corrects,
    )
    for row in missing:
        found, within = near.find(row.image), is_safe_path(row.image)
        if len(found) == 1:
            last = basename(found[0])
            if basename(path_of(row.image)) not in (last, without_suffix(last)):
                files.matched[row.image] = found[0]
            row.image = found[0]
        elif told and not row.problems and (found or within):
            row.problems.append(near.problem(row.image))
            row.image = row.image if within else found[0]
        yield row
