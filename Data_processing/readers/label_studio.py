"""Label Studio: one JSON file of tasks, exported as `JSON`; JSON-MIN does not tell a choice from other data.

Specification: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks. Positions are percent of
the image's width and height, rotations degrees, clockwise, about the upper left corner, in pixels of `original_width`
and `original_height`. A task's image is a URL, of which the image of the source most like it is meant.

Rectangles, polygons, ellipses and brush strokes become boxes, all but upright rectangles with outlines; a region with
several labels is as many boxes. Key points and vectors have no area, and are left out. Choices about the whole image
are its labels, of taxonomies the last level; numbers of controls called `count_CLASS` are its counts. Ratings, texts,
relations, predictions, drafts and skipped annotations are left out. Of several annotations the one that is marked as
ground truth counts; where none is, the record is rejected.
"""

import posixpath
from collections.abc import Iterator
from typing import Any

import msgspec

from Data_processing.shared.annotation_files import decode_json, only_one
from Data_processing.shared.files import SourceFiles, inside
from Data_processing.shared.image_names import path_of
from Data_processing.shared.imported import Imported, ImportedBox, ImportOptions, LeftOut
from Data_processing.shared.outlines import bounds, ellipse, encode, flat, from_crop, rectangle, rle_pack, turned
from Datasets.format.files import COUNT, IMAGE_SUFFIXES
from Datasets.format.records import Count

SHAPES = ("rectangle", "polygon", "ellipse", "brush", "keypoint", "vector", "bitmask")
WITHOUT_AREA = ("keypoint", "vector")
GEOMETRY = {"x", "y", "points", "rle", "vertices", "imageDataURL"}
find = only_one


class Shape(msgspec.Struct, rename={"radius_x": "radiusX", "radius_y": "radiusY"}):
    """Where a region lies: percent of the image's width and height, degrees, bytes of a brush stroke."""

    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None
    radius_x: float | None = None
    radius_y: float | None = None
    rotation: float | None = 0
    points: list[tuple[float, float]] = []
    rle: list[int] = []


class Result(msgspec.Struct):
    """One region, or one choice."""

    type: str
    from_name: str = ""
    value: dict[str, Any] = {}
    id: str | int | None = None
    original_width: float | None = None
    original_height: float | None = None
    image_rotation: float | None = 0


class Annotation(msgspec.Struct):
    """What one annotator submitted."""

    result: list[Result]
    id: int | str | None = None
    was_cancelled: bool | None = False
    ground_truth: bool | None = False


class Task(msgspec.Struct):
    """One image."""

    data: dict[str, Any]
    annotations: list[Annotation]
    id: int | str | None = None


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    what = "Label Studio tasks, exported as JSON and not as JSON-MIN"
    tasks: list[Task] = decode_json(files, found[0], list[Task], what)
    return options.images or "", _records(tasks, found[0], options.images or "")


def _records(tasks: list[Task], file: str, folder: str) -> Iterator[Imported]:
    results = [result for task in tasks for annotation in task.annotations for result in annotation.result]
    labelled = any(result.type == "choices" or _is_choice(result) for result in results)
    counted = any(_is_count(result) for result in results)
    drawn = not results or any(result.type.removesuffix("labels") in ("", *SHAPES) for result in results)
    for number, task in enumerate(tasks, 1):
        row = _named(task, f"{file}: task {f'number {number}' if task.id is None else task.id}", folder)
        annotation = _chosen(task, row)
        if annotation is not None:
            _add(row, annotation.result, drawn, labelled)
            row.counts = _counts(annotation.result, row) if counted else None
        yield row


def _named(task: Task, origin: str, folder: str) -> Imported:
    """A record of the image that the task is about."""
    texts = [value for value in task.data.values() if isinstance(value, str)]
    urls = [text for text in texts if posixpath.splitext(path_of(text))[1].lower() in IMAGE_SUFFIXES]
    image = task.data.get("image", urls[0] if len(urls) == 1 else None)
    if not isinstance(image, str) or not image.strip() or image.startswith("data:"):
        value = f"{len(urls)} image addresses in its data, and none called `image`; not one that is embedded"
        return Imported(origin, origin, problems=[("malformed annotation", value)])
    return Imported(inside(folder, image), origin)


def _chosen(task: Task, row: Imported) -> Annotation | None:
    """The annotation that counts; None, as the record has none then, if all were skipped."""
    given = [annotation for annotation in task.annotations if not annotation.was_cancelled]
    best = [annotation for annotation in given if annotation.ground_truth] or given
    if len(best) > 1:
        ids = ", ".join(str(annotation.id) for annotation in best[:5])
        row.problems.append(("second record", f"{len(best)} annotations ({ids}); mark one as ground truth"))
    if task.annotations and not given:
        row.origin += " (skipped)"
    return best[-1] if best else None


