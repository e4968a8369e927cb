"""Images and masks in pairs: a mask is an image file whose values say what the pixels of another image show.

`images/a.jpg` and `masks/a.png`, `leftImg8bit/...` and `gtFine/...`, `a.jpg` and `a_mask.png`: files pair whose paths,
or else names, are the same without words such as image, mask or label. Masks are those that are called so, or have few
values. What the values mean say `classes` and `ignore`, or a list of classes in the source, such as class_dict.csv; see
shared/mask_values.py. With `instances`, each value but 0 or black is an object: a box with its segmentation.

Splits are those of lists called train.txt, val.txt and test.txt, or of folders. An image without a mask was not
annotated.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from posixpath import basename, dirname, splitext

import numpy as np

from Data_processing.shared import mask_values
from Data_processing.shared.annotation_files import read_text, split_named, split_of
from Data_processing.shared.files import MissingFile, SourceFiles, folder_name, images_below
from Data_processing.shared.image_names import ImageFinder, without_suffix
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.shared.mask_values import COLOUR, CREAM, as_text, looks_drawn, numbers, open_mask, spread
from Data_processing.shared.outlines import from_crop, outlined
from Datasets.format.files import visible
from Datasets.format.images import UnreadableImage
from Datasets.tools.errors import UserError

OF_MASK, OF_IMAGE, DERIVED, OTHER = (
    re.compile(words, re.IGNORECASE)
    for words in (
        "masks?|msk|seg(s|m|mentations?)?|semantic|ann(o|ot)?s?|annotations?|lbl|label(s|l?ed|ids)?|gt(s|fine)?|"
        "(ground)?truths?|mattes?|trimaps?|parsing",
        "(image|img|photo)s?|jpe?g|png|tiff?|sat|leftimg8bit|originals?|raw|inputs?",
        "rgb|colou?r(s|ed)?|instance(s|ids)?|objects?|panoptic|labeltrainids|overlays?|vi[sz]|edges?|boundary|coarse",
        "(?-i:L|P)|class|ids|ground|manual1?",
    )
)
OBJECTS = re.compile("instance(s|ids)?|objects?")
WORD = re.compile(r"leftImg8bit|label(?:Train)?Ids|gtFine|manual1|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
GLUED = re.compile(r"(?<=[a-z])(?=(masks?|annot|labels?)([\W_]|$))")
LOOKED_AT, MOST_KINDS = 4, 40  # files of a kind that are looked at; kinds
PAIRED = 0.8  # of the masks of a kind, those of an image
Kind = tuple[str, ...]  # the words in which the paths of some files differ from those of others
CHOSEN: Kind = ("mask", "chosen")
Masks = dict[str, list[str]]  # each mask with the images that it may be of


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The masks. Raises UserError if there are none, or several kinds of them."""
    kinds, _ = find_kinds(files, options.annotations, options.images)
    if not kinds:
        where = options.annotations or "it"
        remedy = "set `annotations` to their folder, from the source on, or to a pattern such as '*_mask.png'"
        raise UserError(f"{files.path}: no masks in {where} that pair with images by their names; {remedy}")
    preferred = _called(OBJECTS, kinds) if options.instances else kinds.keys() - _called(DERIVED, kinds)
    wanted = list(preferred if len(kinds) > 1 else kinds)
    if len(wanted) != 1:
        examples = ", ".join(next(iter(masks)) for masks in kinds.values())
        remedy = "set `annotations` (--annotations) to the folder or a pattern such as '*_mask.png'"
        raise UserError(f"{files.path}: several kinds of masks: {examples}; {remedy}")
    return list(kinds[wanted[0]])


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[None, Iterator[Imported]]:
    """None, as the records name all images, and the records. Raises UserError if the values have no names."""
    kinds, images = find_kinds(files, options.annotations, options.images)
    if options.instances and len(options.classes) != 1:
        raise UserError(f"{files.path}: instances: name the one class of all objects, by --classes NAME")
    names = {} if options.instances else mask_values.value_names(files, found, options)
    masks_of, unpaired = _paired(next(masks for masks in kinds.values() if found[0] in masks))
    if not options.instances and all(len(masks) > 1 for masks in masks_of.values()):
        raise UserError(f"{files.path}: each image has several masks; if these are of an object each, give --instances")
    splits = _listed_splits(files, images)

    def records() -> Iterator[Imported]:
        yield from unpaired
        for image in images:
            masks = masks_of[image]
            row = Imported(image, ", ".join(masks[:3]) or image)
            row.split = splits[image] if image in splits else split_of(f"{dirname(image)}/-")
            if options.instances and masks:
                row.boxes = [box for mask in masks for box in _objects(files, mask, row, options)]
            elif len(masks) > 1:
                row.problems.append(("several masks", row.origin))
            elif masks:
                row.mask, row.mask_names = masks[0], names
            yield row

    return None, records()


