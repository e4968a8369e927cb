"""What the pixels of masks hold, a number each, and what the numbers stand for.

A number is a grey value or a palette's index or, where names are of colours, COLOUR + 0xRRGGBB. Names map numbers to
classes: "" is background, None what is not annotated.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from posixpath import basename, splitext
from typing import Any

import numpy as np
from PIL import Image

from Data_processing.shared.annotation_files import read_text
from Data_processing.shared.files import MissingFile, SourceFiles
from Data_processing.shared.imported import ImportOptions
from Datasets.format.files import visible
from Datasets.format.images import MAX_PIXELS, VOID, WIDE, UnreadableImage, open_image
from Datasets.tools.errors import UserError

COLOUR = 1 << 24
CREAM = COLOUR + 0xE0E0C0  # Pascal VOC's colour of what is not annotated
NEITHER = 1 << 25  # the value of a pixel that is not grey, or the colour of one of 16 bits
MOST = 4096  # different values in a mask; a photograph has more
SAMPLE = 200  # masks whose values are looked at
MANY = 30  # values in a message
EVEN = 0.85  # of neighbouring pixels of a mask, those that are equal
LOSSLESS = ("PNG", "GIF", "BMP", "TIFF", "PPM")
HEADER = re.compile("(class|label)?[ _]?names?|class(es)?|labels?", re.IGNORECASE)
CLASS_LIST = re.compile(
    r"_?(obj_)?class(es)?(_?(dict|names?|list|colou?rs?|map|seg))*|label_?(colou?rs?|map|names)|colou?r_?map|labels|codes",
    re.IGNORECASE,
)
BACKGROUND = re.compile(r"[\W_]*(back[ _]?ground|bg)[\W_]*", re.IGNORECASE)
UNKNOWN = re.compile(r"[\W_]*(void|ignored?|un-?label+ed|un-?annotated|not[ _]annotated|unknown)[\W_]*", re.IGNORECASE)
BETWEEN = r"[ \t]*[,;:\t =][ \t]*"
COLOURED = rf"(\d{{1,3}}{BETWEEN}){{2}}\d{{1,3}}"
LINES = [  # such as `7,road,128,64,128`, `road:128,64,128::`; `128 64 128 road`, `7: road`; `road=7`; `road`
    rf"(\d+{BETWEEN})?(?P<name>[^\d\s,;:].*?)([ \t]*[,;\t][ \t]*\d+)?{BETWEEN}(?P<number>{COLOURED})(:.*)?",
    rf"(?P<number>{COLOURED}|\d{{1,5}}){BETWEEN}(?P<name>[^\d\s,;:].*)",
    r"(?P<name>.*?)[ \t]*[,;:\t=][ \t]*(?P<number>\d{1,5})",
    r"(?P<name>.*?)[:,;\s]*(?P<number>)",
]
Entry = tuple[str, int | None]
Names = Mapping[int, str | None]
Pairs = Counter[tuple[int, int]]  # how many pixels have a value and a colour


def open_mask(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A mask as an image of mode L, P, RGB or, of 16 bits, I. Raises UnreadableImage, saying what would help."""
    image = open_image(data, max_pixels)
    if image.format not in LOSSLESS:
        remedy = "export masks as PNG, or make PNGs of two values by a threshold"
        raise UnreadableImage(f"{image.format} blurs the values of a mask; {remedy}")
    if image.mode in ("RGBA", "LA", "PA"):
        if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise UnreadableImage("a mask with transparent pixels, whose values are not certain; save it without")
        return image.convert("RGB")
    if image.info[WIDE] or (image.mode not in ("1", "L", "P", "RGB") and not image.mode.startswith("I")):
        raise UnreadableImage(f"a mask is grey, has a palette, or is in RGB of 8 bits; this one is {image.mode}")
    return image.convert("L") if image.mode == "1" else image


def numbers(image: Image.Image, by_colour: bool) -> np.ndarray:
    """The numbers, int32 [H, W], of an image's pixels, as colours or as values."""
    if image.mode.startswith("I") or (image.mode in ("L", "P") and not by_colour):
        return np.full(image.size[::-1], NEITHER, np.int32) if by_colour else np.asarray(image).astype(np.int32)
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
    if by_colour:
        return COLOUR + (red << 16) + (green << 8) + blue
    return np.where((red == green) & (red == blue), red, NEITHER)


