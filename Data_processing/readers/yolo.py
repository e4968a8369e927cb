"""YOLO: a text file of labels for each image, as Ultralytics reads and most tools write it.

Specification: https://docs.ultralytics.com/datasets/detect/ and /segment/. A line is `class cx cy width height`, or
`class x1 y1 x2 y2 x3 y3 ...`, a polygon; in fractions of the image's size. Label files may be named as in a URL, which
is how Label Studio has them. How they belong to images, and what data.yaml says, is in yolo_dataset.py.

An image that data.yaml lists, without a label file, shows nothing, which is how Ultralytics has it, unless no image of
its split has one: then the split was not annotated. Without data.yaml, class names are the lines of classes.txt or
obj.names (several of the same content are one), and an image without a label file was not annotated. Key points are
left out: only their boxes are read; so is a single number behind a box or polygon, a confidence or a track.
"""

import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import encode
from Data_processing.sources.annotation_files import folder_split, parse_numbers
from Data_processing.sources.files import MissingFile, SourceFiles, inside
from Data_processing.sources.yolo_dataset import (
    YAML_SUFFIXES,
    Dataset,
    Listing,
    label_file,
    list_images,
    read_dataset,
    swap_folder,
)
from Datasets.format.file_names import IMAGE_SUFFIXES, visible
from Datasets.tools.errors import UserError

LABELS = re.compile(r"\s*\d+(\.0+)?([ \t]+-?[\d.]+(e-?\d+)?){4,}[ \t]*(\r?\n|$)")  # the first line of a label file
FAR = 2  # fractions; what reaches somewhat out of its image is clipped later


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The data.yaml, else the file of class names. Raises UserError if there is none, or several to choose from."""
    names = files.names()
    if options.annotations is not None:
        name = inside("", options.annotations)
        if name not in names:
            raise UserError(f"{files.path}: has no file {name}; `annotations` names data.yaml or a file of class names")
        return [name]
    every = list(visible(names, YAML_SUFFIXES))
    named = [name for name in every if PurePosixPath(name).stem == "data"]
    found = named or every or class_files(files, names)
    if not found:
        raise UserError(f"{files.path}: has neither data.yaml nor classes.txt or obj.names, which name the classes")
    if len(found) > 1:
        raise UserError(f"{files.path}: {' and '.join(found[:5])} could name the classes; set `annotations`")
    return found


def class_files(files: SourceFiles, names: Iterable[str]) -> list[str]:
    """The files of class names; of several that say the same, as labelImg writes one into each folder, the first."""
    found = _class_files(names)
    try:
        same = len(found) > 1 and len({files.read(name).strip().replace(b"\r", b"") for name in found}) == 1
    except MissingFile:
        return found
    return found[:1] if same else found


def _class_files(names: Iterable[str]) -> list[str]:
    every = visible(names, {".txt", ".names"})
    return [name for name in every if name.endswith(".names") or name.rpartition("/")[2] == "classes.txt"]


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in and the records. `images`, if given, is where data.yaml's paths begin."""
    dataset = read_dataset(files, found[0], options.images)
    names = files.names()
    listing = list_images(files, dataset, names)
    own = found[0].rpartition("/")[0]
    alike = [] if dataset.splits or class_files(files, names) != found else _class_files(names)
    folder = own if all(name.startswith(f"{own}/") for name in [*listing.split, *alike]) else ""
    if options.images is not None and not dataset.splits:
        folder = options.images
    return folder, _records(files, dataset, names, listing)


