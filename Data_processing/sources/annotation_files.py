"""What several importers do: find annotation files, read text and JSON, find the images that annotations mean."""

import codecs
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache, cached_property
from itertools import islice
from pathlib import PurePosixPath
from posixpath import splitext
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from Data_processing.shared.imported import MAX_SIDE, Imported, ImportOptions
from Data_processing.sources.files import MissingFile, SourceFiles, images_below, inside
from Datasets.format.file_names import IMAGE_SUFFIXES
from Datasets.format.records import SPLITS
from Datasets.format.text_files import decode_text
from Datasets.tools.errors import UserError

T = TypeVar("T")
CLASSES = "classes.json"  # beside our own records
SAMPLE = 100  # images whose names are looked for to find their folder
LETTER = r"[^\W\d_]"
LEADS_OUT = re.compile(r"~?[\\/]|[A-Za-z]:[\\/]|\w+://|(\.[\\/])*\.\.[\\/]|data/local-files/")  # as a name begins
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio sets before a name
SPLIT = re.compile(r"(?P<train>train)(ing)?|(?P<val>val)(id(ation)?)?|(?P<test>test)(ing)?", re.IGNORECASE)
SPLIT_WORD = re.compile(rf"(?<!{LETTER})(?:{SPLIT.pattern})(?!{LETTER})\d*", re.IGNORECASE)
OBJ_DATA = re.compile(r"^obj_(\w+)_data$")


def matching(files: SourceFiles, pattern: str) -> list[str]:
    """The files that a pattern names, such as `annotations/instances_*.json`. Raises UserError if there are none."""
    names = [name for name in files.names() if fnmatchcase(name, inside("", pattern))]
    if not names:
        raise UserError(f"{files.path}: has no file like {pattern}; correct `annotations`")
    return names


def split_named(word: str) -> str | None:
    """The split that a word means: train or training; val, valid or validation; test or testing; in any case."""
    found = SPLIT.fullmatch(word)
    return found and _split(found)


def split_of(file: str) -> str | None:
    """The split that an annotation file is about by its name, else by its nearest folder's.

    `train/_annotations.coco.json` and `instances_train2017.json` are about train, what names two is about none.
    """
    for part in (PurePosixPath(file).stem, *(folder.name for folder in PurePosixPath(file).parents)):
        splits = {_split(word) for word in SPLIT_WORD.finditer(part)}
        if splits:
            return splits.pop() if len(splits) == 1 else None
    return None


def folder_split(path: str) -> str | None:
    """The split that the folders of an image are called, as train or, by YOLO's programs, obj_train_data; if one is."""
    return _folder_split(path.rpartition("/")[0])


@cache
def _folder_split(folder: str) -> str | None:
    found = {split_named(OBJ_DATA.sub(r"\1", part)) for part in folder.split("/")} - {None}
    return found.pop() if len(found) == 1 else None


def split_pattern(file: str) -> str:
    """The name with `*` for each word, and year behind it, that states its split: what files of other splits match."""
    split = split_of(file)
    return SPLIT_WORD.sub(lambda word: "*" if _split(word) == split else word[0], file)


def _split(word: re.Match[str]) -> str:
    return next(split for split in SPLITS if word[split])


def only_file(files: SourceFiles, found: Iterable[str], kind: str, options: ImportOptions) -> list[str]:
    """The annotation file: the one named, or the only one of those found. Raises UserError if it is none or several."""
    names = list(found)
    if options.annotations is not None:
        name = inside("", options.annotations)
        if name not in names and name not in files.names():
            raise UserError(f"{files.path}: has no file {name}; {kind} files in it: {', '.join(names[:5]) or 'none'}")
        return [name]
    if len(names) != 1:
        raise UserError(f"{files.path}: holds {len(names)} {kind} files ({', '.join(names[:5])}); set `annotations`")
    return names


def read_text(files: SourceFiles, name: str) -> str:
    """A text file of the source. Raises MissingFile, and UserError if it is not in UTF-8."""
    return decode_text(files.read(name), f"{files.path}: {name}")


def decode_json(files: SourceFiles, name: str, kind: type[T] | Any, what: str, strict: bool = True) -> T:
    """A JSON file, with or without a byte order mark, as `kind`. Raises UserError; what: what the file is not, then.

    strict: whether a number written as text, or a whole one as 1.0, is none.
    """
    try:
        return msgspec.json.decode(files.read(name).removeprefix(codecs.BOM_UTF8), type=kind, strict=strict)
    except MissingFile as error:
        raise UserError(f"{files.path}: {error}") from error
    except msgspec.ValidationError as error:
        raise UserError(f"{files.path}: {name}: no {what}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{files.path}: {name}: not JSON: {error}; was the file cut off, or does it hold NaN, which JSON has not?"
        ) from error
    except RecursionError as error:
        raise UserError(f"{files.path}: {name}: not JSON of any use: nested too deeply") from error


