"""The YOLO dataset that data.yaml, or a file of class names, describes: its classes, and the images of its splits.

data.yaml names the classes and, as train, val and test, folders, lists of folders, or .txt files of image paths; paths
that held on another machine are looked for here by their end; those of train, val and test, and of a list, by any end
where as they stand none of them is here. An image that two splits list gets none. A split of which nothing is here is
left out. The labels of `images/a.jpg` are in `labels/a.txt` (the last folder of that name counts), or beside the image
where no folder is called images.
"""

import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import msgspec

from Data_processing.sources.annotation_files import read_text, split_named
from Data_processing.sources.files import MissingFile, SourceFiles
from Datasets.format.file_names import IMAGE_SUFFIXES, visible
from Datasets.tools.errors import UserError, one_line

YAML_SUFFIXES = {".yaml", ".yml"}
PAIR = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}", re.IGNORECASE)  # as JSON escapes one character


@dataclass(frozen=True)
class Dataset:
    """What data.yaml, or a file of class names, says.

    splits: pairs of a split and a path of data.yaml. bases: the folders that paths may be relative to. keypoints:
    numbers that follow each box.
    """

    file: str
    names: dict[int, str]
    splits: Sequence[tuple[str, str]] = ()
    bases: Sequence[str] = ("",)
    keypoints: int = 0


@dataclass
class Listing:
    """The images that data.yaml lists: each one's split, its place of listing, and whether no label file means none."""

    split: dict[str, str | None] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    negative: set[str] = field(default_factory=set)
    folders: list[tuple[str, str]] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    missing: list[tuple[str, str]] = field(default_factory=list)


def read_dataset(files: SourceFiles, file: str, images: str | None) -> Dataset:
    """What a file says. images: where the paths in it begin, if known. Raises UserError if it makes no sense."""
    text = _text(files, file)
    if PurePosixPath(file).suffix.lower() not in YAML_SUFFIXES:
        lines = [line.strip() for line in text.splitlines()]
        if not any(lines):
            raise UserError(f"{files.path}: {file}: names no class; it has a class name a line")
        return Dataset(file, {number: name for number, name in enumerate(lines) if name})
    where = f"{files.path}: {file}"
    data = _load(text, where)
    folder = file.rpartition("/")[0]
    path = str(data.get("path") or "")
    splits = [
        (split, entry)
        for key, value in data.items()
        if (split := split_named(str(key)))
        for entry in _entries(value, where, key)
    ]
    if not splits:
        raise UserError(f"{where}: has none of train, val and test, which name folders of images")
    bases = [posixpath.join(folder, path), folder, ""] if images is None else [images]
    shape = data.get("kpt_shape")
    counted = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    return Dataset(file, _class_names(data, where), splits, bases, math.prod(shape) if counted and shape else 0)


def _text(files: SourceFiles, file: str) -> str:
    try:
        return read_text(files, file)
    except MissingFile as error:
        raise UserError(f"{files.path}: {error}") from error


def _load(text: str, where: str) -> dict[Any, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    text = PAIR.sub(lambda pair: msgspec.json.decode(f'"{pair[0]}"'), text)
    try:
        data = YAML(typ="safe", pure=True).load(text)  # the parser in C crashes on deep nesting
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise UserError(f"{where}: not YAML: {one_line(error)[:200]}") from error
    if not isinstance(data, dict):
        raise UserError(f"{where}: no data.yaml: it holds no `names:` and `train:`")
    return data


def _entries(value: Any, where: str, key: str) -> list[str]:
    entries = [] if value is None else value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, str) or not _plain(entry):
            raise UserError(f"{where}: {key}: {entry!r:.80} is no path of a folder or of a .txt file")
    return entries


def _class_names(data: dict[Any, Any], where: str) -> dict[int, str]:
    names = data.get("names")
    pairs = (
        list(enumerate(names)) if isinstance(names, list) else list(names.items()) if isinstance(names, dict) else []
    )
    if not pairs:
        raise UserError(f"{where}: has no `names`, a list of class names")
    found: dict[int, str] = {}
    for number, name in pairs:
        if not re.fullmatch(r"\d{1,9}", str(number)):
            raise UserError(f"{where}: names: {number!r:.80} is no class number")
        if not isinstance(name, str | int | float) or isinstance(name, bool) or not _plain(str(name)):
            raise UserError(f"{where}: names: {name!r:.80} is no class name; put it into quotes")
        found[int(number)] = str(name).strip()
    if type(data.get("nc")) is int and data["nc"] != len(found):
        raise UserError(f"{where}: nc is {data['nc']}, but names has {len(found)} classes; correct one of them")
    return found


