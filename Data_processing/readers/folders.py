"""Folders: each class has a folder of its images, and each split may have a folder of such folders.

`cat/a.jpg`, or `train/cat/a.jpg`: the layout of torchvision's ImageFolder and of most classification data. Folders
below a class's folder belong to it. Images outside the classes' folders were not annotated. A folder called images is
no class, nor is one of masks; texts that name images are annotations that this form would not read.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from posixpath import basename, splitext

from Data_processing.readers.masks import find_one
from Data_processing.shared.annotation_files import split_named
from Data_processing.shared.files import MissingFile, SourceFiles, images_below
from Data_processing.shared.imported import Imported, ImportOptions
from Datasets.format.files import visible
from Datasets.tools.errors import UserError

NO_CLASS = re.compile("images?|imgs?|(JPEG|PNG)Images|leftImg8bit|masks?|depth|rgb|thermal", re.IGNORECASE)
UNREAD = {".csv", ".tsv", ".txt", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".mat", ".labels"}
ASIDE = re.compile(r"(read_?me|licen[cs]es?|changelog|credits?|citation|attributions?|notes?)\b", re.IGNORECASE)
BETWEEN = re.compile(r"[\s,;:\"'<>=/\\]+")


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """All images of the folder `images`. Raises UserError if there is none."""
    if options.annotations is not None:
        raise UserError(f"{files.path}: `annotations`: this format has no annotation files; `images` names the folder")
    check_beside(files, options.images or "")
    names = list(images_below(files, options.images or ""))
    if not names:
        raise UserError(f"{files.path}: no images in the folder {options.images or '.'}; set `images`")
    return names


def check_beside(files: SourceFiles, folder: str) -> None:
    """Raise UserError if images below a folder are masks of others, or if texts there name images."""
    if mask := find_one(files, folder):
        raise UserError(f"{files.path}: {mask} and its like look like masks, no class; give --format masks")
    images = {*map(basename, images_below(files, folder))}
    stems = {splitext(image)[0] for image in images}
    called = images.union(stem for stem in stems if re.search(r".{3}\d", stem))
    for file in visible(files.names(), UNREAD, folder):
        stem, text = splitext(basename(file))[0], ""
        with suppress(MissingFile):
            text = files.read(file)[: 1 << 20].decode(errors="ignore")
        if not ASIDE.match(stem) and (stem in stems or not called.isdisjoint(BETWEEN.split(text))):
            raise UserError(
                f"{files.path}: {file} names images and would not be read; give the --format that reads it or, if it "
                "has no annotations, --images with a folder of the classes' folders that it is not in, or take it out"
            )


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that holds the classes' or the splits' folders, and the records.

    Raises UserError if there are no class folders, if only some folders are splits, or if one is called images.
    """
    folder = options.images or ""
    paths = {name: name.removeprefix(f"{folder}/" if folder else "").split("/") for name in found}
    tops = sorted({parts[0] for parts in paths.values() if len(parts) > 1})
    split = [top for top in tops if split_named(top)]
    filled = {parts[0] for parts in paths.values() if len(parts) > 2 and parts[0] in split}
    others = [top for top in tops if top not in split]
    if not tops or (split and not others and not filled):
        raise UserError(f"{files.path}: no class folders in {folder or '.'}: images lie in CLASS/ or SPLIT/CLASS/")
    if filled and others:
        raise UserError(
            f"{files.path}: {min(filled)} would be a split, but {others[0]} beside it none; set `images`, or rename it"
        )
    at = int(bool(filled))  # of the class's folder in a path
    classes = (parts[at] for parts in paths.values() if len(parts) > at + 1)
    if wrong := next(filter(NO_CLASS.fullmatch, classes), None):
        raise UserError(
            f"{files.path}: {wrong} is a folder of images, no class; set `images` to the one that holds the classes' "
            "folders"
        )
    return folder, _records(paths, bool(filled))


def _records(paths: dict[str, list[str]], splits: bool) -> Iterator[Imported]:
    for name, parts in paths.items():
        split = split_named(parts[0]) if splits and len(parts) > 1 else None
        below = parts[1:] if split else parts
        yield Imported(name, name, split=split, labels=[below[0]] if len(below) > 1 else None)