def mask_names(files: SourceFiles, folder: str, names: Container[str]) -> dict[int, str]:
    """What the values of masks' pixels mean, by classes.json in a folder: class ids + 1. names: all of the source's.

    Raises UserError if there is no such file, or it is not that.
    """
    file = inside(folder, CLASSES)
    if file not in names:
        raise UserError(f"{files.path}: holds masks, but no {file}, which says what the values of their pixels mean")
    classes: Any = decode_json(files, file, Any, "classes")
    ids = list(classes.values()) if isinstance(classes, dict) else [None]
    if not all(type(number) is int and 0 <= number < 254 for number in ids) or len(set(ids)) < len(ids):
        raise UserError(f"{files.path}: {file}: no object of class names and their ids, 0 to 253, each its own")
    return {number + 1: name for name, number in classes.items()}


def parse_number(text: str) -> float:
    """A number as text; without `_`, which Python reads over. Raises ValueError."""
    if "_" in text:
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)


def parse_numbers(texts: Sequence[str]) -> list[float]:
    """Numbers as parse_number reads them; sooner, as most texts have no `_`. Raises ValueError."""
    return list(map(parse_number if "_" in "".join(texts) else float, texts))


def pixels(stated: str | float | None, row: Imported) -> int | None:
    """A width or height; None where it is not stated (null, blank, 0) or makes no sense, a problem of the record."""
    try:
        value = parse_number(stated.strip() or "0") if isinstance(stated, str) else stated or 0
    except ValueError:
        value = -1
    if 1 <= value <= MAX_SIDE:
        return int(value)
    if value:
        row.problems.append(("malformed annotation", f"a width or height of {stated!s:.80} pixels"))
    return None


def guess_folder(files: SourceFiles, file: str, images: Iterable[str], known: Iterable[str]) -> str:
    """The folder below which `known` names are that end in the first of these `images`; "" if there is none.

    A name that leads out of the source does not count. Of several folders, the one that the annotation file lies in is
    meant, or the one that it is named after (`instances_train2017.json`). Raises UserError if none of them is.
    """
    wanted: dict[str, list[str]] = defaultdict(list)
    for name in (inside("", image) for image in islice(images, SAMPLE) if not LEADS_OUT.match(image)):
        wanted[name.rpartition("/")[2]].append(name)
    folders: dict[str, None] = {}
    for path in known:
        for name in wanted.get(path.rpartition("/")[2], ()):
            if path == name or path.endswith(f"/{name}"):
                folders[path.removesuffix(name).rstrip("/")] = None
    own, stem = file.rpartition("/")[0], PurePosixPath(file).stem
    if own in folders:
        return own
    candidates = [folder for folder in folders if stem.endswith(f"_{PurePosixPath(folder).name}")] or sorted(folders)
    if len(candidates) > 1:
        raise UserError(f"{files.path}: images of {file} lie in {' and in '.join(candidates[:5])}; set `images`")
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


def ambiguity(name: str, found: Sequence[str]) -> list[tuple[str, str]]:
    """The problem of a record whose image's name means several files."""
    return [("ambiguous image", f"{name}: {' or '.join(found[:3])}")] if len(found) > 1 else []


class ImageFinder:
    """The image files of a source, to be found by what annotations call them; listed when the first one is looked for.

    folder: where they are, if known.
    """

    def __init__(self, files: SourceFiles, folder: str | None) -> None:
        self.folder, self._files = folder, files

    @cached_property
    def _by_base(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in images_below(self._files, self.folder or ""):
            found[name.rpartition("/")[2]].append(name)
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for base, files in self._by_base.items():
            found[splitext(base)[0]] += files
        return found

    def find(self, name: str) -> list[str]:
        """The file `name` in the folder; where there is none and the folder is not known, all whose paths end so.

        A name without an image's suffix, as CVAT writes those of a video's frames, means the files of that stem.
        """
        path = inside(self.folder or "", name)
        base = path.rpartition("/")[2]
        whole = splitext(base)[1].lower() in IMAGE_SUFFIXES
        files = (self._by_base if whole else self._by_stem).get(base, [])
        called = {file: file if whole else splitext(file)[0] for file in files}
        exact = [file for file, own in called.items() if own == path]
        if exact or self.folder is not None:
            return exact
        return [file for file, own in called.items() if own.endswith(f"/{path}")]

    def by_end(self, address: str) -> list[str]:
        """The files that the longest end of a path or URL means, wherever that led once."""
        return next(filter(None, map(self.find, ends(address))), [])

    def by_end_if_outside(self, name: str) -> list[str]:
        """As by_end, for a name that leads out of the source, such as a URL; none for any other."""
        return self.by_end(name) if LEADS_OUT.match(name) else []
