"""Pascal VOC: one XML file an image.

Specification: "The PASCAL Visual Object Classes Challenge 2012 Development Kit", section 10. The first pixel is (1, 1)
and a box includes its last pixel, so xmin - 1 and xmax are a box's edges in the record's coordinates. `filename` is
relative to the folder of images.

Beside the folder of annotations: the plain lists train, val, test and trainval in ImageSets/Main and
ImageSets/Segmentation are splits (trainval is train, unless train or val has the image too; Main goes first); the PNG
files in SegmentationClass are masks, whose values mean VOC's 20 classes, or the lines of labelmap.txt from background
on. An image that ImageSets/Segmentation lists is a record even without an XML file. Where no list has an image, folders
called train, val or test state its split. SegmentationObject is not read. An object whose attributes, which are CVAT's,
state a rotation is turned about its centre, clockwise by so many degrees.
"""

import posixpath
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from lxml import etree

from Data_processing.shared.annotation_files import folder_split, parse_xml, pixels, read_text
from Data_processing.shared.files import MissingFile, SourceFiles, folder_name, images_below, inside
from Data_processing.shared.image_names import ImageFinder, guess_folder, without_suffix
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import bounds, encode, turned_box
from Datasets.format.files import visible
from Datasets.format.records import is_safe_path
from Datasets.tools.errors import UserError

ANNOTATIONS, IMAGES, MASKS, OBJECTS = "Annotations", "JPEGImages", "SegmentationClass", "SegmentationObject"
LISTS = ("train", "val", "test", "trainval")
CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
)


@dataclass(frozen=True)
class Folders:
    """The folders of annotations and of images, and what stands beside the annotations.

    lists: the lists that name an image, by its name without suffix. masks: those of images, by the same.
    """

    annotations: str
    images: ImageFinder
    lists: Mapping[str, Sequence[str]]
    masks: Mapping[str, str]
    mask_names: Mapping[int, str]


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The XML files of a folder, by default VOC's own, and the lists in ImageSets/Segmentation.

    Raises UserError naming the folders that hold XML files where there are neither.
    """
    folder = _annotations(options)
    present = files.names()
    names = [*visible(present, {".xml"}, folder), *_list_files(files, _root(folder), "Segmentation").values()]
    if not names:
        folders = sorted({str(PurePosixPath(name).parent) for name in visible(present, {".xml"})})
        raise UserError(
            f"{files.path}: no XML files in the folder {folder or '.'}, nor train, val, test or trainval.txt in "
            f"{inside(_root(folder), 'ImageSets/Segmentation')}; folders that have XML files: "
            f"{', '.join(folders[:5]) or 'none'}; set `annotations`"
        )
    return names


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, VOC's own, or as the names suggest) and the records."""
    annotations = _annotations(options)
    root = _root(annotations)
    images = _images_folder(files, found, annotations) if options.images is None else options.images
    folder = inside(root, MASKS)
    masks = {without_suffix(n.removeprefix(f"{folder}/")): n for n in visible(files.names(), {".png"}, folder)}
    names = _read_label_map(files, root) if masks else {}
    if next(visible(files.names(), {".png"}, inside(root, OBJECTS)), None):
        print(f"warning: {files.path}: {OBJECTS} is not read: boxes have no segmentations", file=sys.stderr)
    known = {*masks, *(name.removeprefix(f"{annotations}/").removesuffix(".xml") for name in found)}
    lists = _read_lists(files, root, known)
    folders = Folders(annotations, ImageFinder(files, images), lists, masks, names)
    return images, _records(files, found, folders)


def _images_folder(files: SourceFiles, found: Sequence[str], annotations: str) -> str:
    """VOC's own folder, if it has images, else the one that holds images called as the XML files. Raises UserError."""
    own = inside(_root(annotations), IMAGES)
    if any(images_below(files, own)):
        return own
    keys = (posixpath.splitext(name.removeprefix(f"{annotations}/"))[0] for name in found)
    images = (name for name in images_below(files, "") if not {MASKS, OBJECTS}.intersection(name.split("/")))
    return guess_folder(files, annotations, keys, map(without_suffix, images))


def _annotations(options: ImportOptions) -> str:
    return ANNOTATIONS if options.annotations is None else folder_name(options.annotations)


def _root(annotations: str) -> str:
    return folder_name(str(PurePosixPath(annotations).parent))


def _list_files(files: SourceFiles, root: str, folder: str) -> dict[str, str]:
    """The files in a folder of ImageSets by the lists that they are, in whatever case the list is written."""
    below = f"{inside(root, f'ImageSets/{folder}')}/"
    there = (name for name in files.names() if name.startswith(below))  # train.txt after Train.txt: it is meant
    called = {name.removeprefix(below).lower(): name for name in there}
    return {name: called[f"{name}.txt"] for name in LISTS if f"{name}.txt" in called}


