"""COCO object detection: one JSON file of images, annotations and categories.

Specification: https://cocodataset.org/#format-data. A box is [x, y, width, height] in pixels, 0 at the outer edge of
the first pixel; segmentations are polygons, or run lengths in either of COCO's two forms. `file_name` is relative to a
folder that the file does not name; one that leads out of any, such as a URL, means the image that it ends in. An
annotation with neither box nor segmentation is a label of the whole image; a file without any annotation says nothing
of its images. A box whose annotation states a `rotation` among its `attributes`, which are CVAT's, is turned about its
centre, clockwise by so many degrees. Of LVIS, images are found by `coco_url`; that it draws only some classes in some
images (its `not_exhaustive_category_ids`) is not read.
"""

import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, pairwise

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from Data_processing.shared.imported import BOX_FIELDS, NO_OUTLINE, BoxRows, Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import bounds, encode, turned_box
from Data_processing.sources.annotation_files import (
    ImageFinder,
    ambiguity,
    decode_json,
    guess_folder,
    only_file,
    pixels,
)
from Data_processing.sources.files import SourceFiles, inside
from Datasets.format.file_names import visible
from Datasets.tools.errors import UserError

CHUNK = 32_768
Id = int | float | str  # pandas writes whole numbers as 1.0, which is the same key as 1, VIA some of them as "1"
Names = dict[Id | None, str]


class Image(msgspec.Struct, gc=False):
    """An entry of `images`."""

    id: Id
    file_name: str = ""
    coco_url: str | None = None  # LVIS states nothing else
    width: float | None = None
    height: float | None = None


class Annotation(msgspec.Struct, gc=False):
    """An entry of `annotations`; segmentation stays text, which the clean stage reads."""

    image_id: Id
    category_id: Id | None = None  # which is no category's
    id: Id | None = None
    bbox: list[float] | None = None
    iscrowd: int | bool | None = 0
    segmentation: msgspec.Raw = msgspec.Raw()
    attributes: msgspec.Raw = msgspec.Raw()
    segments_info: msgspec.Raw = msgspec.Raw()  # of the panoptic form


class Attributes(msgspec.Struct):
    """CVAT's own fields of an annotation."""

    rotation: float | None = None


class Category(msgspec.Struct, gc=False):
    """An entry of `categories`."""

    id: Id
    name: str


class Coco(msgspec.Struct, gc=False):
    """The parts of the file that are used."""

    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation]


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The annotation file: the one named, or the only .json. Raises UserError if that leaves none or several."""
    return only_file(files, visible(files.names(), {".json"}), "JSON", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or as the source's files suggest) and the records."""
    coco: Coco = decode_json(files, found[0], Coco, "COCO annotations", strict=False)
    if coco.annotations and len(coco.annotations[0].segments_info):
        raise UserError(
            f"{files.path}: {found[0]}: is COCO's panoptic form, whose objects are pixels of PNG files; deliver the "
            "instances, as panoptic2detection_coco_format.py of panopticapi makes them"
        )
    names = _category_names(coco.categories, f"{files.path}: {found[0]}")
    for image in coco.images:
        image.file_name = image.file_name or image.coco_url or ""
    folder = options.images
    if folder is None:
        folder = guess_folder(files, found[0], (image.file_name for image in coco.images), files.names())
    return folder, _records(coco, names, found[0], folder, ImageFinder(files, options.images))


def _category_names(categories: Iterable[Category], where: str) -> Names:
    names: Names = {}
    for category in categories:
        if names.setdefault(category.id, category.name) != category.name:
            raise UserError(
                f"{where}: category id {category.id} means both {names[category.id]!r} and {category.name!r}; "
                "give each its own id"
            )
    return {_otherwise(number): name for number, name in names.items() if number is not None} | names


def _otherwise(found: Id) -> Id:
    """The text of a number, or the number that a text is; else the same."""
    if isinstance(found, str):
        return int(found) if re.fullmatch("0|[1-9][0-9]{0,17}", found) else found
    return str(int(found) if float(found).is_integer() else found)


