"""Pascal VOC: one XML file an image.

Specification: "The PASCAL Visual Object Classes Challenge 2012 Development Kit", section 10. The first pixel is (1, 1)
and a box includes its last pixel, so xmin - 1 and xmax are a box's edges in the record's coordinates. `filename` is
relative to the folder of images.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from lxml import etree

from Data_processing.imported import MAX_SIDE, Imported, ImportedBox, ImportOptions
from Data_processing.source_files import (
    IMAGE_SUFFIXES,
    MissingFile,
    SourceFiles,
    folder_name,
    images_below,
    inside,
    visible,
)
from Datasets.errors import UserError

ANNOTATIONS = "Annotations"
IMAGES = "JPEGImages"


@dataclass(frozen=True)
class Folders:
    """The folders of annotations and of images, and the images that are there."""

    annotations: str
    images: str
    present: frozenset[str]
    by_stem: dict[str, list[str]]


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The XML files of a folder, by default VOC's own. Raises UserError naming the folders that hold XML files."""
    folder = _annotations(options)
    names = list(visible(files.names(), {".xml"}, folder))
    if not names:
        folders = sorted({str(PurePosixPath(name).parent) for name in visible(files.names(), {".xml"})})
        raise UserError(
            f"{files.path}: no XML files in the folder {folder or '.'}; folders that have some: "
            f"{', '.join(folders[:5]) or 'none'}; set `annotations`"
        )
    return names


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, by default VOC's own) and the records."""
    images = IMAGES if options.images is None else options.images
    present = list(images_below(files, images))
    elsewhere = sorted({str(PurePosixPath(name).parent) for name in images_below(files, "")})
    if elsewhere and not present:
        raise UserError(
            f"{files.path}: no images in the folder {images or '.'}; folders that have some: "
            f"{', '.join(elsewhere[:5])}; set `images`"
        )
    by_stem = defaultdict(list)
    for name in present:
        by_stem[_stem(name)].append(name)
    folders = Folders(_annotations(options), images, frozenset(present), by_stem)
    return images, (_record(files, name, folders) for name in found)


def _annotations(options: ImportOptions) -> str:
    return ANNOTATIONS if options.annotations is None else folder_name(options.annotations)


def _record(files: SourceFiles, file: str, folders: Folders) -> Imported:
    try:
        root = _parse(files.read(file))
    except (MissingFile, etree.XMLSyntaxError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        return Imported(_image("", file, folders), file, problems=[("malformed annotation", f"{file}: {reason}")])
    row = Imported(_image((root.findtext("filename") or "").strip(), file, folders), file)
    row.width, row.height = _pixels(root.findtext("size/width"), row), _pixels(root.findtext("size/height"), row)
    row.boxes = []
    for element in root.findall("object"):
        try:
            row.boxes.append(_box(element, f"{file}:{element.sourceline}"))
        except ValueError as error:
            row.problems.append(("malformed box", f"{error} at {file}:{element.sourceline}"))
    return row


def _parse(data: bytes) -> etree._Element:
    """The root element, in plain text: nothing is fetched, and what an entity stands for is not guessed at."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
    root = etree.fromstring(data, parser)
    if root.tag != "annotation":
        raise ValueError(f"its outermost element is {root.tag}, not annotation")
    entity = next(root.iter(etree.Entity), None)
    if entity is not None:
        raise ValueError(f"it uses the entity {entity.text}")
    return root


def _image(filename: str, file: str, folders: Folders) -> str:
    """The image that `filename` names; where there is none of that name, the one named like the XML file.

    Either is looked for below the folder of images where the XML file is below that of annotations, then in it.
    """
    within = PurePosixPath(file).relative_to(folders.annotations or ".").parent
    places = [inside(folders.images, str(within)), folders.images or "."]
    named = [inside(place, filename) for place in places if filename]
    for name in named:
        if name in folders.present:
            return name
    stems = [_stem(name) for name in named] + [inside(place, PurePosixPath(file).stem) for place in places]
    for stem in stems:
        if len(folders.by_stem.get(stem, ())) == 1:
            return folders.by_stem[stem][0]
    return named[-1] if named else stems[0]


def _stem(name: str) -> str:
    """The name without an image's suffix; another suffix, as in `a.b`, belongs to the name."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else name


def _box(element: etree._Element, origin: str) -> ImportedBox:
    """Raises ValueError for an object without a name or without four numbers."""
    name = (element.findtext("name") or "").strip()
    texts = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    if not name:
        raise ValueError("an object without a name")
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        raise ValueError(f"bndbox {texts}") from None
    (x1, x2), (y1, y2) = _edges(x1, x2), _edges(y1, y2)
    return ImportedBox(name, x1, y1, x2, y2, origin)


def _edges(first: float, last: float) -> tuple[float, float]:
    """The outer edges of pixels first to last, counted from 1; swapped ones stay swapped, for clean to see."""
    return (first - 1, last) if first <= last else (first, last - 1)


def _pixels(text: str | None, row: Imported) -> int | None:
    try:
        value = float(text or 0)
    except ValueError:
        return None
    if not 0 <= value <= MAX_SIDE:
        row.problems.append(("malformed annotation", f"a width or height of {text} pixels"))
        return None
    return int(value) or None