def tally(image: Image.Image) -> Pairs:
    """How many pixels of a mask have each value and its colour. Raises UnreadableImage for more than MOST."""
    if image.mode.startswith("I"):
        values, counts = (found.tolist() for found in np.unique(np.asarray(image), return_counts=True))
        each = Image.fromarray(np.array([values], np.int32))
    else:
        found: Any = image.getcolors(MOST) or []
        counts, each = [count for count, _ in found], image.resize((max(1, len(found)), 1))
        each.putdata([pixel for _, pixel in found])
    if not 0 < len(counts) <= MOST:
        raise UnreadableImage(f"more than {MOST} values, as a photograph has; is it a mask, and was it scaled?")
    pairs = zip(*(numbers(each, by_colour)[0].tolist() for by_colour in (False, True)), strict=True)
    return Counter(dict(zip(pairs, counts, strict=True)))


def survey(files: SourceFiles, masks: Sequence[str]) -> Pairs:
    """The tally of masks, without those that cannot be read. Raises UserError if that leaves none."""
    total, reason = Pairs(), ""
    for mask in masks:
        try:
            total += tally(open_mask(files.read(mask)))
        except (MissingFile, UnreadableImage) as error:
            reason = reason or f"{mask}: {error}"
    if not total:
        raise UserError(f"{files.path}: no mask can be read; the first: {reason}")
    return total