def _read_lists(files: SourceFiles, root: str, known: Set[str]) -> dict[str, list[str]]:
    """The lists that name an image, of those whose lines are one word each: others are about one class.

    A line may have the image's suffix, unless an XML file or a mask is `known` by all of it, as that of a.jpg.xml is.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for folder in ("Main", "Segmentation"):
        for name, file in _list_files(files, root, folder).items():
            lines = [line.split() for line in read_text(files, file).splitlines() if line.strip()]
            if all(len(words) == 1 for words in lines):
                for image in (words[0] for words in lines):
                    found[image if image in known else without_suffix(image)].append(f"{folder}/{name}")
    return found


def _read_label_map(files: SourceFiles, root: str) -> dict[int, str]:
    """The lines of labelmap.txt, `name:color:parts:actions` from background on; VOC's classes where it is not there."""
    file = inside(root, "labelmap.txt")
    if file not in files.names():
        return dict(enumerate(CLASSES.split(), 1))
    lines = read_text(files, file).splitlines()
    names = [line.partition(":")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
    if names[:1] != ["background"] or len(names) > 255:
        raise UserError(f"{files.path}: {file}: begins with {names[:1]}; a mask's 0 must be `background`, 255 no class")
    return dict(enumerate(names[1:], 1))


def _records(files: SourceFiles, found: list[str], folders: Folders) -> Iterator[Imported]:
    described = set()
    for file in found:
        if file.lower().endswith(".xml"):
            key = _key(file, folders)
            described.add(key)
            row = _record(files, file, folders)
            _add_lists(row, key, folders)
            yield row
    for key, lists in folders.lists.items():
        segmented = [name for name in lists if name.startswith("Segmentation/")]
        if segmented and key not in described:
            file = inside(folders.annotations, f"{key}.xml")
            image = _image("", file, folders) if is_safe_path(key) else key  # an absolute path is a problem later
            row = Imported(image, f"ImageSets/{segmented[0]}.txt: {key}")
            _add_lists(row, key, folders)
            yield row


def _key(file: str, folders: Folders) -> str:
    """An XML file's name as lists have it: without suffix, relative to the folder of annotations."""
    return posixpath.splitext(file.removeprefix(f"{folders.annotations}/"))[0]


def _add_lists(row: Imported, key: str, folders: Folders) -> None:
    """What lists and masks say of a record."""
    lists = folders.lists.get(key, ())
    main = [name for name in lists if name.startswith("Main/")]
    splits = {name.rpartition("/")[2] for name in main or lists}
    if splits & {"train", "val"}:
        splits.discard("trainval")
    if len(splits) > 1:
        row.problems.append(("malformed annotation", f"{key} is in the lists {', '.join(sorted(splits))}"))
    elif splits:
        row.split = splits.pop().replace("trainval", "train")
    else:
        row.split = folder_split(row.image)
    if key in folders.masks:
        row.mask, row.mask_names = folders.masks[key], folders.mask_names


def _record(files: SourceFiles, file: str, folders: Folders) -> Imported:
    try:
        root = parse_xml(files.read(file), "annotation")
    except (MissingFile, ValueError) as error:
        return Imported(_image("", file, folders), file, problems=[("malformed annotation", f"{file}: {error}")])
    row = Imported(_image((root.findtext("filename") or "").strip(), file, folders), file)
    row.width, row.height = pixels(root.findtext("size/width"), row), pixels(root.findtext("size/height"), row)
    row.boxes = []
    for element in root.findall("object"):
        try:
            row.boxes.append(_box(element, f"{file}:{element.sourceline}"))
        except ValueError as error:
            row.problems.append(("malformed box", f"{error} at {file}:{element.sourceline}"))
    return row


def _image(filename: str, file: str, folders: Folders) -> str:
    """The image that `filename` names; where there is none of that name, the one named like the XML file.

    Either is looked for below the folder of images where the XML file is below that of annotations, then in it.
    """
    key = _key(file, folders)
    within, _, own = key.rpartition("/")
    named = [*([inside(within, filename)] if within else []), filename] if filename else []
    for name in [*named, *map(without_suffix, named), key, own]:
        found = folders.images.find(name)
        if len(found) == 1:
            return found[0]
    return inside(folders.images.folder or "", named[-1] if named else key)


def _box(element: etree._Element, origin: str) -> ImportedBox:
    """Raises ValueError for an object without a name or without four numbers."""
    name = (element.findtext("name") or "").strip()
    stated = {side.tag: side.text or "" for side in element.iterfind("bndbox/*")}  # far sooner than a search for each
    texts = [stated.get(key) for key in ("xmin", "ymin", "xmax", "ymax")]
    if not name:
        raise ValueError("an object without a name")
    if not stated:
        raise ValueError(f"{name}: an object without bndbox")
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        raise ValueError(f"bndbox {texts}") from None
    (x1, x2), (y1, y2) = _edges(x1, x2), _edges(y1, y2)
    degrees = _rotation(element)
    if degrees:
        outline = encode([turned_box(x1, y1, x2, y2, degrees)])
        return ImportedBox(name, *bounds(outline), origin, outline=outline)
    return ImportedBox(name, x1, y1, x2, y2, origin)


def _rotation(element: etree._Element) -> float:
    for attribute in element.iterfind("attributes/attribute"):
        if attribute.findtext("name") == "rotation":
            with suppress(ValueError):  # what is no number is an attribute of the user's
                return float(attribute.findtext("value") or "")
    return 0.0


def _edges(first: float, last: float) -> tuple[float, float]:
    """The outer edges of pixels first to last, counted from 1; swapped ones stay swapped, for clean to see."""
    return (first - 1, last) if first <= last else (first, last - 1)
