"""Which split a file is about, by the words in its name and in those of its folders."""

import re
from pathlib import PurePosixPath

from Datasets.format.records import SPLITS

LETTER = r"[^\W\d_]"
SPLIT = re.compile(r"(?P<train>train)(ing)?|(?P<val>val)(id(ation)?)?|(?P<test>test)(ing)?", re.IGNORECASE)
SPLIT_WORD = re.compile(rf"(?<!{LETTER})(?:{SPLIT.pattern})(?!{LETTER})\d*", re.IGNORECASE)
OBJ_DATA = re.compile(r"^obj_(\w+)_data$")


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
