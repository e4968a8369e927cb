"""YOLO: a text file of labels for each image, as Ultralytics reads and most tools write it.

Specification: https://docs.ultralytics.com/datasets/detect/ and /segment/; _yolo_lines.py has the forms of a line. The
labels of `images/a.jpg` are in `labels/a.txt` (the last folder of that name counts), or beside the image where no
folder is called images, or in the only file whose name is nearly that. Key points, confidences and tracks are left out.

data.yaml names the classes and, as train, val and test, folders or .txt files of image paths; of a path that is not
there, any end counts. An image that two splits list gets none; one without a label file shows nothing, unless no image
of its split has one, or a label file there belongs to no image. Without data.yaml, class names are the lines of
classes.txt or obj.names, and an image without a label file was not annotated.

Keras programs have one text file of lines `IMAGE x1,y1,x2,y2,CLASS x1,y1,...` in pixels: an `_annotations.txt` that
Roboflow exports, or the one named. A file called ...classes.txt names the classes, or `classes`.
"""

import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile
from posixpath import basename, dirname, join, normpath, splitext
from typing import Any

from Data_processing.readers._yolo_lines import Form, box_of, form_of
from Data_processing.shared.annotation_files import folder_split, only_file, parse_yaml, read_text, split_named
from Data_processing.shared.files import MissingFile, SourceFiles
from Data_processing.shared.image_names import NearNames, folders_of, may_share, row_namer
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions
from Datasets.format.files import IMAGE_SUFFIXES, visible
from Datasets.tools.errors import UserError

YAML_SUFFIXES = {".yaml", ".yml"}
LABELS = re.compile(r"\s*\d+(\.0+)?([ \t]+-?[\d.]+(e-?\d+)?){4,}[ \t]*(\r?\n|$)")  # the first line of a label file
CORNERS = re.compile(r"-?\d[\d.]*(,-?\d[\d.]*){4}")  # and the class
KERAS_FILE = "_annotations.txt"
KERAS = re.compile(rf"(?m)^\S.* {CORNERS.pattern}[ \t]*\r?$")
SAMPLE = 2000  # label files whose lines tell the form of all


@dataclass
class Dataset:
    """What data.yaml, or a file of class names, says.

    keypoints: numbers behind each box. splits: pairs of a split and a path; bases: folders that paths may be relative
    to. listed: images, as records without label files. lists: .txt files of images. missing: what is not there. nearly:
    label files, by images, whose names are only nearly right.
    """

    file: str
    names: dict[int, str]
    keypoints: int | None = None
    splits: Sequence[tuple[str, str]] = ()
    bases: Sequence[str] = ()
    listed: dict[str, Imported] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    nearly: dict[str, str] = field(default_factory=dict)

    def label_file(self, image: str) -> str:
        return self.nearly.get(image) or label_file(image)


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The data.yaml, else the file of class names. Raises UserError if there is none, or several to choose from."""
    every = list(visible(files.names(), YAML_SUFFIXES))
    keras = [name for name in visible(files.names(), {".txt"}) if basename(name) == KERAS_FILE]
    if keras and not every and options.annotations is None:
        return keras
    found = [name for name in every if splitext(basename(name))[0] == "data"] or every
    found = found or class_files(files, files.names())
    if options.annotations is None and not found:
        raise UserError(f"{files.path}: has neither data.yaml nor classes.txt or obj.names, which name the classes")
    return only_file(files, found, "YAML or class name", options)


def class_files(files: SourceFiles, names: Iterable[str]) -> list[str]:
    """The files of class names; of several that say the same, as labelImg writes one into each folder, the first."""
    every = visible(names, {".txt", ".names", ".labels"})
    found = [name for name in every if name.endswith((".names", ".labels")) or name.endswith("classes.txt")]
    same = len({" ".join(_label_text(files, name)[0].split()) for name in found}) == 1
    return found[:1] if same else found


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in and the records. `images`, if given, is where data.yaml's paths begin."""
    if found[0].endswith(".txt") and (basename(found[0]) == KERAS_FILE or KERAS.search(read_text(files, found[0]))):
        return options.images or "", chain.from_iterable(_keras_records(files, file, options) for file in found)
    dataset = _read_dataset(files, found[0], options.images)
    dataset.nearly = _nearly_named(files)
    _list_images(files, dataset)
    folder, own = options.images or "", dirname(found[0])
    if dataset.splits:
        folder = own if all(image.startswith(f"{own}/") for image in dataset.listed) else ""
    return folder, _records(files, dataset, options)