def looks_drawn(files: SourceFiles, name: str) -> bool:
    """Whether an image file has few values, or even areas of not many, as masks do and photographs do not."""
    try:
        image = open_image(files.read(name))
    except (MissingFile, UnreadableImage):
        return False
    values = numbers(image, image.mode not in ("L", "P") and not image.mode.startswith("I"))
    different, even = len(np.unique(values)), (values[:, 1:] == values[:, :-1]).mean()
    return bool(different <= min(64, values.size // 16) or (different <= 256 and even > EVEN))


def spread(names: Sequence[str], number: int) -> Sequence[str]:
    """At most so many of the names, from all over them."""
    return names[:: max(1, -(-len(names) // number))]


def in_colour(names: Iterable[int]) -> bool:
    """Whether numbers are colours."""
    return any(COLOUR <= number < NEITHER for number in names)


def as_text(number: int) -> str:
    """A number as the option `classes` has it."""
    if number == NEITHER:
        return "colours where values have names, or the reverse"
    return ":".join(str(number >> bits & 255) for bits in (16, 8, 0)) if number >= COLOUR else str(number)


def described(pairs: Pairs, by_colour: bool) -> dict[int, str]:
    """Each number that occurs with its colour, if that is not told by it, and its share of the pixels."""
    shown, shares = {}, Counter[int]()
    for (value, colour), count in pairs.items():
        number = colour if by_colour else value
        plain = colour in (number, NEITHER, COLOUR + number * 0x10101)
        shown[number] = as_text(number) if plain else f"{as_text(number)} ({as_text(colour)})"
        shares[number] += count
    order = sorted(shares) if len(shares) <= MANY else [number for number, _ in shares.most_common()]
    return {number: f"{shown[number]} {shares[number] / shares.total():.2%}" for number in order}


def table(files: SourceFiles, names_of: Mapping[str, Names]) -> list[str]:
    """What the values in masks are and mean, by a sample. names_of: of each mask."""
    masks = spread(list(names_of), SAMPLE)
    names = {0: "", VOID: None, **{number: name for mask in masks for number, name in names_of[mask].items()}}
    told = described(survey(files, masks), in_colour(names)) if masks else {}
    meant = {number: names.get(number, "without a name") for number in told}
    return [f"{words} {'not annotated' if meant[n] is None else meant[n] or 'background'}" for n, words in told.items()]


def entries(lines: Iterable[str]) -> list[Entry]:
    """The classes listed, and their numbers if all have one; without a header and lines that begin with #."""
    found: list[Entry] = []
    for line in (line.strip()[:200] for line in lines if line.strip() and not line.startswith("#")):
        match = next(filter(None, (re.fullmatch(pattern, line) for pattern in LINES)))
        parts = [int(part) for part in re.findall(r"\d+", match["number"])]
        number = COLOUR + (parts[0] << 16) + (parts[1] << 8) + parts[2] if len(parts) == 3 else None
        found.append((match["name"].strip(" \"'"), parts[0] if len(parts) == 1 else number))
    beneath = [number is not None for _, number in found[1:]]
    if beneath and found[0][1] is None and (all(beneath) or HEADER.fullmatch(found[0][0])):
        del found[0]
    return found


def class_of(name: str) -> str | None:
    """What a name listed stands for: "" for background, None for what is not annotated."""
    return "" if BACKGROUND.fullmatch(name) else None if UNKNOWN.fullmatch(name) else name


def named(listed: Sequence[Entry], pairs: Iterable[tuple[int, int]], ignore: int | None) -> Names | None:
    """What the numbers that occur stand for, or None if the classes listed do not tell.

    Numbers of colours may also stand in the order of the values, if the first is no class.
    """
    values, colours = ({number for number in each if number != ignore} for each in zip(*pairs, strict=True))
    stated = {number: class_of(name) for name, number in listed if number is not None}
    names = [class_of(name) for name, _ in listed]
    if stated and colours <= {COLOUR, CREAM, *stated}:
        return {COLOUR: "", CREAM: None, **stated}
    if stated and (NEITHER in values or not in_colour(stated)):
        return stated if values <= {0, VOID, *stated} else None
    if stated:
        return dict(enumerate(names)) if not names[0] and values - {VOID} <= {*range(len(names))} else None
    white_first = len(names) == 1 and COLOUR in colours and (0, COLOUR) not in pairs  # in a palette
    return numbered(names, colours if NEITHER in values or white_first else values)


def numbered(names: Sequence[str | None], seen: Collection[int]) -> Names | None:
    """Names of the values from 0 on; or from 1 on, where one has none; or of those seen, in their order.

    A single name is that of the only value beside 0 or black. None if it is not certain.
    """
    order, known, count = sorted(seen), {*seen} - {VOID}, len(names)
    if count == 1 and len(order) <= 2 and order[0] in (0, COLOUR):
        return {order[-1]: names[0], order[0]: ""}
    by_number = dict(enumerate(names)) if known <= {*range(count)} else None
    if by_number is None and all(names) and known <= {*range(count + 1)}:
        by_number = dict(enumerate(["", *names]))
    in_order = dict(zip(order, names, strict=True)) if len(order) == count else None
    if in_order and by_number and known != {0} and any(by_number.get(n) != name for n, name in in_order.items()):
        return None  # 255 may be a class, or not annotated
    return in_order or by_number


def value_names(files: SourceFiles, masks: Sequence[str], options: ImportOptions) -> Names:
    """What the numbers of masks stand for, by `classes` or else by a list of classes in the source.

    Raises UserError, with what to answer, if neither tells or two lists differ.
    """
    if options.classes:
        lists = {"`classes`": [entry for name in options.classes for entry in entries([name])]}
        if {number is None for _, number in lists["`classes`"]} == {True, False}:
            raise UserError(f"{files.path}: classes: state the values of all or none: {', '.join(options.classes)}")
    else:
        found = visible(files.names(), {".csv", ".tsv", ".txt", ".names"})
        own = [file for file in found if CLASS_LIST.fullmatch(splitext(basename(file))[0])]
        lists = {file: entries(read_text(files, file).splitlines()) for file in own}
    plain = any(number is None for listed in lists.values() for _, number in listed)  # then each value may matter
    pairs = survey(files, masks if plain else spread(masks, SAMPLE))
    fits = {file: names for file, listed in lists.items() if listed and (names := named(listed, pairs, options.ignore))}
    stated = {number: class_of(name) for name, number in lists.get("`classes`", ()) if number is not None}
    if stated and not fits:  # images with other values are rejected
        fits = {"`classes`": stated}
    meant = {tuple({0: "", **names}.get(pair[in_colour(names)]) for pair in pairs) for names in fits.values()}
    if len(meant) != 1:
        raise UserError(f"{files.path}: {_question(pairs, fits or lists)}")
    names = next(iter(fits.values()))
    return names if options.ignore is None else {**names, options.ignore: None}


def _question(pairs: Pairs, lists: Iterable[str]) -> str:
    """That lists of classes do not tell what the numbers in masks mean, and what to answer."""
    told = described(pairs, any(value == NEITHER for value, _ in pairs))
    words = [f"{'background' if n in (0, COLOUR) else 'NAME'}={as_text(n)}" for n in list(told)[:MANY]]
    answers = ["NAME"] if len(told) == 2 and "background" in words[0] else words
    what = f"{' and '.join(lists) or 'no list of classes'}: it is not certain"
    more = [f"and {len(told) - MANY} more, as masks have that were scaled"] if len(told) > MANY else []
    void = "; 255 may be left out, if it means not annotated" if VOID in told and len(told) > 2 else ""
    return (
        f"{what} what the values of masks mean: {', '.join([*list(told.values())[:MANY], *more])}; name them by "
        f"`{' '.join(f'--classes {word}' for word in answers)}`{void}; or, if each is an object, by `--instances "
        "--classes NAME`"
    )
