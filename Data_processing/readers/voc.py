"""Pascal VOC: one XML file an image.

Specification: "The PASCAL Visual Object Classes Challenge 2012 Development Kit", section 10. The first pixel is (1, 1)
and a box includes its last pixel, so xmin - 1 and xmax are a box's edges in the record's coordinates.

Beside the folder of annotations: the plain lists train, val, test and trainval in ImageSets/Main and
ImageSets/Segmentation are splits (trainval is train, unless train or val has the image too; Main goes first); the PNG
files in SegmentationClass are masks, whose values mean VOC's 20 classes, or the lines of labelmap.txt from background
on. An image that ImageSets/Segmentation lists is a record even without an XML file. Where no list has an image, folders
called train, val or test state its split. SegmentationObject is not read. A rotation among an object's attributes,
which are CVAT's, turns it about its centre, clockwise by so many degrees.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from posixpath import dirname, splitext

from lxml import etree

from Data_processing.shared.annotation_files import folder_split, parse_xml, read_text
from Data_processing.shared.files import MissingFile, SourceFiles, folder_name, images_below, inside
from Data_processing.shared.image_names import NearNames, find_folder, without_suffix
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.shared.mask_values import NEITHER, Names, entries, named, survey
from Data_processing.shared.outlines import turned_box
from Datasets.format.files import visible
from Datasets.format.images import VOID
from Datasets.format.records import is_safe_path
from Datasets.tools.errors import UserError

IMAGES, MASKS = "JPEGImages", "SegmentationClass"
LISTS = ("train", "val", "test", "trainval")
CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
)


@dataclass(frozen=True)
class Layout:
    """The images, and what describes them, by an image's name without suffix: XML files, lists that name it, masks."""

    folder: str
    images: NearNames
    described: Mapping[str, str]
    lists: Mapping[str, Sequence[str]]
    masks: Mapping[str, str]
    mask_names: Names


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The XML files of a folder, by default VOC's own, and the lists in ImageSets/Segmentation.

    Raises UserError naming the folders that hold XML files where there are neither.
    """
    folder = _annotations(options)
    names = [*visible(files.names(), {".xml"}, folder), *_list_files(files, dirname(folder), "Segmentation").values()]
    if not names:
        folders = sorted({dirname(name) or "." for name in visible(files.names(), {".xml"})})
        raise UserError(
            f"{files.path}: no XML files in the folder {folder or '.'}, nor train, val, test or trainval.txt in "
            f"{inside(dirname(folder), 'ImageSets/Segmentation')}; folders that have XML files: "
            f"{', '.join(folders[:5]) or 'none'}; set `annotations`"
        )
    return names


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, VOC's own, or as the names suggest) and the records."""
    annotations = _annotations(options)
    root = dirname(annotations)
    described = _by_key(visible(found, {".xml"}, annotations), annotations)
    masks = _by_key(visible(files.names(), {".png"}, inside(root, MASKS)), inside(root, MASKS))
    near = NearNames(described)
    masks = {key if key in described else near.only(key) or key: file for key, file in masks.items()}
    if options.images is None and any(images_below(files, inside(root, IMAGES))):
        options = replace(options, images=inside(root, IMAGES))
    folder = find_folder(files, options, annotations, described)
    lists = _read_lists(files, root, {*masks, *described})
    names = _read_label_map(files, root, list(masks.values())) if masks else {}
    layout = Layout(folder, NearNames(images_below(files, folder)), described, lists, masks, names)
    return folder, _records(files, layout)


def _annotations(options: ImportOptions) -> str:
    return folder_name(options.annotations or "Annotations")


def _by_key(names: Iterator[str], folder: str) -> dict[str, str]:
    """Files of a folder by their names in it, without suffix, as lists have them."""
    return {splitext(name.removeprefix(f"{folder}/"))[0]: name for name in names}


def _list_files(files: SourceFiles, root: str, folder: str) -> dict[str, str]:
    """The files in a folder of ImageSets by the lists that they are, in whatever case they are written."""
    lists = {inside(root, f"ImageSets/{folder}/{name}.txt").lower(): name for name in LISTS}
    return {lists[name.lower()]: name for name in files.names() if name.lower() in lists}


