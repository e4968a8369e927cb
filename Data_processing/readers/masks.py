"""Images and masks in pairs: a mask is an image file whose values say what the pixels of another image show.

`images/a.jpg` and `masks/a.png`, `leftImg8bit/...` and `gtFine/...`, `a.jpg` and `a_mask.png`: files pair whose paths,
or else names, are the same without words such as image, mask or label. Masks are those that are called so, or have few
values. shared/mask_values.py says what the values mean. With `instances`, each value but 0 or black is an object.

Splits are those of lists called train.txt, val.txt and test.txt, or of folders. An image without a mask was not
annotated.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from posixpath import basename, commonpath, dirname, splitext

import numpy as np

from Data_processing.shared.annotation_files import read_text, split_named, split_of
from Data_processing.shared.files import MissingFile, SourceFiles, folder_name, images_below
from Data_processing.shared.image_names import NearNames, ambiguity, without_suffix
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.shared.mask_values import COLOUR, CREAM, as_text, looks_drawn, numbers, open_mask, value_names
from Data_processing.shared.outlines import from_crop, outlined
from Datasets.format.files import visible
from Datasets.format.images import UnreadableImage
from Datasets.tools.errors import UserError

MASK, IMAGE, DERIVED = (
    "masks?|msk|seg(s|m|mentations?)?|semantic|ann(o|ot)?s?|annotations?|lbl|label(s|l?ed)?|gt(s|fine)?|"
    "(ground)?truths?|mattes?|trimaps?|parsing|manual1|(?-i:L|P)",
    "(image|img|photo)s?|jpe?g|png|tiff?|sat|leftimg8bit|originals?|raw|inputs?",
    "rgb|colou?r(s|ed)?|instances?|objects?|panoptic|labeltrainids|overlays?|vi[sz]|edges?|boundary|coarse",
)
OF_MASK, OF_IMAGE, IS_DERIVED, MARK = (
    re.compile(words, re.IGNORECASE) for words in (MASK, IMAGE, DERIVED, f"{MASK}|{IMAGE}|{DERIVED}|ground|class|ids")
)
WORD = re.compile(
    r"leftImg8bit|labelTrainIds|gtFine|manual1|(?:train|val|test)(?=annot|mask|label)|"
    r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+"
)
LOOKED_AT, MOST_KINDS = 4, 40  # files of a kind that are looked at; kinds
PAIRED = 0.8  # of files that are not called masks but look so: those that pair with an image
Kind = tuple[str, ...]  # the words in which the paths of some files differ from those of others
CHOSEN: Kind = ("mask", "chosen")
Masks = dict[str, list[str]]  # each mask with the images that it may be of


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The masks of the only kind that may be meant. Raises UserError if there are none, or several kinds."""
    kinds, _ = find_kinds(files, options.annotations, options.images)
    if options.annotations is not None:
        kinds = {kind: masks for kind, masks in kinds.items() if kind == CHOSEN}
    plain = [kind for kind in kinds if options.instances or not _is_called(IS_DERIVED, kind)]
    wanted = [list(kinds[kind]) for kind in plain or kinds if any(len(of) == 1 for of in kinds[kind].values())]
    if len(wanted) != 1:
        remedy = "set `annotations` (--annotations) to their folder, from the source on, or a pattern as '*_mask.png'"
        examples = ", ".join(masks[0] for masks in wanted)
        what = (
            f"several kinds of masks: {examples}" if wanted else "no masks that pair with an image each by their names"
        )
        raise UserError(f"{files.path}: {what}; {remedy}")
    return wanted[0]


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[None, Iterator[Imported]]:
    """None, as the records name all images, and the records. Raises UserError if the values have no names."""
    kinds, images = find_kinds(files, options.annotations, options.images)
    masks = next(masks for masks in kinds.values() if found[0] in masks)
    names = value_names(files, found, options)
    masks_of = defaultdict(list)
    for mask in masks:
        if len(masks[mask]) == 1:
            masks_of[masks[mask][0]].append(mask)
    if not options.instances and min(map(len, masks_of.values()), default=1) > 1:
        raise UserError(f"{files.path}: each image has several masks; if these are of an object each, give --instances")

    def records() -> Iterator[Imported]:
        yield from _unpaired(masks)
        for image, split in _splits(files, images).items():
            own = masks_of[image]
            row = Imported(image, ", ".join(own[:3]) or image, split=split)
            if options.instances and own:
                row.boxes = [box for mask in own for box in _objects(files, mask, row, options)]
            elif len(own) > 1:
                row.problems.append(("several masks", row.origin))
            elif own:
                row.mask, row.mask_names = own[0], names
            yield row

    return None, records()


