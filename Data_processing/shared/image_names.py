"""Which files of a source an annotation means by a name, a path of another machine, or a URL."""

import re
import unicodedata
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice, product
from posixpath import basename, commonprefix, dirname, normpath, splitext
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from Data_processing.shared.annotation_files import folder_split
from Data_processing.shared.files import SourceFiles, images_below, inside, is_there
from Data_processing.shared.imported import Imported, ImportOptions
from Datasets.format.files import IMAGE_SUFFIXES
from Datasets.format.records import is_safe_path
from Datasets.tools.errors import UserError

SAMPLE = 100  # images whose names are looked for to find their folder
LEADS_OUT = re.compile(r"^/|(^|/)(~|\.\.)/|:/|data/local-files/")  # of the source, in a path that `inside` made
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio sets before a name
OUTSIDE = "outside the source"
IN_ZIP = ("cp949", "cp932", "gb18030", "big5", "cp1252", "cp1251", "cp866")  # encodings that a .zip does not state
OF_KIND = re.compile("images?|imgs?|jpegimages|labels?|annotations?|anno?|txts?|xmls?|jsons?|data(set)?")  # folders
OF_MASKS = re.compile(r"masks?|segmentation\w*|gt|ground_?truth", re.IGNORECASE)


def find_folder(files: SourceFiles, options: ImportOptions, file: str, images: Iterable[str]) -> str:
    """The folder that the option `images` states; else the one below which names of files end in the first `images`.

    "" if there is none; a name that leads out of the source does not count. Of several folders, the one that the
    annotation file lies in is meant, or the one that it is named after (`instances_train2017.json`). Raises UserError
    if none of them is.
    """
    if options.images is not None:
        return options.images
    paths = (inside("", image) for image in islice(images, SAMPLE))
    near = NearNames(images_below(files, ""))
    pairs = ((name, found) for name in paths if not LEADS_OUT.search(name) for found in near.find(name))
    within = ((name, found) for name, found in pairs if f"/{alike(found)}".endswith(f"/{alike(name)}"))
    folders = {"/".join(found.split("/")[: -1 - name.count("/")]) for name, found in within}
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
    path = address
    with suppress(ValueError):  # such as a host in half a bracket
        split = urlsplit(address)
        if split.scheme or "?" in address:
            path = parse_qs(split.query).get("d", [""])[0] if "local-files" in split.path else unquote(split.path)
    return path.replace("\\", "/").strip("/") or address


def ambiguity(name: str, found: Sequence[str]) -> list[tuple[str, str]]:
    """The problem of a record whose image's name means several files."""
    return [("ambiguous image", f"{name}: {' or '.join(found[:3])}")] if len(found) > 1 else []


def without_suffix(name: str) -> str:
    """The name without an image's suffix; another suffix, as in `a.b`, belongs to the name."""
    stem, suffix = splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def row_namer(files: SourceFiles, options: ImportOptions) -> Callable[[Any, str, str], Imported]:
    """What makes a record of a name, the file that states it, and an origin: of the image beside that file, if any."""
    names = frozenset(files.names())

    def named_row(name: Any, file: str, origin: str) -> Imported:
        if not isinstance(name, str) or not name.strip():
            return Imported(origin, origin, problems=[("malformed annotation", f"{name!r:.80} for an image's name")])
        beside = normpath(inside(dirname(file), name))
        image = beside if options.images is None and beside in names else inside(options.images or "", name)
        return Imported(image, origin, split=folder_split(image))

    return named_row


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
    def _ordered(self) -> list[tuple[str, str]]:
        return sorted((folded(basename(name)), name) for name in self._names)

    def find(self, name: str) -> list[str]:
        """What a name may mean: the names most like it, in folders that do not contradict."""
        leads_out = bool(LEADS_OUT.search(name))
        path = path_of(name) if leads_out else name
        return next(filter(None, (self._find(form, leads_out) for form in (path, *_in_zip(path)))), [])

    def _find(self, path: str, leads_out: bool) -> list[str]:
        fits, wanted, stem = self._by_stem.get(f"/{alike(path)}", []), folders_of(path), basename(alike(path))
        if not fits:
            plain = UPLOADED.sub("", stem)
            found = self._by_stem.get(stem) or [n for n in self._by_stem.get(plain, ()) if basename(alike(n)) == plain]
            images = [n for n in found if not any(map(OF_MASKS.fullmatch, n.split("/")))]
            fits = [n for n in images if leads_out or may_share(wanted, folders_of(n))]

        def likeness(name: str) -> tuple[int, bool, bool, bool]:
            last, sought = basename(name), basename(path)
            return len(wanted & folders_of(name)), folded(last) == folded(sought), last == sought, name == path

        most = max(map(likeness, fits), default=None)
        return [name for name in fits if likeness(name) == most]

    def only(self, name: str) -> str | None:
        """The name that it may mean, if that is a single one."""
        found = self.find(name)
        return found[0] if len(found) == 1 else None

    def problem(self, name: str, what: str = "") -> tuple[str, str]:
        """The problem of a record whose image is not there. what: to say in the place of that."""
        if several := ambiguity(name, self.find(name)):
            return several[0]
        sought = folded(basename(name))
        at = bisect(self._ordered, (sought, ""))
        near = self._ordered[max(0, at - 1) : at + 1]
        _, nearest = max(near, key=lambda pair: len(commonprefix([pair[0], sought])), default=("", "none"))
        return "missing image", f"{what or f'there is no file {name}'}; the nearest is {nearest}"


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

    Of several, one in a folder called as the row's split is meant. No problem where the source corrects others.
    """
    names, missing, taken = set(files.names()), [], set[str | None]()
    for row in rows:
        if is_there(row.image, names):
            taken.update((row.image, row.mask))
            yield row
        else:
            missing.append(row)
    images = list(images_below(files, options.images or ""))
    near = NearNames(images, taken)
    for row in missing:
        every = near.find(row.image)
        found = [name for name in every if row.split and folder_split(name) == row.split] or every
        if len(found) == 1:
            last = basename(found[0])
            if basename(path_of(row.image)) not in (last, without_suffix(last)):
                files.matched[row.image] = found[0]
            if row.split == folder_split(row.image):
                row.split = folder_split(found[0])
            row.image = found[0]
        elif options.corrects:  # which finds its images among those of others
            row.image = path_of(row.image) if LEADS_OUT.search(row.image) else row.image
        elif images and not row.problems:
            rule, value = near.problem(row.image)
            within = is_safe_path(row.image)
            row.problems.append((rule if found or within else OUTSIDE, value))
            row.image = row.image if within or not found else found[0]
        yield row
