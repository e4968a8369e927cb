"""What format a delivery may have, by the names and contents of its files.

The keys of a JSON file, the outermost element of an XML file, the form of data.yaml and of label files show it; a
table may be anything; folders as classes are guessed where nothing else is found. Of each folder only the first SAMPLE
files of a kind are looked into. Whether a guess is right, the importer shows (recognise.py).
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import msgspec

from Data_processing.import_source import Format
from Data_processing.readers.yolo import LABELS, class_files
from Data_processing.shared.imported import ImportOptions
from Data_processing.sources.annotation_files import split_named, split_of, split_pattern
from Data_processing.sources.files import SHARDS, MissingFile, SourceFiles, folder_name, images_below
from Datasets.format.file_names import visible

SAMPLE = 20  # files of a folder looked into
COCO = {"images", "annotations", "categories"}


@dataclass(frozen=True)
class Guess:
    """A format, why it may be that one, and what to say of the annotations (None: the importer finds them)."""

    format: Format
    why: str
    annotations: str | None = None


def guesses(files: SourceFiles, options: ImportOptions, form: Format | None) -> list[Guess]:
    """What the delivery may be, as the options allow; if `form` is given, at least that."""
    chosen = folder_name(options.annotations or ".")
    names = [
        name
        for name in files.names()
        if not chosen or name == chosen or name.startswith(f"{chosen}/") or fnmatchcase(name, chosen)
    ]
    found = [*_of_json(files, names), *_of_xml(files, names), *_of_yolo(files, names), *_of_tables(names)]
    found = _joined(found, names)
    if any(guess.format is Format.parquet for guess in found) and any(map(_is_shard, names)):
        found = [guess for guess in found if guess.format is not Format.json]  # metadata.json says the same again
    if form is not None:
        found = [guess for guess in found if guess.format is form]
    if form is Format.folders:
        found = list(of_folders(files, options, True))
    if options.annotations is not None:
        found = list({g.format: replace(g, annotations=options.annotations) for g in found}.values())
    return found or ([] if form is None else [Guess(form, "as --format says", options.annotations)])


def _joined(found: Sequence[Guess], names: Iterable[str]) -> list[Guess]:
    """The guesses, those whose files differ in the split that their names state as one; YOLO's each read all labels."""
    alike = defaultdict(list)
    for guess in found:
        alike[guess.format, split_pattern(guess.annotations or "")].append(guess)
    joined = []
    for (form, pattern), group in alike.items():
        files = [guess.annotations or "" for guess in group]
        several = form is not Format.yolo and len(set(map(split_of, files))) > 1
        if several and sorted(files) == sorted(n for n in names if fnmatchcase(n, pattern)):
            joined.append(Guess(form, f"{' and '.join(files)}, a file a split", pattern))
        else:
            joined += group
    return joined


def _is_shard(name: str) -> bool:
    return PurePosixPath(name).match(SHARDS)


def _sampled(names: Iterable[str]) -> Iterator[str]:
    """The first files of each folder."""
    taken: Counter[str] = Counter()
    for name in names:
        folder = name.rpartition("/")[0]
        taken[folder] += 1
        if taken[folder] <= SAMPLE:
            yield name


def _content(files: SourceFiles, name: str) -> bytes:
    try:
        return files.read(name)
    except MissingFile:
        return b""


def _of_json(files: SourceFiles, names: Sequence[str]) -> Iterator[Guess]:
    every = list(visible(names, {".json"}))
    kinds = {name: _json_kind(_content(files, name)) for name in _sampled(every)}
    for name, kind in kinds.items():
        if kind is Format.coco:
            yield Guess(kind, f"{name} has images, annotations and categories", name)
        elif kind is Format.label_studio:
            yield Guess(kind, f"{name} is a list of tasks with data and annotations", name)
        elif kind is Format.json:
            yield Guess(kind, f"{name} is an array of arrays that begin with a file name", name)
    labelme = [name for name, kind in kinds.items() if kind is Format.labelme]
    if labelme:
        alone = len(labelme) == len(kinds)
        why = f"{labelme[0]} has shapes{f', and so have {len(labelme) - 1} more' if labelme[1:] else ''}"
        yield Guess(Format.labelme, why, None if alone else common_folder(labelme) or ".")


def _json_kind(data: bytes) -> Format | None:
    try:
        said = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=dict[str, msgspec.Raw] | list[msgspec.Raw])
        if isinstance(said, dict):
            return Format.coco if said.keys() >= COCO else Format.labelme if "shapes" in said else None
        first = msgspec.json.decode(said[0], type=dict[str, msgspec.Raw] | list[msgspec.Raw]) if said else {}
        if isinstance(first, dict):
            return Format.label_studio if {"data", "annotations"} <= first.keys() else None
        return Format.json if first and bytes(first[0]).startswith(b'"') else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def near_misses(files: SourceFiles) -> Iterator[Guess]:
    """What is not a delivery of a format, but so near to one that its importer can say why."""
    for name in _sampled(visible(files.names(), {".xml", ".json"})):
        data = _content(files, name)
        if re.search(rb"<annotations[\s>]", data) and b"<track" in data:
            yield Guess(Format.cvat, f"{name} has <annotations> of <track>", name)
        elif kind := _nearly(data):
            yield Guess(kind, f"{name} has some of its keys", name)