def _unpaired(masks: Masks) -> Iterator[Imported]:
    for mask, images in masks.items():
        if len(images) != 1:
            yield Imported(mask, f"{mask}, a mask", problems=ambiguity(mask, images) or [("missing image", mask)])


def find_one(files: SourceFiles, folder: str) -> str | None:
    """An image file below a folder that is a mask of another, if there is one."""
    kinds, _ = find_kinds(files, None, folder or None)  # as recognise asks, which the cache then knows
    return next((mask for masks in kinds.values() for mask in masks), None)


@lru_cache(maxsize=2)
def find_kinds(files: SourceFiles, annotations: str | None, images: str | None) -> tuple[dict[Kind, Masks], list[str]]:
    """The masks of each kind, and all images."""
    every, within = list(images_below(files, "")), set(images_below(files, images or ""))
    root, folder = commonpath([f"/{dirname(name)}" for name in every] or ["/"]), folder_name(annotations or ".")
    kind_of, keys, alike, partners = {}, {}, defaultdict(list), defaultdict(list)
    for name in every:
        kind_of[name], keys[name] = _place(f"/{name}"[len(root) :])
        if annotations is not None and (name.startswith(f"{folder}/") or fnmatchcase(name, folder)):
            kind_of[name] = CHOSEN
        alike[kind_of[name]].append(name)
    masks = _kinds_of_masks(files, alike)
    for name in every:
        for key in {*keys[name]} if name in within and kind_of[name] not in masks else ():
            partners[key].append(name)
    pairs = {kind: _with_partners(kind, alike[kind], keys, partners) for kind in alike if kind in masks}
    kinds = {kind: own for kind, own in pairs.items() if own}
    return kinds, [name for name in every if name in within and kind_of[name] not in kinds]


def _place(name: str) -> tuple[Kind, list[str]]:
    """The words that say what a file is; and folders and stem, the stem, and the folders, without them."""
    path = unicodedata.normalize("NFC", without_suffix(name))
    *folders, stem = (WORD.findall(part) for part in path.split("/"))
    common = [word for part in folders for word in part if split_named(word) or not _is_called(MARK, part)]
    own = [word for word in stem if not MARK.fullmatch(word) and not split_named(word)]
    words = [word for part in folders for word in part if not split_named(word)]
    kind = list(filter(MARK.fullmatch, [*words, *stem])) or [*words, splitext(name)[1]]
    folder, alone = " ".join(common).casefold(), " ".join(own).casefold()
    return tuple(kind), [f"{folder}/{alone}", f"/{alone}" if alone else f"{folder}/", f"{folder}/"]


def _is_called(words: re.Pattern[str], kind: Iterable[str]) -> bool:
    return any(map(words.fullmatch, kind))


def _kinds_of_masks(files: SourceFiles, alike: Mapping[Kind, Sequence[str]]) -> set[Kind]:
    """The kinds of files that may be masks, unless that is all of them: images may look drawn, too."""
    called = {kind for kind in alike if _is_called(OF_MASK, kind)}
    some = alike if len(alike) <= MOST_KINDS else ()
    drawn = {kind for kind in some if all(looks_drawn(files, name) for name in alike[kind][:LOOKED_AT])}
    certain = {kind for kind in called if not _is_called(OF_IMAGE, kind)} | drawn
    return next((masks for masks in (certain, called) if masks and masks != alike.keys()), set())


def _with_partners(
    kind: Kind, names: Sequence[str], keys: Mapping[str, Sequence[str]], partners: Mapping[str, list[str]]
) -> Masks:
    """The images that masks may be of, by the first of their keys by which enough have one; else none."""
    called = _is_called(OF_MASK, kind)
    for level in range(3 if called else 2):
        masks = {mask: partners.get(keys[mask][level], []) for mask in names}
        if sum(map(bool, masks.values())) >= (1 if called else PAIRED * len(masks)):
            return masks
    return {}


def _splits(files: SourceFiles, images: Sequence[str]) -> dict[str, str | None]:
    """The splits of images by train.txt, val.txt and test.txt, whose lines begin with an image, or by folders."""
    near, listed = NearNames(images), defaultdict(set)
    for file in visible(files.names(), {".txt"}):
        split = split_named(splitext(basename(file))[0])
        for line in map(str.strip, read_text(files, file).splitlines() if split else ()):
            meant = map(near.find, (re.split(r"[\s,;]", line)[0], line))
            for image in next(filter(None, meant), ()) if line else ():
                listed[image].add(split)
    found = {image: splits.pop() if len(splits) == 1 else None for image, splits in listed.items()}
    return {image: found.get(image, split_of(f"{dirname(image)}/-")) for image in images}


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
        outline = from_crop(values == value, 0, 0, *image.size)
        yield outlined(options.classes[0], outline, f"{mask}: value {as_text(value)}")