def _read_lists(files: SourceFiles, root: str, known: Set[str]) -> dict[str, list[str]]:
    """The lists that name an image, of those whose lines are one word each: others are about one class.

    A line may have the image's suffix, unless an XML file or a mask is `known` by all of it, as that of a.jpg.xml is.
    """
    found: dict[str, list[str]] = defaultdict(list)
    near = NearNames(known)
    for folder in ("Main", "Segmentation"):
        for name, file in _list_files(files, root, folder).items():
            lines = [line.split() for line in read_text(files, file).splitlines() if line.strip()]
            if all(len(words) == 1 for words in lines):
                for (image,) in lines:
                    key = image if image in known else without_suffix(image)
                    found[key if key in known else near.only(key) or key].append(f"{folder}/{name}")
    return found


def _read_label_map(files: SourceFiles, root: str, masks: Sequence[str]) -> Names:
    """What labelmap.txt says, `name:color:parts:actions`: else by their lines; VOC's classes where there is none."""
    file = inside(root, "labelmap.txt")
    if file not in files.names():
        return dict(enumerate(CLASSES.split(), 1))
    lines = [line for line in read_text(files, file).splitlines() if line.strip() and not line.startswith("#")]
    pairs = survey(files, masks)
    if any(value == NEITHER for value, _ in pairs) and (found := named(entries(lines), pairs, VOID)):
        return found  # as masks in colour have no values
    names = [line.partition(":")[0].strip() for line in lines]
    if names[:1] != ["background"] or len(names) > 255:
        raise UserError(f"{files.path}: {file}: begins with {names[:1]}; a mask's 0 must be `background`, 255 no class")
    return dict(enumerate(names[1:], 1))


def _records(files: SourceFiles, layout: Layout) -> Iterator[Imported]:
    for key, file in layout.described.items():
        row = _record(files, file, key, layout)
        _add_lists(row, key, layout)
        yield row
    for key, lists in layout.lists.items():
        segmented = [name for name in lists if name.startswith("Segmentation/")]
        if segmented and key not in layout.described:
            image = _image("", key, layout) if is_safe_path(key) else key  # an absolute path is a problem later
            row = Imported(image, f"ImageSets/{segmented[0]}.txt: {key}")
            _add_lists(row, key, layout)
            yield row


def _add_lists(row: Imported, key: str, layout: Layout) -> None:
    """What lists and masks say of a record."""
    lists = layout.lists.get(key, ())
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
    if key in layout.masks:
        row.mask, row.mask_names = layout.masks[key], layout.mask_names


def _record(files: SourceFiles, file: str, key: str, layout: Layout) -> Imported:
    try:
        root = parse_xml(files.read(file), "annotation")
    except (MissingFile, ValueError) as error:
        return Imported(_image("", key, layout), file, problems=[("malformed annotation", f"{file}: {error}")])
    row = Imported(_image((root.findtext("filename") or "").strip(), key, layout), file)
    row.set_size(root.findtext("size/width"), root.findtext("size/height"))
    objects = ((f"{file}:{element.sourceline}", element) for element in root.iterfind("object"))
    row.add_shapes(objects, lambda element, origin: [_box(element, row, origin)])
    return row


def _image(filename: str, key: str, layout: Layout) -> str:
    """The image that `filename` names, beside the XML file's place or not; else the one named like the XML file."""
    within, _, own = key.rpartition("/")
    named = [inside(within, filename), filename] if filename else []
    sought = (inside(layout.folder, name) for name in [*named, key, own])
    return next(filter(None, map(layout.images.only, sought)), inside(layout.folder, filename or key))


def _box(element: etree._Element, row: Imported, origin: str) -> ImportedBox:
    """Raises ValueError for an object without a name or without four numbers."""
    name = (element.findtext("name") or "").strip()
    stated = {side.tag: side.text or "" for side in element.iterfind("bndbox/*")}  # far sooner than a search for each
    if not name or not stated:
        raise ValueError(f"an object without {'bndbox' if name else 'a name'}")
    x1, y1, x2, y2 = (float(stated.get(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))
    (x1, x2), (y1, y2) = _edges(x1, x2), _edges(y1, y2)
    degrees = 0.0
    with suppress(ValueError):  # what is no number is an attribute of the user's
        degrees = float(element.findtext("attributes/attribute[name='rotation']/value") or 0)
    row.left_out += [part.tag for part in element.iterchildren("polygon", "part")] + ["rotation"] * bool(degrees)
    return turned_box(name, (x1, y1, x2, y2), degrees, origin)


def _edges(first: float, last: float) -> tuple[float, float]:
    """The outer edges of pixels first to last, counted from 1; swapped ones stay swapped, for clean to see."""
    return (first - 1, last) if first <= last else (first, last - 1)