def find_one(files: SourceFiles, folder: str) -> str | None:
    """An image file below a folder that is a mask: it is called so and looks drawn, or pairs with another."""
    called = [name for name in images_below(files, folder) if _called(OF_MASK, [_place(name)[0]])]
    if called and all(looks_drawn(files, name) for name in spread(called, LOOKED_AT)):
        return called[0]
    kinds, _ = find_kinds(files, None, folder)
    return next((mask for masks in kinds.values() for mask in masks), None)


@lru_cache(maxsize=2)
def find_kinds(files: SourceFiles, annotations: str | None, images: str | None) -> tuple[dict[Kind, Masks], list[str]]:
    """The masks of each kind, and all images."""
    every, within = list(images_below(files, "")), set(images_below(files, images or ""))
    kind_of, keys = _places(every, annotations)
    groups, alike = defaultdict(list), defaultdict(list)
    for name in every:
        for key in {*keys[name]}:
            groups[key].append(name)
    for group in groups.values():
        for name in group if len({kind_of[name] for name in group}) > 1 else ():
            alike[kind_of[name]].append(name)
    masks, pictures = _kinds_of_masks(files, alike)
    partners = {key: [n for n in group if kind_of[n] in pictures and n in within] for key, group in groups.items()}
    kinds = {}
    for kind in filter(masks.__contains__, alike):
        own = _with_partners({name: keys[name] for name in every if kind_of[name] == kind}, partners)
        if _share(own) >= (PAIRED if kind != CHOSEN else 0.01):
            kinds[kind] = own
    found = {kind: own for kind, own in kinds.items() if annotations is None or kind == CHOSEN}
    return found, [name for name in every if name in within and kind_of[name] not in kinds]


def _places(names: Iterable[str], annotations: str | None) -> tuple[dict[str, Kind], dict[str, list[str]]]:
    """The kind of each file, and the keys that it may have in common with its partner."""
    kind_of, keys, folder = {}, {}, folder_name(annotations or ".")
    for name in names:
        kind_of[name], *keys[name] = _place(name)
        if annotations is not None and (name.startswith(f"{folder}/") or fnmatchcase(name, folder)):
            kind_of[name] = CHOSEN
    return kind_of, keys


def _with_partners(keys: Mapping[str, Sequence[str]], partners: Mapping[str, list[str]]) -> Masks:
    """The images that masks may be of, by the first of their keys by which most have one."""
    levels = [{mask: partners[own[level]] for mask, own in keys.items()} for level in range(3)]
    levels[2] = {mask: images if len(images) == 1 else [] for mask, images in levels[2].items()}
    return max(levels, key=lambda masks: min(PAIRED, _share(masks)))


def _share(masks: Masks) -> float:
    """Of masks, those that have an image."""
    return sum(map(bool, masks.values())) / len(masks)


def _place(name: str) -> tuple[Kind, str, str, str]:
    """The words that say what a file is, and what it has in common with its partner.

    That is folders and stem; or the stem; or the folders, if these hold one image.
    """
    path = unicodedata.normalize("NFC", without_suffix(name))
    *folders, stem = (WORD.findall(GLUED.sub("_", part)) for part in path.split("/"))
    common = [word for part in folders for word in part if split_named(word) or not any(map(_is_mark, part))]
    own = [word for word in stem if not _is_mark(word) and not split_named(word)]
    words = [word for part in folders for word in part]
    kind = list(filter(_is_mark, [*words, *stem])) or [*(w for w in words if not split_named(w)), splitext(name)[1]]
    folder, alone = " ".join(common).casefold(), " ".join(own).casefold()
    return tuple(map(str.casefold, kind)), f"{folder}/{alone}", f"/{alone}" if alone else f"{folder}/", f"{folder}/"


