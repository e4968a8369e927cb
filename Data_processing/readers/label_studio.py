"""Label Studio: one JSON file of tasks, exported as `JSON`; JSON-MIN does not tell a choice from other data.

Specification: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks. Positions are percent of
the image's width and height, rotations degrees, clockwise, about the upper left corner, in pixels of `original_width`
and `original_height`. A task's image is a URL: `/data/local-files/?d=PATH`, `/data/upload/PROJECT/NAME`, a cloud's or
another. The image of the source whose path ends in the longest part of that path is meant; for an upload also the name
without the eight characters that Label Studio sets before it; as written, or with what it quotes (`%20`) plain.

Rectangles, polygons, ellipses (as polygons of 64 points) and brush strokes become boxes, with outlines unless they are
upright rectangles; a region with several labels is as many boxes. Key points and vectors have no area: each becomes a
box without any, which the clean stage rejects if it wants the class, and else leaves out. Choices about the whole image
are its labels, of taxonomies the last level. Ratings, texts and relations are left out, as are predictions, drafts and
skipped annotations; in a file that has nothing else, no image has annotations. Of several annotations the one that
is marked as ground truth counts; where none is, the record is rejected as one of several about its image.
"""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import msgspec

from Data_processing.shared.annotation_files import decode_json, only_file
from Data_processing.shared.files import SourceFiles, inside
from Data_processing.shared.image_names import ImageFinder, ambiguity, ends, path_of
from Data_processing.shared.imported import MAX_SIDE, Imported, ImportedBox, ImportOptions
from Data_processing.shared.outlines import bounds, ellipse, encode, from_crop, rectangle, rle_pack, turned
from Datasets.format.files import IMAGE_SUFFIXES, visible
from Datasets.tools.errors import UserError

SHAPES = ("rectangle", "polygon", "ellipse", "brush", "keypoint", "vector", "bitmask")
GEOMETRY = {"x", "y", "points", "rle", "vertices", "imageDataURL"}


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


def find(files: SourceFiles, options: ImportOptions) -> list[str]:
    """The exported file: the one named, or the only .json. Raises UserError if that leaves none or several."""
    return only_file(files, visible(files.names(), {".json"}), "JSON", options)


def read(files: SourceFiles, found: list[str], options: ImportOptions) -> tuple[str, Iterator[Imported]]:
    """The folder that the images are in (as the options say, or else the source itself) and the records."""
    tasks: list[Task] = decode_json(
        files, found[0], list[Task], "Label Studio tasks, exported as JSON and not as JSON-MIN"
    )
    if not tasks:
        raise UserError(f"{files.path}: {found[0]}: has no tasks; export it again, with all of them")
    return options.images or "", _records(tasks, found[0], ImageFinder(files, options.images))


def _records(tasks: list[Task], file: str, finder: ImageFinder) -> Iterator[Imported]:
    results = [result for task in tasks for annotation in task.annotations for result in annotation.result]
    kinds = {result.type for result in results}
    labelled = "choices" in kinds or any(result.type == "taxonomy" and _of_whole(result) for result in results)
    drawn = not kinds or any(_shape(kind) or kind == "labels" for kind in kinds)
    for number, task in enumerate(tasks, 1):
        origin = f"{file}: task {f'number {number}' if task.id is None else task.id}"
        row = _named(task, origin, finder)
        annotation = _chosen(task, row)
        if annotation is not None:
            _add(row, annotation, drawn, labelled)
        yield row


def _named(task: Task, origin: str, finder: ImageFinder) -> Imported:
    """A record of the image that the task is about."""
    urls = [value for value in task.data.values() if isinstance(value, str) and _suffix(value) in IMAGE_SUFFIXES]
    image = task.data.get("image", urls[0] if len(urls) == 1 else None)
    if not isinstance(image, str) or not image.strip() or image.startswith("data:"):
        value = f"{len(urls)} image addresses in its data, and none called `image`; not one that is embedded"
        return Imported(origin, origin, problems=[("malformed annotation", value)])
    found = finder.by_end(image)
    path = found[0] if found else inside(finder.folder or "", list(ends(image))[-1])
    return Imported(path, origin, problems=ambiguity(image, found))


def _suffix(url: str) -> str:
    return PurePosixPath(path_of(url)).suffix.lower()


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


def _add(row: Imported, annotation: Annotation, drawn: bool, labelled: bool) -> None:
    """Boxes, if any task has some, and labels of whole images, if any task has some."""
    row.normalized = True
    row.width, row.height = _size(annotation.result, row)
    named = {result.id for result in annotation.result if _names(result)}
    if any(result.image_rotation for result in annotation.result):
        row.problems.append(("malformed annotation", "regions drawn on the turned image; annotate it upright"))
    boxes: list[ImportedBox] = []
    for number, result in enumerate(annotation.result, 1):
        origin = f"{row.origin}, region {number if result.id is None else result.id}"
        kind = _kind(result)
        if kind is None or (not _names(result) and result.id in named):
            continue
        try:
            boxes += _boxes(result, kind, row, origin)
        except (ValueError, OverflowError) as error:
            row.problems.append(("malformed box", f"{error} in {origin}"))
    row.boxes = boxes if drawn else None
    row.labels = sorted({*_choices(annotation, row), *(box.name for box in boxes)}) if labelled else None