def _nearly(data: bytes) -> Format | None:
    try:
        said = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=dict[str, msgspec.Raw] | list[msgspec.Raw])
        if isinstance(said, dict):
            of_task = {"task", "result"} <= said.keys()  # as Label Studio writes them to a target storage
            return Format.coco if len(said.keys() & COCO) > 1 else Format.label_studio if of_task else None
        first = msgspec.json.decode(said[0], type=dict[str, msgspec.Raw]) if said else {}
        return Format.label_studio if "annotation_id" in first or {"id", "data"} <= first.keys() else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _of_xml(files: SourceFiles, names: Sequence[str]) -> Iterator[Guess]:
    every = list(visible(names, {".xml"}))
    described = []
    for name in _sampled(every):
        data = _content(files, name)
        root = re.search(rb"<(annotations?)[\s>]", data)
        if root and root[1] == b"annotations" and b"<image" in data:
            yield Guess(Format.cvat, f"{name} has <annotations> of <image>", name)
        elif root and root[1] == b"annotation":
            described.append(name)
    for folder in _annotation_folders(described):
        below = sum(name.startswith(f"{folder}/" if folder else "") for name in every)
        why = f"{below} XML files in {folder or '.'}, the first with <annotation>"
        yield Guess(Format.voc, why, None if folder == "Annotations" else folder or ".")
    lists = [name for name in names if re.search(r"(^|/)ImageSets/Segmentation/\w+\.txt$", name)]
    if lists and not described:
        root_folder = lists[0].rpartition("ImageSets/")[0]
        yield Guess(Format.voc, f"{lists[0]} lists images", f"{root_folder}Annotations" if root_folder else None)


def _annotation_folders(names: Sequence[str]) -> list[str]:
    """The folders called Annotations, if they hold all of these files; else the one that does."""
    ends = [re.match(r"(.*/)?annotations(?=/)", name, re.IGNORECASE) for name in names]
    folders = {end[0] for end in ends if end}
    return sorted(folders) if folders and all(ends) else [common_folder(names)] if names else []


def _of_yolo(files: SourceFiles, names: Sequence[str]) -> Iterator[Guess]:
    found = False
    for name in _sampled(visible(names, {".yaml", ".yml"})):
        data = _content(files, name)
        keys = {match.decode() for match in re.findall(rb"(?m)^[\"']?(\w+)[\"']?\s*:", data)}
        keys |= {match.decode() for match in re.findall(rb"[{,]\s*[\"']?(\w+)[\"']?\s*:", data)}
        if "names" in keys and any(map(split_named, keys)):
            found = True
            yield Guess(Format.yolo, f"{name} has names, and train, val or test", name)
    if found:
        return
    classes = class_files(files, names)
    texts = (name for name in _sampled(visible(files.names(), {".txt"})) if name not in classes)
    labels = next((name for name in texts if LABELS.match(_content(files, name).decode(errors="replace"))), None)
    candidates: list[str | None] = [*classes] or [None]
    for file in candidates if labels else ():
        yield Guess(Format.yolo, f"label files such as {labels}", file)


def _of_tables(names: Sequence[str]) -> Iterator[Guess]:
    for name in visible(names, {".csv", ".tsv"}):
        yield Guess(Format.csv, f"{name} is a table", name)
    parquet = list(visible(names, {".parquet"}))
    if parquet:
        yield Guess(Format.parquet, f"{parquet[0]}{f' and {len(parquet) - 1} more' if parquet[1:] else ''}")


def of_folders(files: SourceFiles, options: ImportOptions, told: bool) -> Iterator[Guess]:
    """A single folder of images is a class only if the user says so."""
    folders = {name.rpartition("/")[0] for name in images_below(files, options.images or "")}
    if len(folders - {common_folder(f"{folder}/" for folder in folders)}) > 1 or (told and folders):
        yield Guess(Format.folders, f"no annotation files, and images in {len(folders)} folders")


def classes_folder(files: SourceFiles) -> str | None:
    """The folder above the classes' or the splits' ones: wrappers around all of a delivery are no class."""
    folders = {name.rpartition("/")[0] for name in images_below(files, "")}
    common = common_folder(f"{folder}/" for folder in folders)
    above, _, last = common.rpartition("/")
    return (above if len(folders) == 1 or split_named(last) else common) or None


def common_folder(names: Iterable[str]) -> str:
    """The folder that all of these files are in, directly or below; "" for the source itself."""
    folders = [name.split("/")[:-1] for name in names]
    same = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(parts[0] for parts in same)