def _records(coco: Coco, names: Names, file: str, folder: str, finder: ImageFinder) -> Iterator[Imported]:
    table = Boxes(coco.annotations, names, file)
    uncommon = table.uncommon()
    labels = sum(_is_label(coco.annotations[place]) for place in uncommon)
    drawn = labels < len(coco.annotations)
    ids = Counter(image.id for image in coco.images)
    of_image = _by_image(coco.annotations, ids)
    for image in coco.images:
        row = Imported(inside(folder, image.file_name), f"{file}: image {image.id}")
        if found := finder.by_end_if_outside(image.file_name):
            row.image, row.problems = found[0], ambiguity(image.file_name, found)
        elif not image.file_name:
            row.image, row.problems = row.origin, [("malformed annotation", "an image without file_name")]
        row.width, row.height = pixels(image.width, row), pixels(image.height, row)
        places = of_image.get(image.id, NOWHERE)
        if labels or (uncommon and not uncommon.isdisjoint(places.tolist())):
            annotations = [coco.annotations[place] for place in places.tolist()]
            _add_annotations(row, annotations, names, file, drawn, labels > 0)
        else:
            row.boxes = BoxRows(table, places) if drawn else None  # of no annotations, the file was not annotated
        if ids[image.id] > 1:
            row.problems.insert(0, ("repeated id", f"{ids[image.id]} images have the id {image.id}"))
        yield row
    for image_id, places in of_image.items():
        if image_id not in ids:
            problem = ("unlisted image", f"image_id {image_id} in {len(places)} annotations")
            origin = _origin(file, coco.annotations[places[0]])
            yield Imported(f"image_id {image_id}", origin, problems=[problem])


def _by_image(annotations: Sequence[Annotation], listed: Container[Id]) -> dict[Id, np.ndarray]:
    """The places, int64 [A], of each image's annotations. listed: the ids that images have."""
    ids, images = _numbered([annotation.image_id for annotation in annotations])
    number = max(1, len(images))
    order = np.sort(images.astype(np.int64) * number + np.arange(len(images))) % number  # sooner than a stable argsort
    ends = np.bincount(images, minlength=len(ids)).cumsum().tolist()
    places = {image_id: order[start:end] for image_id, (start, end) in zip(ids, pairwise([0, *ends]), strict=True)}
    for image_id in [image_id for image_id in ids if image_id not in listed]:
        if (other := _otherwise(image_id)) in listed:
            places[other] = np.sort(np.append(places.get(other, NOWHERE), places.pop(image_id)))
    return places


def _numbered(ids: Sequence[Id]) -> tuple[list[Id], np.ndarray]:
    """The distinct ids as they first come, and of which of them each one is, int64 [N]."""
    try:
        encoded = pa.array(ids).dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    except (pa.ArrowException, OverflowError):  # numbers and text, or too large: slower
        numbers = {found: number for number, found in enumerate(dict.fromkeys(ids))}
        return list(numbers), np.fromiter(map(numbers.__getitem__, ids), np.int64, len(ids))


class Boxes:
    """All annotations as a BoxTable: column by column, a fraction of what an object for each box costs.

    The texts of outlines stay where they were read until their boxes are taken.
    """

    def __init__(self, annotations: Sequence[Annotation], names: Names, file: str) -> None:
        self._file = file
        starts = range(0, len(annotations), CHUNK) or [0]  # parts that stay in the processor's cache
        parts = [_columns(annotations[start : start + CHUNK], names) for start in starts]
        self._columns = {name: pa.concat_arrays([part[name] for part in parts]) for name in parts[0]}
        self._ids = _ids(annotations)
        self._outlines = [annotation.segmentation for annotation in annotations]
        self._sizes = np.fromiter(map(len, self._outlines), np.int64, len(annotations))

    def uncommon(self) -> set[int]:
        """The places of annotations that are no upright box of a known class, and are not to be taken."""
        return set(np.flatnonzero(self._columns["name"].is_null()).tolist())

    def take(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """See BoxTable."""
        places = pa.array(rows)
        taken = {name: column.take(places) for name, column in self._columns.items()}
        said = pa.scalar(f"{self._file}: annotation"), self._ids.take(places).cast(pa.string()), pa.scalar(" ")
        taken |= {"origin": pc.binary_join_element_wise(*said), "outline": self._texts(rows)}
        return {name: taken[name].cast(kind) for name, kind in BOX_FIELDS.items()}

    def _texts(self, rows: np.ndarray) -> pa.LargeBinaryArray:
        """Outlines, null where there is nothing; joined at once, as an object for each would double the time."""
        texts, sizes = list(map(self._outlines.__getitem__, rows.tolist())), self._sizes[rows]
        stated = np.ones(len(texts), bool)
        for place in np.flatnonzero(sizes <= max(map(len, NO_OUTLINE))).tolist():
            stated[place] = bytes(texts[place]) not in NO_OUTLINE
        ends = np.append(0, sizes.cumsum())
        buffers = [pa.array(stated).buffers()[1], pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(texts), buffers)


def _columns(annotations: Sequence[Annotation], names: Names) -> dict[str, pa.Array]:
    """Name, corners and crowd; without a name where an annotation is no common box."""
    boxes = [None if len(each.attributes) and _rotation(each) else each.bbox for each in annotations]
    if not all([box is not None and len(box) == 4 for box in boxes]):
        boxes = [box if box is not None and len(box) == 4 else [math.nan] * 4 for box in boxes]
    numbers = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))  # type: ignore[arg-type]
    x, y, width, height = numbers.reshape(-1, 4).T
    classes = pa.array([names.get(annotation.category_id) for annotation in annotations], pa.large_string())
    corners = {"x1": x, "y1": y, "x2": x + width, "y2": y + height}
    return {
        "name": pc.if_else(pc.is_nan(x), None, classes),
        **{name: pa.array(values) for name, values in corners.items()},
        "crowd": pa.array([bool(annotation.iscrowd) for annotation in annotations], pa.bool_()),
    }