def _add(row: Imported, results: list[Result], drawn: bool, labelled: bool) -> None:
    """Boxes, if any task has some, and labels of whole images, if any task has some."""
    row.normalized = True
    sizes = {(result.original_width, result.original_height) for result in results if result.original_width}
    if len(sizes) > 1:
        row.problems.append(("malformed annotation", f"regions of an image of {sorted(map(str, sizes))[:3]} pixels"))
    else:
        row.set_size(*next(iter(sizes), (None, None)))
    named = {result.id for result in results if _names(result)}
    if any(result.image_rotation for result in results):
        row.problems.append(("malformed annotation", "regions drawn on the turned image; annotate it upright"))
    regions = [(f"{row.origin}, region {n if each.id is None else each.id}", each) for n, each in enumerate(results, 1)]
    areas = [(origin, each) for origin, each in regions if _names(each) or each.id not in named]
    row.add_shapes(areas, lambda result, origin: _boxes(result, row, origin))
    row.boxes = row.boxes if drawn else None
    if labelled:
        row.add_labels(_choices(results))


def _kind(result: Result) -> str:
    """The shape of a region: as its type says or, for the type `labels`, as its value shows; "" if it has none."""
    value = result.value
    if result.type != "labels":
        return result.type.removesuffix("labels")
    if "start" in value or not GEOMETRY.intersection(value):
        return ""
    by_key = {"rle": "brush", "points": "polygon", "radiusX": "ellipse", "vertices": "vector", "height": "rectangle"}
    return next((shape for key, shape in by_key.items() if key in value), "keypoint")


def _names(result: Result) -> list[Any]:
    names = result.value.get(result.type if result.type.endswith("labels") else "labels")
    return names if isinstance(names, list) else []


def _is_choice(result: Result) -> bool:
    """Whether a result is about the whole image, chosen from a list or a tree."""
    return result.type in ("choices", "taxonomy") and not GEOMETRY.intersection(result.value)


def _is_count(result: Result) -> bool:
    return result.type == "number" and result.from_name.startswith(COUNT)


def _counts(results: list[Result], row: Imported) -> list[Count]:
    found = []
    for result in filter(_is_count, results):
        name, number = result.from_name.removeprefix(COUNT), result.value.get("number")
        if isinstance(number, int) and number >= 0:
            found.append(Count(name=name, count=number))
        else:
            row.problems.append(("malformed annotation", f"a count of {name}: {number}"))
    return found


def _choices(results: list[Result]) -> list[Any]:
    found: list[Any] = []
    for result in filter(_is_choice, results):
        chosen = result.value.get(result.type)
        for choice in chosen if isinstance(chosen, list) else [chosen]:
            found.append(choice[-1] if isinstance(choice, list) and choice else choice)
    return found


def _boxes(result: Result, row: Imported, origin: str) -> list[ImportedBox]:
    """A box for each label; none for what is no shape. Raises LeftOut, or ValueError, saying what is wrong."""
    names, kind = _names(result), _kind(result)
    if kind not in SHAPES:
        return []
    if kind in WITHOUT_AREA:
        raise LeftOut(kind)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"the labels {names[:3]}")
    if kind == "bitmask":
        raise ValueError("export it as brush strokes")
    shape = msgspec.convert(result.value, Shape)
    outline: bytes | None
    if kind == "brush":
        width, height = row.width or 0, row.height or 0
        outline = from_crop(rle_pack(bytes(shape.rle), width, height), 0, 0, row.width, row.height)
        x1, y1, x2, y2 = bounds(outline)
        x1, y1, x2, y2 = x1 / width, y1 / height, x2 / width, y2 / height
    else:
        outline = encode([_polygon(shape, kind, row)])
        x1, y1, x2, y2 = bounds(outline)
        if kind == "rectangle" and not shape.rotation:
            outline = None
        row.left_out += ["rotation"] * (kind == "rectangle" and outline is not None)
    return [ImportedBox(name, x1, y1, x2, y2, origin, outline=outline) for name in names]


def _polygon(shape: Shape, kind: str, row: Imported) -> list[float]:
    """In fractions of the image's width and height."""
    if kind == "polygon":
        if len(shape.points) < 3:
            raise ValueError("less than three points")
        return [value / 100 for value in flat(shape.points)]
    sides = (shape.radius_x, shape.radius_y) if kind == "ellipse" else (shape.width, shape.height)
    stated = [value / 100 for value in (shape.x, shape.y, *sides) if value is not None]
    if len(stated) < 4:
        raise ValueError("without x, y, width, height or radii")
    if shape.rotation and not (row.width and row.height):
        raise ValueError("turned, but without original_width and original_height")
    across, down = row.width or 1, row.height or 1
    x, y, width, height = stated[0] * across, stated[1] * down, stated[2] * across, stated[3] * down
    points = ellipse(x, y, width, height) if kind == "ellipse" else rectangle(x, y, x + width, y + height)
    points = turned(points, shape.rotation or 0, x, y)
    return [value / (across, down)[index % 2] for index, value in enumerate(points)]