def _read_dataset(files: SourceFiles, file: str, images: str | None) -> Dataset:
    """What a file says. images: where the paths in it begin, if known. Raises UserError if it makes no sense."""
    text, where = read_text(files, file), f"{files.path}: {file}"
    if splitext(file)[1].lower() not in YAML_SUFFIXES:
        names = {number: line.strip() for number, line in enumerate(text.splitlines()) if line.strip()}
        if not names:
            raise UserError(f"{where}: names no class; it has a class name a line")
        return Dataset(file, names)
    data = parse_yaml(text, where)
    data = data if isinstance(data, dict) else {}
    stated = [(split_named(str(key)), value) for key, value in data.items() if value is not None]
    splits = [(s, path) for s, value in stated if s for path in (value if isinstance(value, list) else [value])]
    if not splits:
        raise UserError(f"{where}: no data.yaml: has none of train, val and test, which name folders of images")
    for split, path in splits:
        if not isinstance(path, str) or not path.strip():
            raise UserError(f"{where}: {split}: {path!r:.80} is no path of a folder or of a .txt file")
    bases = [join(dirname(file), _posix(str(data.get("path") or ""))), dirname(file), ""]
    shape: Any = data.get("kpt_shape")
    counted = isinstance(shape, list) and shape and all(type(number) is int and number >= 0 for number in shape)
    keypoints = math.prod(shape) if counted else None
    return Dataset(file, _class_names(data, where), keypoints, splits, bases if images is None else [images])


def _class_names(data: dict[Any, Any], where: str) -> dict[int, str]:
    names = data.get("names")
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if not numbered or not isinstance(numbered, dict):
        raise UserError(f"{where}: has no `names`, a list of class names")
    found: dict[int, str] = {}
    for number, name in numbered.items():
        if not re.fullmatch(r"\d{1,9}", str(number)):
            raise UserError(f"{where}: names: {number!r:.80} is no class number")
        if not isinstance(name, str | int | float) or isinstance(name, bool) or not str(name).strip():
            raise UserError(f"{where}: names: {name!r:.80} is no class name; put it into quotes")
        found[int(number)] = str(name).strip()
    if type(data.get("nc")) is int and data["nc"] != len(found):
        raise UserError(f"{where}: nc is {data['nc']}, but names has {len(found)} classes; correct one of them")
    return found


def _list_images(files: SourceFiles, dataset: Dataset) -> None:
    """Add what train, val and test list. Raises UserError if nothing of it is in the source, or nothing has labels."""
    present, images_there = set(files.names()), list(visible(files.names(), IMAGE_SUFFIXES))
    near, near_folder = NearNames(images_there), NearNames(_folders(images_there))
    known, annotated = present | _folders(present), False

    def image_of(path: str, list_file: str) -> str:
        sought = list(_places(path, [dirname(list_file), *dataset.bases]))
        return next(filter(present.__contains__, sought), None) or near.only(sought[0]) or sought[0]

    for split, path in dataset.splits:
        sought = list(_places(path, dataset.bases))
        place = next(filter(known.__contains__, sought), near_folder.only(sought[0]))
        if place is None:
            dataset.missing.append(f"{split}: there is no {path}")
            continue
        if place in present:
            dataset.lists.add(place)
            lines = enumerate(read_text(files, place).splitlines(), 1)
            images = {image_of(line, place): f"{place}:{number}" for number, line in lines if line.strip()}
        else:
            images = {name: name for name in visible(files.names(), IMAGE_SUFFIXES, place)}
        labelled = any(dataset.label_file(image) in present for image in images)
        annotated |= labelled
        for image, origin in images.items():
            row = dataset.listed.setdefault(image, Imported(image, origin, split=split, normalized=True))
            row.split = split if row.split == split else None
            row.boxes = [] if labelled else row.boxes
    if dataset.splits and len(dataset.missing) == len(dataset.splits):
        raise UserError(
            f"{files.path}: {dataset.file}: there is no {dataset.splits[0][1]!r} in the source; set `images`"
        )
    if dataset.listed and not annotated:
        image = next(iter(dataset.listed))
        raise UserError(f"{files.path}: no image has a label file; that of {image} would be {label_file(image)}")