def _ids(annotations: Sequence[Annotation]) -> pa.Array:
    """The ids as messages name them: whole numbers, which they nearly always are, or texts. Sets those that lack."""
    stated = [annotation.id for annotation in annotations]
    if None in stated:
        for number, annotation in enumerate(annotations, 1):
            annotation.id = f"number {number}" if annotation.id is None else annotation.id
        return _ids(annotations)
    try:
        ids = pa.array(stated)
    except (pa.ArrowException, OverflowError):  # numbers and text, or too large
        ids = pa.nulls(0, pa.float64())
    return pa.array(list(map(str, stated)), pa.large_string()) if pa.types.is_floating(ids.type) else ids


def _origin(file: str, annotation: Annotation) -> str:
    return f"{file}: annotation {annotation.id}"


def _add_annotations(
    row: Imported,
    annotations: Iterable[Annotation],
    names: Names,
    file: str,
    drawn: bool,
    labelled: bool,
) -> None:
    """Boxes, if the file has any, and labels of whole images, if it has any."""
    boxes: list[ImportedBox] = []
    labels: list[str] = []
    for annotation in annotations:
        name, origin = names.get(annotation.category_id), _origin(file, annotation)
        if name is None:
            row.problems.append(("unknown category", f"category_id {annotation.category_id} of {origin}"))
        elif _is_label(annotation):
            labels.append(name)
        else:
            try:
                boxes.append(_box(annotation, name, origin))
            except ValueError as error:
                row.problems.append(("malformed box", f"{error} of {origin}"))
    row.boxes = boxes if drawn else None
    row.labels = sorted({*labels, *(box.name for box in boxes)}) if labelled else None


def _box(annotation: Annotation, name: str, origin: str) -> ImportedBox:
    """The box, or the one around the segmentation where there is none. Raises ValueError."""
    segmentation = bytes(annotation.segmentation)
    outline = None if segmentation in NO_OUTLINE else segmentation
    if annotation.bbox is None:
        corners = bounds(segmentation)
        return ImportedBox(name, *corners, origin, bool(annotation.iscrowd), outline)
    if len(annotation.bbox) != 4:
        raise ValueError(f"bbox {annotation.bbox}")
    x, y, width, height = annotation.bbox
    corners = x, y, x + width, y + height
    if degrees := _rotation(annotation):
        outline = encode([turned_box(*corners, degrees)])
        corners = bounds(outline)
    return ImportedBox(name, *corners, origin, bool(annotation.iscrowd), outline)


def _rotation(annotation: Annotation) -> float:
    """Degrees that the box is turned by; 0 where a segmentation says what is meant."""
    if not len(annotation.attributes) or bytes(annotation.segmentation) not in NO_OUTLINE:
        return 0.0
    try:
        return msgspec.json.decode(annotation.attributes, type=Attributes, strict=False).rotation or 0.0
    except msgspec.ValidationError:  # others have attributes of their own
        return 0.0


NOWHERE = np.empty(0, np.int64)


def _is_label(annotation: Annotation) -> bool:
    return annotation.bbox is None and bytes(annotation.segmentation) in NO_OUTLINE
