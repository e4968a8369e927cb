"""What readers share: find annotation files and the split they are about, read text, JSON, YAML and XML."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from posixpath import dirname
from typing import Any, TypeVar

import msgspec
from lxml import etree
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from Data_processing.shared.files import MissingFile, SourceFiles, folder_name, inside
from Data_processing.shared.imported import ImportOptions
from Datasets.format.files import decode_text, visible
from Datasets.format.records import SPLITS
from Datasets.tools.errors import UserError, one_line

T = TypeVar("T")
MAX_ALIASES = 10  # in YAML: a few that stand for each other stand for gigabytes
CLASSES = "classes.json"  # beside our own records
HALF_PAIR = re.compile(r"\\u[dD][89A-Fa-f][\dA-Fa-f]{2}")  # in YAML's text, which becomes a surrogate
LETTER = r"[^\W\d_]"
SPLIT = re.compile(r"(?P<train>train)(ing)?|(?P<val>val)(id(ation)?)?|(?P<test>test)(ing)?", re.IGNORECASE)
SPLIT_WORD = re.compile(rf"(?<!{LETTER})(?:{SPLIT.pattern})(?!{LETTER})\d*", re.IGNORECASE)
OBJ_DATA = re.compile(r"^obj_(\w+)_data$")


class WrongFormat(UserError):
    """A file is of another format than the reader's."""


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


def only_one(files: SourceFiles, options: ImportOptions, suffix: str = ".json", kind: str = "JSON") -> list[str]:
    """The annotation file: the one named, or the only one of its suffix. Raises UserError if it is none or several."""
    return only_file(files, visible(files.names(), {suffix}), kind, options)


def files_below(files: SourceFiles, options: ImportOptions, suffix: str = ".json", kind: str = "JSON") -> list[str]:
    """The annotation files of the folder that is named, or the file; else all. Raises UserError if there are none."""
    chosen = folder_name(options.annotations or ".")
    every = list(visible(files.names(), {suffix}))
    found = [chosen] if chosen in every else list(visible(files.names(), {suffix}, chosen))
    if not found:
        called = f" called {chosen}, or in it" if chosen else ""
        those = ", ".join(every[:5]) or "none"
        raise UserError(f"{files.path}: no {kind} files{called}; those that there are: {those}; set `annotations`")
    return found


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
    found = {split_named(OBJ_DATA.sub(r"\1", part)) for part in path.split("/")[:-1]} - {None}
    return found.pop() if len(found) == 1 else None


def split_pattern(file: str) -> str:
    """The name with `*` for each word, and year behind it, that states its split: what files of other splits match."""
    split = split_of(file)
    return SPLIT_WORD.sub(lambda word: "*" if _split(word) == split else word[0], file)


def _split(word: re.Match[str]) -> str:
    return next(split for split in SPLITS if word[split])


def read_text(files: SourceFiles, name: str) -> str:
    """A text file of the source. Raises UserError if it is not there, or not in UTF-8."""
    try:
        return decode_text(files.read(name), f"{files.path}: {name}")
    except MissingFile as error:
        raise UserError(f"{files.path}: {error}") from error


def decode_json(files: SourceFiles, name: str, kind: type[T] | Any, what: str, strict: bool = True) -> T:
    """A JSON file, with or without a byte order mark, as `kind`. Raises UserError; WrongFormat if it is no `what`.

    Of a .jsonl file, a list with a `kind` for each line. strict: whether a number written as text, or a
    whole one as 1.0, is none.
    """
    try:
        data = files.read(name)
        text = data if data.isascii() else decode_text(data, f"{files.path}: {name}")  # no second copy of a large file
        decoder: Any = msgspec.json.Decoder(kind, strict=strict)
        return decoder.decode_lines(text) if name.endswith(".jsonl") else decoder.decode(text)
    except MissingFile as error:
        raise UserError(f"{files.path}: {error}") from error
    except msgspec.ValidationError as error:
        raise WrongFormat(f"{files.path}: {name}: no {what}: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        remedy = "was the file cut off, is it nested too deeply, or does it hold NaN, which JSON has not?"
        raise UserError(f"{files.path}: {name}: not JSON: {error}; {remedy}") from error


def parse_yaml(text: str, where: str) -> Any:
    """YAML text. Raises UserError, also for more than MAX_ALIASES. where: for the message."""
    try:
        if "&" in text and sum(isinstance(e, AliasEvent) for e in YAML(pure=True).parse(text)) > MAX_ALIASES:
            raise UserError(f"{where}: has more than {MAX_ALIASES} aliases such as *a; write out what they stand for")
        if half := HALF_PAIR.search(text):
            raise ValueError(f"{half[0]} is half a character")
        return YAML(typ="safe", pure=True).load(text)  # the parser in C crashes on deep nesting
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise UserError(f"{where}: not YAML: {one_line(error)[:200]}") from error


def parse_xml(data: bytes, tag: str) -> etree._Element:
    """The outermost element of an XML file, a `tag`; nothing is fetched, entities are refused. Raises ValueError."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    if root.tag != tag:
        raise ValueError(f"its outermost element is {root.tag}, not {tag}")
    if root.getroottree().docinfo.internalDTD is not None or next(root.iter(etree.Entity), None) is not None:
        raise ValueError("it has a document type or an entity, which could stand for anything")
    return root


def mask_names(files: SourceFiles, beside: str) -> dict[int, str]:
    """What the values of masks' pixels mean, by the classes.json beside a file: class ids + 1.

    Raises UserError if there is no such file, or it is not that.
    """
    file = inside(dirname(beside), CLASSES)
    if file not in files.names():
        raise UserError(f"{files.path}: holds masks, but no {file}, which says what the values of their pixels mean")
    classes: Any = decode_json(files, file, Any, "classes")
    ids = list(classes.values()) if isinstance(classes, dict) and "" not in classes else [None]
    if not all(type(number) is int and 0 <= number < 254 for number in ids) or len(set(ids)) < len(ids):
        raise UserError(f"{files.path}: {file}: no object of class names and their ids, 0 to 253, each its own")
    return {number + 1: name for name, number in classes.items()}
