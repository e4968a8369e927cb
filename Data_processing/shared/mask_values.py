"""What the pixels of masks hold, a number each, and what the numbers stand for.

A number is a grey value or a palette's index or, where names are of colours, COLOUR + 0xRRGGBB. Names map numbers to
classes: "" is background, None what is not annotated.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
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
LOSSLESS = ("PNG", "GIF", "BMP", "TIFF", "PPM")
HEADER = re.compile("(class|label)?[ _]?names?|class(es)?|labels?", re.IGNORECASE)
CLASS_LIST = re.compile(
    r"_?(obj_)?class(es)?(_?(dict|names?|list|colou?rs?|seg))*|label_?(colou?rs?|map|names)|labels|codes", re.IGNORECASE
)
BACKGROUND = re.compile(r"[\W_]*(back[ _]?ground|bg)[\W_]*", re.IGNORECASE)
UNKNOWN = re.compile(r"[\W_]*(void|ignored?|un-?label+ed|un-?annotated|not[ _]annotated|unknown)[\W_]*", re.IGNORECASE)
LINE = re.compile(  # `7,road,128,64,128`, `road:128,64,128::`, `128 64 128 road`, `7: road`, `road=7`, `road`
    r"(?P<before>(\d+[\s,;:]+)*)(?P<name>.*?)(?P<after>(\s*[,;:=\t]\s*\d+)*|:?(\s+\d+){3})(:[^:]*:[^:]*)?", re.DOTALL
)
Entry = tuple[str | None, int | None]  # a name and its number
Names = Mapping[int, str | None]
Pairs = Counter[tuple[int, int]]  # how many pixels have a value and a colour


def open_mask(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A mask as an image of mode L, P, RGB or, of 16 bits, I. Raises UnreadableImage, saying what would help."""
    image = open_image(data, max_pixels)
    if image.format not in LOSSLESS:
        raise UnreadableImage(f"{image.format} blurs the values of a mask; export masks as PNG")
    if image.mode in ("RGBA", "LA", "PA") and np.asarray(image.convert("RGBA"))[..., 3].min() == 255:
        return image.convert("RGB")
    if image.mode.startswith("I"):
        return image.convert("I")
    if image.info[WIDE] or image.mode not in ("1", "L", "P", "RGB"):
        raise UnreadableImage(f"a mask is grey, of a palette, or RGB of 8 bits, not transparent; this is {image.mode}")
    return image.convert("L") if image.mode == "1" else image


def numbers(image: Image.Image, by_colour: bool) -> np.ndarray:
    """The numbers, int32 [H, W], of an image's pixels, as colours or as values."""
    if image.mode == "I" or (image.mode in ("L", "P") and not by_colour):
        return np.full(image.size[::-1], NEITHER, np.int32) if by_colour else np.asarray(image).astype(np.int32)
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
    if by_colour:
        return COLOUR + (red << 16) + (green << 8) + blue
    return np.where((red == green) & (red == blue), red, NEITHER)


def tally(image: Image.Image) -> Pairs:
    """How many pixels of a mask have each value and its colour. Raises UnreadableImage for more than MOST."""
    found: Any = image.getcolors(MOST)
    if not found:
        raise UnreadableImage(f"more than {MOST} values, as a photograph has; is it a mask, and was it scaled?")
    each = image.resize((len(found), 1))
    each.putdata([pixel for _, pixel in found])
    pairs = zip(*(numbers(each, by_colour)[0].tolist() for by_colour in (False, True)), strict=True)
    return Counter(dict(zip(pairs, (count for count, _ in found), strict=True)))


