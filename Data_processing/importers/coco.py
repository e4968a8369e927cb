"""COCO object detection: one JSON file of images, annotations and categories.

Specification: https://cocodataset.org/#format-data. A box is [x, y, width, height] in pixels, 0 at the outer edge of
the first pixel; segmentations are polygons, or run lengths in either of COCO's two forms. `file_name` is relative to a
folder that the file does not name.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import msgspec
from pycocotools import mask as coco_mask

from Data_processing.imported import Imported
from Data_processing.source_files import SourceFiles
from Datasets.errors import UserError
from Datasets.records import Box, Rle, empty_record

Id = int | str


class Image(msgspec.Struct, gc=False):
    """An entry of `images`."""

    id: Id
    file_name: str
    width: float | None = None
    height: float | None = None


class Annotation(msgspec.Struct, gc=False):
    """An entry of `annotations`; segmentation is read only when it is used."""

    image_id: Id
    category_id: Id
    id: Id | None = None
    bbox: list[float] | None = None
    iscrowd: int | bool = 0
    segmentation: Any = None


class Category(msgspec.Struct, gc=False):
    """An entry of `categories`."""

    id: Id
    name: str


class Coco(msgspec.Struct, gc=False):
    """The parts of the file that are used."""

    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation]


def find(files: SourceFiles, annotations: str | None) -> list[str]:
    """The annotation file: the one named, or the only .json. Raises UserError if that leaves none or several."""
    names = [name for name in files.names() if name.endswith(".json") and not name.startswith("__MACOSX/")]
    if annotations is not None:
        if annotations not in names:
            raise UserError(f"{files.path}: has no file {annotations}; JSON files in it: {', '.join(names) or 'none'}")
        return [annotations]
    if len(names) != 1:
        raise UserError(f"{files.path}: holds {len(names)} JSON files ({', '.join(names[:5])}); set `annotations`")
    return names


def read(files: SourceFiles, found: list[str], images: str | None, source: str) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (`images`, or as the source's files suggest) and its records."""
    coco = _parse(files, found[0])
    folder = images if images is not None else _guess_folder(files, [image.file_name for image in coco.images])
    return folder, _records(coco, found[0], folder, source)


def _parse(files: SourceFiles, name: str) -> Coco:
    try:
        return msgspec.json.decode(files.read(name), type=Coco)
    except msgspec.ValidationError as error:
        raise UserError(f"{files.path}: {name}: no COCO annotations: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{files.path}: {name}: not JSON: {error}; was the file cut off?") from error


def _guess_folder(files: SourceFiles, file_names: list[str]) -> str:
    """The folder below which most of the first images lie; "" if the source holds no images."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for name in file_names[:100]:
        wanted[name.rpartition("/")[2]].append(name)
    votes: Counter[str] = Counter()
    for path in files.names():
        for name in wanted.get(path.rpartition("/")[2], ()):
            if path == name or path.endswith(f"/{name}"):
                votes[path.removesuffix(name).rstrip("/")] += 1
    best = votes.most_common(2)
    if len(best) == 2 and best[0][1] == best[1][1]:
        raise UserError(f"{files.path}: images lie in {best[0][0]!r} and in {best[1][0]!r} alike; set `images`")
    return best[0][0] if best else ""


def _records(coco: Coco, file: str, folder: str, source: str) -> Iterator[Imported]:
    names = {category.id: category.name for category in coco.categories}
    of_image: dict[Id, list[tuple[int, Annotation]]] = defaultdict(list)
    for number, annotation in enumerate(coco.annotations):
        of_image[annotation.image_id].append((number, annotation))
    for image in coco.images:
        path = str(PurePosixPath(folder, image.file_name))
        row = Imported(empty_record(path, source), f"{file}: image {image.id}")
        row.record["width"], row.record["height"] = _pixels(image.width), _pixels(image.height)
        _add_boxes(row, of_image.pop(image.id, ()), names, file)
        yield row
    for image_id, orphans in of_image.items():
        origin = f"{file}: annotation {_name(*orphans[0])}"
        problem = ("unlisted image", f"image_id {image_id} in {len(orphans)} annotations")
        yield Imported(empty_record(f"image_id {image_id}", source), origin, problems=[problem])


def _add_boxes(row: Imported, annotations: Iterable[tuple[int, Annotation]], names: dict[Id, str], file: str) -> None:
    boxes: list[Box] = []
    for number, annotation in annotations:
        origin = f"{file}: annotation {_name(number, annotation)}"
        if annotation.category_id not in names:
            row.problems.append(("unknown category", f"category_id {annotation.category_id} of {origin}"))
        elif annotation.bbox is None or len(annotation.bbox) != 4:
            row.problems.append(("malformed box", f"bbox {annotation.bbox} of {origin}"))
        else:
            x, y, width, height = annotation.bbox
            try:
                rle = _rle(annotation.segmentation, row.record["width"], row.record["height"])
            except (TypeError, ValueError, KeyError, AttributeError, UnicodeEncodeError):
                row.problems.append(("malformed segmentation", f"segmentation of {origin}"))
                continue
            name, crowd = names[annotation.category_id], bool(annotation.iscrowd)
            boxes.append(Box(name=name, x1=x, y1=y, x2=x + width, y2=y + height, crowd=crowd, segmentation=rle))
            row.box_origins.append(origin)
    row.record["boxes"] = boxes


def _rle(segmentation: Any, width: int | None, height: int | None) -> Rle | None:
    """A COCO segmentation (polygons, or run lengths of either form) as compressed run lengths."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not (polygons and width and height):
            return None
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, *segmentation["size"])
    else:
        rle = {"size": segmentation["size"], "counts": segmentation["counts"].encode("ascii")}
    return Rle(size=[int(side) for side in rle["size"]], counts=rle["counts"].decode("ascii"))


def _pixels(value: float | None) -> int | None:
    return int(value) if value and value > 0 else None


def _name(number: int, annotation: Annotation) -> str:
    return f"number {number + 1}" if annotation.id is None else f"{annotation.id}"