def _records(files: SourceFiles, dataset: Dataset, names: Sequence[str], listing: Listing) -> Iterator[Imported]:
    """In the order of the label files, which an archive is quick to read in; then what has none."""
    of_label = defaultdict(list)
    for image in dict.fromkeys([*visible(names, IMAGE_SUFFIXES), *listing.split]):
        of_label[label_file(image)].append(image)
    present, done = set(names), set()
    texts = {*visible(names, {".txt"}), *of_label}
    for file in filter(texts.__contains__, names):
        if file in listing.files or file == dataset.file or file.rpartition("/")[2] == "classes.txt":
            continue
        text, fault = _label_text(files, file)
        if file not in of_label and "/labels/" not in f"/{file}" and not LABELS.match(text):
            continue
        images = of_label.get(file) or (of_label.get(plain) if (plain := unquote(file)) not in present else None)
        for image in images or [f"{swap_folder(file, 'labels', 'images').removesuffix('.txt')}.jpg"]:
            done.add(image)
            row = Imported(image, file, normalized=True, boxes=[], problems=list(fault))
            row.split = _split(image, dataset, listing)
            if dataset.splits and image in present and image not in listing.split:
                row.problems.append(("unlisted image", f"none of train, val and test in {dataset.file} has it"))
            _add_boxes(row, text, file, dataset)
            yield row
    for image in (image for image in listing.split if image not in done):
        boxes: list[ImportedBox] | None = [] if image in listing.negative else None
        yield Imported(image, listing.origin[image], split=listing.split[image], boxes=boxes, normalized=True)
    for split, entry in listing.missing:
        where = f"{files.path}: {dataset.file}: {split}"  # many a program states a split that it did not write
        print(f"warning: {where}: there is no {entry}; left out", file=sys.stderr)


def _label_text(files: SourceFiles, file: str) -> tuple[str, list[tuple[str, str]]]:
    try:
        return files.read(file).decode("utf-8-sig"), []
    except (MissingFile, UnicodeDecodeError) as error:
        return "", [("malformed annotation", f"{file}: {error}")]


def _split(image: str, dataset: Dataset, listing: Listing) -> str | None:
    """As listed; for an image that the source lacks, that of its folder; without data.yaml, as folders are called."""
    if image in listing.split:
        return listing.split[image]
    if not dataset.splits:
        return folder_split(image)
    splits = {split for folder, split in listing.folders if image.startswith(folder)}
    return splits.pop() if len(splits) == 1 else None


def _add_boxes(row: Imported, text: str, file: str, dataset: Dataset) -> None:
    assert isinstance(row.boxes, list)
    for number, line in enumerate(text.splitlines(), 1):
        origin = f"{file}:{number}"
        if not (fields := line.split()):
            continue
        try:
            index, *values = parse_numbers(fields)
            name = dataset.names.get(index)  # type: ignore[call-overload]  # 1.0 is the same key as 1
            if name is None:
                row.problems.append(("unknown category", f"class {fields[0]:.80} at {origin}"))
            else:
                row.boxes.append(_box(values, name, origin, dataset.keypoints))
        except ValueError as error:
            row.problems.append(("malformed box", f"{error!s:.200} at {origin}"))


def _box(values: list[float], name: str, origin: str, keypoints: int) -> ImportedBox:
    """The box of a line's numbers after the class. Raises ValueError."""
    if not all(map(math.isfinite, values)):
        raise ValueError("a coordinate that is no number")
    if 4 <= len(values) - keypoints <= 5:
        x, y, width, height = _fractions(values[:4])
        return ImportedBox(name, x - width / 2, y - height / 2, x + width / 2, y + height / 2, origin)
    if keypoints or len(values) < 6:
        raise ValueError(f"{len(values)} numbers after the class: neither a box's 4 nor a polygon's 6, 8, ...")
    values = _fractions(values[: len(values) // 2 * 2])
    xs, ys = values[0::2], values[1::2]
    return ImportedBox(name, min(xs), min(ys), max(xs), max(ys), origin, outline=encode([values]))


def _fractions(values: list[float]) -> list[float]:
    """The same. Raises ValueError for what cannot be meant: pixels, or how visible a key point is."""
    if max(map(abs, values)) >= FAR:
        raise ValueError(f"{max(values, key=abs):g} is no fraction of the image's size")
    return values
