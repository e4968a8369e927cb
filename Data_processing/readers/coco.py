"""COCO object detection: one JSON file of images, annotations and categories.

Specification: https://cocodataset.org/#format-data. A box is [x, y, width, height] in pixels, 0 at the outer edge of
the first pixel. `file_name` is relative to a folder that the file does not name; one that leads out of any, such as a
URL, means the image that it ends in; in LVIS, `coco_url` stands for it. An annotation with neither box nor segmentation
is a label of the whole image; a file without any annotation says nothing of its images. A `rotation` among an
annotation's `attributes`, which are CVAT's, turns the box about its centre, clockwise by so many degrees. Key points
are left out. With the option `normalized`, boxes and segmentations are in fractions, as Azure writes them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from Data_processing.shared.annotation_files import decode_json, only_one
from Data_processing.shared.files import SourceFiles, inside
from Data_processing.shared.image_names import find_folder
from Data_processing.shared.imported import UNUSABLE, Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import outlined, turned_box
from Datasets.tools.errors import UserError

NO_OUTLINE = {b"", b"null", b"[]", b"[[]]", b"{}"}
Id = int | float | str  # pandas writes whole numbers as 1.0, VIA some of them as "1"
find = only_one


class Image(msgspec.Struct, gc=False):
    """An entry of `images`; what is wrong with a value costs one record, so each is checked where it is used."""

    id: Any = None
    file_name: Any = None
    coco_url: Any = None  # LVIS states nothing else
    width: Any = None
    height: Any = None


class Annotation(msgspec.Struct, gc=False):
    """An entry of `annotations`; segmentation stays text, which the clean stage reads."""

    image_id: Any = None
    category_id: Any = None
    id: Any = None
    bbox: Any = None
    iscrowd: Any = None
    segmentation: msgspec.Raw = msgspec.Raw()
    attributes: Any = None
    segments_info: msgspec.Raw = msgspec.Raw()  # of the panoptic form
    keypoints: msgspec.Raw = msgspec.Raw()


class Category(msgspec.Struct, gc=False):
    """An entry of `categories`."""

    id: Id
    name: str


class Coco(msgspec.Struct, gc=False):
    """The parts of the file that are used."""

    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation]


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or as the source's files suggest) and the records."""
    coco: Coco = decode_json(files, found[0], Coco, "COCO annotations", strict=False)
    if coco.annotations and len(coco.annotations[0].segments_info):
        remedy = "provide the instances, as panopticapi's panoptic2detection_coco_format.py makes them"
        raise UserError(f"{files.path}: {found[0]}: is COCO's panoptic form, whose objects are in PNG files; {remedy}")
    names: dict[Id | None, str] = {}
    for category in coco.categories:
        known = names.setdefault(_key(category.id), category.name)
        if known != category.name:
            clash = f"category id {category.id} means both {known!r} and {category.name!r}; give each its own id"
            raise UserError(f"{files.path}: {found[0]}: {clash}")
    for image in coco.images:
        stated = image.file_name or image.coco_url
        image.file_name = stated if isinstance(stated, str) else ""
    folder = find_folder(files, options, found[0], (image.file_name for image in coco.images))
    return folder, _records(coco, names, found[0], folder, bool(options.normalized))


def _key(found: Any) -> Id | None:
    """An id to compare by: the number that a text is; 1.0 equals 1 anyhow. None for what is no id."""
    if isinstance(found, str):
        return int(found) if re.fullmatch("0|[1-9][0-9]{0,17}", found) else found
    return found if type(found) in (int, float) else None


def _records(coco: Coco, names: dict[Id | None, str], file: str, folder: str, normalized: bool) -> Iterator[Imported]:
    of_image: dict[Id | None, list[Annotation]] = defaultdict(list)
    for number, annotation in enumerate(coco.annotations, 1):
        if annotation.id is None:
            annotation.id = f"number {number}"
        of_image[_key(annotation.image_id)].append(annotation)
    labels = sum(annotation.bbox is None and _is_label(annotation) for annotation in coco.annotations)
    ids = Counter(_key(image.id) for image in coco.images)
    for image in coco.images:
        row = Imported(inside(folder, image.file_name), f"{file}: image {image.id}", normalized=normalized)
        if _key(image.id) is None:
            row.problems.append(("malformed annotation", f"an image with the id {image.id!s:.80}"))
        if ids[_key(image.id)] > 1:
            row.problems.append(("repeated id", f"{ids[_key(image.id)]} images have the id {image.id}"))
        if not image.file_name:
            row.image = row.origin
            row.problems.append(("malformed annotation", "an image without file_name"))
        row.set_size(image.width, image.height)
        boxes, named = _boxes_and_labels(row, of_image.get(_key(image.id), ()), names, file)
        row.boxes = boxes if labels < len(coco.annotations) else None
        row.labels = sorted({*named, *(box.name for box in boxes)}) if labels else None
        yield row
    for key in (key for key in of_image if key not in ids):
        problem = ("unlisted image", f"image_id {key} in {len(of_image[key])} annotations")
        origin = f"{file}: annotation {of_image[key][0].id}"
        yield Imported(f"image_id {key}", origin, normalized=normalized, problems=[problem])


def _boxes_and_labels(
    row: Imported, annotations: Iterable[Annotation], names: dict[Id | None, str], file: str
) -> tuple[list[ImportedBox], list[str]]:
    boxes: list[ImportedBox] = []
    labels: list[str] = []
    for annotation in annotations:
        name, origin = names.get(_key(annotation.category_id)), f"{file}: annotation {annotation.id}"
        if name is None:
            row.problems.append(("unknown category", f"category_id {annotation.category_id!s:.80} of {origin}"))
        elif annotation.bbox is None and _is_label(annotation):
            labels.append(name)
        else:
            try:
                boxes.append(_box(annotation, name, origin))
                row.left_out += ["key point group"] * (len(annotation.keypoints) > len("null"))
                row.left_out += ["rotation"] * (boxes[-1].outline is not None and _is_label(annotation))
            except UNUSABLE as error:
                row.problems.append(("malformed box", f"{error} of {origin}"))
    return boxes, labels


def _is_label(annotation: Annotation) -> bool:
    """Whether an annotation without box is about the whole image."""
    return bytes(annotation.segmentation) in NO_OUTLINE


def _box(annotation: Annotation, name: str, origin: str) -> ImportedBox:
    """The box, or the one around the segmentation where there is none. Raises one of UNUSABLE."""
    segmentation, crowd = bytes(annotation.segmentation), annotation.iscrowd in (1, "1")
    outline = None if len(segmentation) < 5 and segmentation in NO_OUTLINE else segmentation
    if annotation.bbox is None:
        return outlined(name, segmentation, origin, crowd)
    if not isinstance(annotation.bbox, list) or len(annotation.bbox) != 4:
        raise ValueError(f"bbox {annotation.bbox!s:.80}")
    x, y, width, height = map(float, annotation.bbox)
    if outline is None and isinstance(annotation.attributes, dict):
        degrees = annotation.attributes.get("rotation")  # of CVAT; others have attributes of their own
        turn = degrees if isinstance(degrees, int | float) else 0
        return turned_box(name, (x, y, x + width, y + height), turn, origin, crowd)
    return ImportedBox(name, x, y, x + width, y + height, origin, crowd, outline)