def survey(files: SourceFiles, masks: Sequence[str], most: int = SAMPLE) -> Pairs:
    """The tally of at most so many masks, from all over them. Raises UserError if none can be read."""
    total, reason = Pairs(), ""
    for mask in masks[:: (len(masks) - 1) // most + 1]:
        try:
            total += tally(open_mask(files.read(mask)))
        except (MissingFile, UnreadableImage) as error:
            reason = reason or f"{mask}: {error}"
    if not total:
        raise UserError(f"{files.path}: no mask can be read; the first: {reason}")
    return total


def looks_drawn(files: SourceFiles, name: str) -> bool:
    """Whether an image file has few values, as masks do and photographs do not."""
    with suppress(MissingFile, UnreadableImage):
        return open_mask(files.read(name)).getcolors(64) is not None
    return False


def in_colour(names: Iterable[int]) -> bool:
    """Whether numbers are colours."""
    return any(COLOUR <= number < NEITHER for number in names)


def as_text(number: int) -> str:
    """A number as the option `classes` has it."""
    if number == NEITHER:
        return "colours where values have names, or the reverse"
    return ":".join(str(number >> bits & 255) for bits in (16, 8, 0)) if number >= COLOUR else str(number)


def described(pairs: Pairs, by_colour: bool) -> dict[int, str]:
    """Each number that occurs with its colour, if the number does not show it, and its share of the pixels."""
    shown, shares = {}, Counter[int]()
    for (value, colour), count in pairs.items():
        number = colour if by_colour else value
        plain = colour in (number, NEITHER, COLOUR + number * 0x10101)
        shown[number] = as_text(number) if plain else f"{as_text(number)} ({as_text(colour)})"
        shares[number] += count
    return {number: f"{shown[number]} {shares[number] / shares.total():.2%}" for number in sorted(shares)}


def table(files: SourceFiles, names_of: Mapping[str, Names]) -> list[str]:
    """What the values in masks are and mean, by a sample. names_of: of each mask."""
    names = {0: "", VOID: None} | {number: name for names in names_of.values() for number, name in names.items()}
    seen = described(survey(files, list(names_of)), in_colour(names)) if names_of else {}
    meant = {number: names.get(number, "without a name") for number in seen}
    return [f"{words} {'not annotated' if meant[n] is None else meant[n] or 'background'}" for n, words in seen.items()]


def entry(line: str) -> Entry:
    """What a line of a list of classes names, and the value or colour that it states for it."""
    match = LINE.fullmatch(line.strip()[:200])
    assert match  # whatever the line is
    parts = [int(part) for part in re.findall(r"\d+", match["before"] + match["after"])]
    number = parts[0] if len(parts) == 1 and parts[0] < COLOUR else None
    if len(parts) > 2 and max(parts[-3:]) < 256:
        number = COLOUR + (parts[-3] << 16) + (parts[-2] << 8) + parts[-1]
    name = match["name"].strip(" \"'")
    return "" if BACKGROUND.fullmatch(name) else None if UNKNOWN.fullmatch(name) else name, number


def entries(lines: Iterable[str]) -> list[Entry]:
    """The classes listed, without a header and lines that begin with #."""
    found = [entry(line) for line in lines if line.strip() and not line.startswith("#")]
    numbered = {number is not None for _, number in found[1:]} == {True}
    if found and found[0][1] is None and (numbered or HEADER.fullmatch(found[0][0] or "")):
        del found[0]
    return found


def named(listed: Sequence[Entry], pairs: Iterable[tuple[int, int]], ignore: int | None) -> Names | None:
    """What the numbers that occur stand for: those stated, or from 0 on in the order of the list, or 0 and one more.

    None if the list does not tell, as where 255 may be the last class, or not annotated.
    """
    values, colours = ({number for number in each if number != ignore} for each in zip(*pairs, strict=True))
    names: Names = {number: name for name, number in listed if number is not None}
    if not listed or 0 < len(names) < len(listed):
        return None
    if in_colour(names):
        names = {COLOUR: "", CREAM: None, **names}  # black, and Pascal VOC's border
        return names if colours <= names.keys() else None
    if names:
        return names if values <= {0, VOID, *names} else None
    order, (*others, last) = sorted(colours if NEITHER in values else values), (name for name, _ in listed)
    if len(order) <= 2 and order[:1] in ([0], [COLOUR]) and others in ([], [""]):
        return {order[-1]: last, order[0]: ""}
    certain = len(order) != len(listed) or VOID not in order
    return dict(enumerate([*others, last])) if certain and {*order} <= {*range(len(listed)), VOID} else None


def value_names(files: SourceFiles, masks: Sequence[str], options: ImportOptions) -> Names:
    """What the numbers of masks stand for, by `classes` or else by the lists of classes in the source; {} for objects.

    Raises UserError, with what to answer, if neither tells or two lists differ.
    """
    if options.instances and len(options.classes) != 1:
        raise UserError(f"{files.path}: instances: name the one class of all objects, by --classes NAME")
    if options.instances:
        return {}
    lists = {"`classes`": [entry(name) for name in options.classes]}
    if not options.classes:
        found = visible(files.names(), {".csv", ".tsv", ".txt", ".names"})
        own = [file for file in found if CLASS_LIST.fullmatch(splitext(basename(file))[0])]
        lists = {file: entries(read_text(files, file).splitlines()) for file in own}
    unnumbered = [name for listed in lists.values() for name, number in listed if number is None]
    pairs = survey(files, masks, len(masks) if unnumbered else SAMPLE)  # each value matters to what the order means
    fits = [names for listed in lists.values() if (names := named(listed, pairs, options.ignore))]
    if options.classes and not unnumbered:
        fits = fits or [{number: name for name, number in lists["`classes`"] if number is not None}]
    meant = {tuple({0: "", **names}.get(pair[in_colour(names)]) for pair in pairs) for names in fits}
    if len(meant) != 1:
        raise UserError(f"{files.path}: {_question(pairs, lists)}")
    return fits[0] if options.ignore is None else {**fits[0], options.ignore: None}


def _question(pairs: Pairs, lists: Iterable[str]) -> str:
    """That lists of classes do not tell what the numbers in masks mean, and what to answer."""
    seen = described(pairs, any(value == NEITHER for value, _ in pairs))
    shown = list(seen)[:MANY]
    more = f", and {len(seen) - MANY} more, as masks have that were scaled" if len(seen) > MANY else ""
    answers = " ".join(f"--classes {'background' if n in (0, COLOUR) else 'NAME'}={as_text(n)}" for n in shown)
    return (
        f"{' and '.join(lists) or 'no list of classes'}: it is not certain what the values of masks mean: "
        f"{', '.join(seen[number] for number in shown)}{more}; name them by `{answers}`, what is not annotated `void`; "
        "or, if each is an object, give `--instances --classes NAME`"
    )