@lru_cache(maxsize=100_000)
def _is_mark(word: str) -> bool:
    return any(words.fullmatch(word) for words in (OF_MASK, OF_IMAGE, DERIVED, OTHER))


def _called(words: re.Pattern[str], kinds: Iterable[Kind]) -> set[Kind]:
    """The kinds that one of these words is in, unless it is in all kinds, as of a folder around them."""
    kinds = list(kinds)
    shared = set(kinds[0]).intersection(*kinds) if len(kinds) > 1 else set()
    return {kind for kind in kinds if any(words.fullmatch(word) for word in kind if word not in shared)}


def _kinds_of_masks(files: SourceFiles, alike: Mapping[Kind, Sequence[str]]) -> tuple[set[Kind], set[Kind]]:
    """Of kinds of files whose names pair: those that are masks, and those that are images."""
    called, drawn = _called(OF_MASK, alike), set()
    for kind in alike if len(alike) <= MOST_KINDS else ():
        if all(looks_drawn(files, name) for name in spread(alike[kind], LOOKED_AT)):
            drawn.add(kind)
    for masks in (called - _called(OF_IMAGE, called) | drawn, called):  # images may look drawn, too
        if masks and (pictures := alike.keys() - masks):
            return masks, pictures
    return set(), set()


def _paired(masks: Masks) -> tuple[dict[str, list[str]], list[Imported]]:
    """The masks of each image, of several that may be meant the one with the nearest path; and masks without image."""
    masks_of, unpaired = defaultdict(list), []
    for mask, images in masks.items():
        words = {*WORD.findall(mask)}
        common = {image: len(words.intersection(WORD.findall(image))) for image in images}
        nearest = [image for image in images if common[image] == max(common.values())]
        if len(nearest) == 1:
            masks_of[nearest[0]].append(mask)
        else:
            what = ("ambiguous image", f"{mask}: {' or '.join(nearest[:3])}") if nearest else ("missing image", mask)
            unpaired.append(Imported(mask, f"{mask}, a mask", problems=[what]))
    return masks_of, unpaired


def _listed_splits(files: SourceFiles, images: Iterable[str]) -> dict[str, str | None]:
    """The splits of images by train.txt, val.txt and test.txt, whose lines begin with an image; None for two."""
    known, finder, found = set(images), ImageFinder(files, None), dict[str, str | None]()
    for file in visible(files.names(), {".txt"}):
        split = split_named(splitext(basename(file))[0])
        for line in filter(str.strip, read_text(files, file).splitlines() if split else ()):
            words = (line.strip(), re.split(r"[\s,;]+", line.strip())[0])
            for image in next(filter(None, (known.intersection(finder.by_end(word)) for word in words)), ()):
                found[image] = split if found.get(image, split) == split else None
    return found


def _objects(files: SourceFiles, mask: str, row: Imported, options: ImportOptions) -> Iterator[ImportedBox]:
    """A box with its segmentation for each value of a mask but 0 or black, Pascal VOC's border, and the ignored one."""
    try:
        image = open_mask(files.read(mask))
    except (MissingFile, UnreadableImage) as error:
        row.problems.append(("unreadable mask", f"{mask}: {error}"))
        return
    row.width, row.height = image.size
    values = numbers(image, image.mode == "RGB")
    values[numbers(image, True) == CREAM] = 0
    for value in sorted({*np.unique(values).tolist()} - {0, COLOUR, options.ignore}):
        inside = values == value
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        crop = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        outline = from_crop(crop, int(columns[0]), int(rows[0]), *image.size)
        yield outlined(options.classes[0], outline, f"{mask}: value {as_text(value)}")