def _plain(name: str) -> bool:
    """Whether a name can be written in UTF-8, which halves of surrogate pairs cannot, and is not empty."""
    return bool(name.strip()) and not re.search(r"[\ud800-\udfff]", name)


def list_images(files: SourceFiles, dataset: Dataset, names: Sequence[str]) -> Listing:
    """What train, val and test list. Raises UserError if nothing of it is in the source, or nothing has labels."""
    listing, present = Listing(), set(names)
    folders = _folders(present)
    for (split, entry), place in zip(dataset.splits, _places(dataset, present | folders), strict=True):
        if place is None:
            listing.missing.append((split, entry))
        elif place in present:
            listing.files.add(place)
            _add(listing, split, _listed_in(_text(files, place), place, dataset.bases, present), present)
        else:
            listing.folders.append((f"{place}/" if place else "", split))
            _add(listing, split, {n: n for n in sorted(visible(names, IMAGE_SUFFIXES, place))}, present)
    if dataset.splits and len(listing.missing) == len(dataset.splits):
        raise UserError(
            f"{files.path}: {dataset.file}: there is no {listing.missing[0][1]!r} in the source; set `images`"
        )
    if listing.split and not any(label_file(image) in present for image in listing.split):
        image = next(iter(listing.split))
        raise UserError(f"{files.path}: no image has a label file; that of {image} would be {label_file(image)}")
    return listing


def _folders(names: Iterable[str]) -> set[str]:
    """All folders of these files, and those that their images would be in."""
    found = {""}
    for folder in {name.rpartition("/")[0] for name in names}:
        for path in (folder, swap_folder(f"{folder}/", "labels", "images").rstrip("/")):
            while path not in found:
                found.add(path)
                path = path.rpartition("/")[0]
    return found


def _candidates(path: str, bases: Iterable[str], by_end: bool = False) -> Iterator[str]:
    """Where in the source a path may lead: from each base, steps out of it left out; by its end if it is absolute.

    by_end: then by any end of it, from each base.
    """
    path = path.strip().replace("\\", "/")
    for base in dict.fromkeys(bases):
        whole = posixpath.normpath(posixpath.join(base, path))
        if ":/" in whole:
            whole = re.sub(r"^.*(?=/[A-Za-z]:/)|^[A-Za-z]:(?=/)", "", whole)
        parts = [part for part in whole.split("/") if part not in ("", ".", "..")]
        for start in range(max(1, len(parts)) if whole.startswith("/") else 1):
            yield "/".join(parts[start:])
    parts = [part for part in path.split("/") if part not in ("", ".", "..")] if by_end else []
    for start in range(len(parts)):
        for base in dict.fromkeys(bases):
            yield posixpath.normpath(posixpath.join(base, *parts[start:]))


def _places(dataset: Dataset, known: Set[str]) -> list[str | None]:
    """The files or folders that train, val and test mean; by any end of the paths if as they stand none is there."""
    for by_end in (False, True):
        ways = (_candidates(entry, dataset.bases, by_end) for _, entry in dataset.splits)
        places = [next((place for place in way if place in known), None) for way in ways]
        if any(place is not None for place in places):
            break
    return places


def _listed_in(text: str, file: str, bases: Sequence[str], present: Set[str]) -> dict[str, str]:
    """The images that a .txt file lists, with its line of each; by any end of the paths if as they stand none is there.

    An image whose label file is there counts as there.
    """
    for by_end in (False, True):
        found: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                places = _candidates(line, [file.rpartition("/")[0], *bases], by_end)
                first = next(places)
                place = next((p for p in chain([first], places) if _is_there(p, present)), first)
                found.setdefault(place, f"{file}:{number}")
        if any(_is_there(place, present) for place in found):
            break
    return found


def _is_there(image: str, present: Set[str]) -> bool:
    return image in present or label_file(image) in present


def _add(listing: Listing, split: str, images: dict[str, str], present: Set[str]) -> None:
    annotated = any(label_file(image) in present for image in images)
    for image, origin in images.items():
        listing.split[image] = split if listing.split.get(image, split) == split else None
        listing.origin.setdefault(image, origin)
    listing.negative.update(images if annotated else ())


def swap_folder(path: str, old: str, new: str) -> str:
    """The path with the last folder called `old` called `new`."""
    before, found, after = f"/{path}".rpartition(f"/{old}/")
    return f"{before}/{new}/{after}".removeprefix("/") if found else path


def label_file(image: str) -> str:
    """Where the label file of an image would be."""
    return swap_folder(image, "images", "labels").rpartition(".")[0] + ".txt"
