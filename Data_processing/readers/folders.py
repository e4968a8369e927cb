"""Folders: each class has a folder of its images, and each split may have a folder of such folders.

`cat/a.jpg`, or `train/cat/a.jpg`: the layout of torchvision's ImageFolder and of most classification data. Folders
below a class's folder belong to it. Images outside the classes' folders were not annotated. A folder called images is
no class: beside it are masks, or what else, that this form says nothing of.
"""

import re
from collections.abc import Iterator

from Data_processing.shared.annotation_files import split_named
from Data_processing.shared.files import SourceFiles, images_below
from Data_processing.shared.imported import Imported, ImportOptions
from Datasets.tools.errors import UserError

NO_CLASS = re.compile("images?|imgs?|JPEGImages|leftImg8bit", re.IGNORECASE)


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """All images of the folder `images`. Raises UserError if there is none."""
    if options.annotations is not None:
        raise UserError(f"{files.path}: `annotations`: this format has no annotation files; `images` names the folder")
    names = list(images_below(files, options.images or ""))
    if not names:
        raise UserError(f"{files.path}: no images in the folder {options.images or '.'}; set `images`")
    return names


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
            "folders; masks are read in VOC's layout, or where our JSON form names them"
        )
    return folder, _records(paths, bool(filled))


def _records(paths: dict[str, list[str]], splits: bool) -> Iterator[Imported]:
    for name, parts in paths.items():
        split = split_named(parts[0]) if splits and len(parts) > 1 else None
        below = parts[1:] if split else parts
        yield Imported(name, name, split=split, labels=[below[0]] if len(below) > 1 else None)