def _size(results: list[Result], row: Imported) -> tuple[int | None, int | None]:
    sizes = {
        (result.original_width, result.original_height)
        for result in results
        if result.original_width and result.original_height
    }
    if not sizes:
        return None, None
    width, height = next(iter(sizes))
    if len(sizes) > 1 or not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        row.problems.append(("malformed annotation", f"regions of an image of {sorted(sizes)[:3]} pixels"))
        return None, None
    return int(width), int(height)


def _shape(kind: str) -> str | None:
    return next((shape for shape in SHAPES if kind in (shape, f"{shape}labels")), None)


def _kind(result: Result) -> str | None:
    """The shape of a region: as its type says or, for the type `labels`, as its value shows; None if it has none."""
    if result.type != "labels":
        return _shape(result.type)
    value = result.value
    if "start" in value or not GEOMETRY.intersection(value):
        return None
    by_key = {"rle": "brush", "points": "polygon", "radiusX": "ellipse", "vertices": "vector", "height": "rectangle"}
    return next((shape for key, shape in by_key.items() if key in value), "keypoint")


def _names(result: Result) -> list[Any]:
    names = result.value.get(result.type if result.type.endswith("labels") else "labels")
    return names if isinstance(names, list) else []


def _of_whole(result: Result) -> bool:
    return not GEOMETRY.intersection(result.value)


def _choices(annotation: Annotation, row: Imported) -> list[str]:
    found: list[Any] = []
    for result in annotation.result:
        if result.type in ("choices", "taxonomy") and _of_whole(result):
            choices = result.value.get(result.type)
            chosen = choices if isinstance(choices, list) else [choices]
            found += (
                chosen if result.type == "choices" else [p[-1] if isinstance(p, list) and p else None for p in chosen]
            )
    if not all(isinstance(name, str) and name for name in found):
        row.problems.append(("malformed annotation", f"choices {found[:3]}"))
    return [name for name in found if isinstance(name, str) and name]


def _boxes(result: Result, kind: str, row: Imported, origin: str) -> Iterable[ImportedBox]:
    """A box for each label. Raises ValueError, saying what is wrong."""
    names = _names(result)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"a {kind} with the labels {names[:3]}")
    if kind == "bitmask":
        raise ValueError("a bitmask; export it as brush strokes")
    try:
        shape = msgspec.convert(result.value, Shape)
    except msgspec.ValidationError as error:
        raise ValueError(f"a {kind}: {error}") from error
    if kind in ("keypoint", "vector"):
        x, y = (shape.x or 0) / 100, (shape.y or 0) / 100
        return [ImportedBox(name, x, y, x, y, origin) for name in names]
    if kind == "rectangle" and not shape.rotation:
        x, y, width, height = _fractions(shape.x, shape.y, shape.width, shape.height)
        return [ImportedBox(name, x, y, x + width, y + height, origin) for name in names]
    outline = _brush(shape.rle, row) if kind == "brush" else encode([_polygon(shape, kind, row)])
    x1, y1, x2, y2 = bounds(outline)
    if kind == "brush":
        across, down = _side(row.width, kind), _side(row.height, kind)
        x1, y1, x2, y2 = x1 / across, y1 / down, x2 / across, y2 / down
    return [ImportedBox(name, x1, y1, x2, y2, origin, outline=outline) for name in names]


def _polygon(shape: Shape, kind: str, row: Imported) -> list[float]:
    """In fractions of the image's width and height."""
    if kind == "polygon":
        if len(shape.points) < 3:
            raise ValueError("a polygon of less than three points")
        return [value / 100 for point in shape.points for value in point]
    across, down = row.width or 1, row.height or 1
    if shape.rotation:
        across, down = _side(row.width, kind), _side(row.height, kind)
    x, y, width, height = _fractions(
        shape.x,
        shape.y,
        *((shape.radius_x, shape.radius_y) if kind == "ellipse" else (shape.width, shape.height)),
    )
    x, y, width, height = x * across, y * down, width * across, height * down
    points = ellipse(x, y, width, height) if kind == "ellipse" else rectangle(x, y, x + width, y + height)
    pixels = turned(points, shape.rotation or 0, x, y)
    return [value / (across, down)[index % 2] for index, value in enumerate(pixels)]


def _brush(packed: list[int], row: Imported) -> bytes:
    width, height = _side(row.width, "brush stroke"), _side(row.height, "brush stroke")
    return from_crop(rle_pack(bytes(packed), width, height), 0, 0, width, height)


def _side(side: int | None, kind: str) -> int:
    if side is None:
        raise ValueError(f"a {kind} without original_width and original_height")
    return side


def _fractions(*percent: float | None) -> list[float]:
    if None in percent:
        raise ValueError(f"a region with x, y, width, height or radii {percent}")
    return [value / 100 for value in percent if value is not None]