def _folders(names: Iterable[str]) -> set[str]:
    """All folders of these files, and those that their images would be in."""
    own = {dirname(name) for name in names}
    each = [*own, *(dirname(_swap_folder(f"{folder}/", "labels", "images")) for folder in own)]
    return {"", *("/".join(path.split("/")[:count]) for path in each for count in range(1, path.count("/") + 2))}


def _posix(path: str) -> str:
    """A path of any system, with / between its parts and without a drive."""
    return re.sub(r"^[A-Za-z]:(?=/)", "", path.strip().replace("\\", "/"))


def _places(path: str, bases: Sequence[str]) -> Iterator[str]:
    """Where a path may lead from each base, without steps out of the source; then where ever shorter ends of it do."""
    wholes = [normpath(join(base, _posix(path))).split("/") for base in bases]
    every = [[part for part in parts if part not in ("", ".", "..")] for parts in wholes]
    yield from map("/".join, every)
    for start in range(1, len(every[-1])):
        yield from (normpath(join(base, *every[-1][start:])) for base in bases)


def _swap_folder(path: str, old: str, new: str) -> str:
    """The path with the last folder called `old` called `new`."""
    before, found, after = f"/{path}".rpartition(f"/{old}/")
    return f"{before}/{new}/{after}".removeprefix("/") if found else path


def label_file(image: str) -> str:
    """Where the label file of an image would be."""
    return _swap_folder(image, "images", "labels").rpartition(".")[0] + ".txt"


def _image_of(file: str) -> str:
    """The image of a label file, without its suffix."""
    return splitext(_swap_folder(file, "labels", "images"))[0]


def _nearly_named(files: SourceFiles) -> dict[str, str]:
    """Images without a label file, with the only one that nearly has the name."""
    labels, images = list(visible(files.names(), {".txt"})), list(visible(files.names(), IMAGE_SUFFIXES))
    exact, present = set(map(label_file, images)), set(labels)
    near = NearNames(images, {image for image in images if label_file(image) in present})
    found: dict[str, list[str]] = defaultdict(list)
    for file in labels:
        if file not in exact and (image := near.only(_image_of(file))) and _is_label_file(files, file):
            found[image].append(file)
    pairs = {image: same[0] for image, same in found.items() if len(same) == 1}
    files.matched.update((file, image) for image, file in pairs.items())
    return pairs


def _is_label_file(files: SourceFiles, file: str) -> bool:
    return "/labels/" in f"/{file}" or bool(LABELS.match(_label_text(files, file)[0]))


def _records(files: SourceFiles, dataset: Dataset, options: ImportOptions) -> Iterator[Imported]:
    """Those of label files first; then those of listed images that have none."""
    names = files.names()
    of_label = defaultdict(list)
    for image in dict.fromkeys([*visible(names, IMAGE_SUFFIXES), *dataset.listed]):
        of_label[dataset.label_file(image)].append(image)
    present, done, alone = set(names), set(), dict[str, str]()  # label files of no image, one of each folder
    near = NearNames(visible(names, IMAGE_SUFFIXES))
    texts = {*visible(names, {".txt"}), *of_label} - dataset.lists - {dataset.file}
    some = [file for file in names if file in texts and basename(file) != "classes.txt"]
    labels = [file for file in some if file in of_label or _is_label_file(files, file)]
    form = _form(files, labels, dataset)
    for file in labels:
        text, fault = _label_text(files, file)
        if file not in of_label and not options.corrects:  # whose images may be another source's
            fault.append(near.problem(_image_of(file), f"there is no image for the label file {file}"))
            alone |= {dirname(file): file} if text.strip() else {}
        for image in of_label.get(file) or [_image_of(file)]:
            done.add(image)
            row = Imported(image, file, split=folder_split(image), normalized=True, problems=list(fault))
            if image in dataset.listed:
                row.split = dataset.listed[image].split
            elif dataset.splits and image in present:
                row.problems.append(("unlisted image", f"none of train, val and test in {dataset.file} has it"))
            row.boxes = _boxes(row, text, dataset, form)
            yield row
    for row in (row for image, row in dataset.listed.items() if image not in done):
        here = folders_of(row.image)
        if other := next((file for file in alone.values() if may_share(here, folders_of(file))), None):
            row.problems.append(("unmatched labels", f"it has no label file, and {other} no image: is it this one's?"))
        yield row
    for missing in dataset.missing:  # many a program states a split that it did not write
        print(f"warning: {files.path}: {dataset.file}: {missing}; left out", file=sys.stderr)


def _label_text(files: SourceFiles, file: str) -> tuple[str, list[tuple[str, str]]]:
    try:
        return files.read(file).decode("utf-8-sig"), []
    except (MissingFile, UnicodeDecodeError) as error:
        return "", [("malformed annotation", f"{file}: {error}")]


def _keras_records(files: SourceFiles, file: str, options: ImportOptions) -> Iterator[Imported]:
    named = class_files(files, files.names())
    if not options.classes and len(named) != 1:
        remedy = "set `classes` to the names in the order of their numbers (--format yolo --classes NAME ...)"
        raise UserError(f"{files.path}: {file}: {len(named)} files like classes.txt could name the classes; {remedy}")
    names = dict(enumerate(options.classes)) or _read_dataset(files, named[0], None).names
    named_row = row_namer(files, options)

    def box(stated: str, origin: str) -> list[ImportedBox]:
        x1, y1, x2, y2, number = map(float, stated.split(","))
        return [ImportedBox(names[number], x1, y1, x2, y2, origin)]  # type: ignore[index]  # 1.0 is the same key as 1

    for number, line in enumerate(read_text(files, file).splitlines(), 1):
        words = line.split()
        boxes = len(list(takewhile(CORNERS.fullmatch, reversed(words))))
        if words:
            row = named_row(" ".join(words[: len(words) - boxes]), file, f"{file}:{number}")
            row.add_shapes(row.numbered(words[len(words) - boxes :]), box)
            yield row


def _form(files: SourceFiles, labels: Sequence[str], dataset: Dataset) -> Form:
    """What the lines of label files mean. Raises UserError where they do not tell."""
    some = labels[:: 1 + len(labels) // SAMPLE]
    lines = (line.split() for file in some for line in _label_text(files, file)[0].splitlines())
    try:
        return form_of([line for line in lines if line], dataset.keypoints)
    except ValueError as error:
        remedy = "write `kpt_shape: [N, 2]` into data.yaml if there are N key points, `kpt_shape: [0, 2]` if polygons"
        raise UserError(f"{files.path}: {some[0]}: {error}; {remedy}") from error


def _boxes(row: Imported, text: str, dataset: Dataset, form: Form) -> list[ImportedBox]:
    boxes = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (fields := line.split()):
            continue
        origin = f"{row.origin}:{number}"
        try:
            index, *values = map(float, fields)
            name = dataset.names.get(index)  # type: ignore[call-overload]  # 1.0 is the same key as 1
            if name is None:
                row.problems.append(("unknown category", f"class {fields[0]:.80} at {origin}"))
            else:
                boxes.append(box_of(values, name, origin, form))
                row.left_out += ["key point group"] * bool(form.keypoints)
        except ValueError as error:
            row.problems.append(("malformed box", f"{error!s:.200} at {origin}"))
    return boxes
