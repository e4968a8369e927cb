"""What readers make of the shapes and labels of an image: boxes of its record, its problems, and what is left out."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from Data_processing.shared.imported import MAX_SIDE, Imported, ImportedBox

UNUSABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, zlib.error)  # what wrong values raise
Named = Iterable[tuple[str, Any]]  # shapes, each behind what to call it in a message


class LeftOut(Exception):
    """A shape without area, which no box stands for; the message is its kind."""


def numbered(row: Imported, shapes: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """What to call each shape of a record, and the shape."""
    return ((f"{row.origin}, shape {number}", shape) for number, shape in enumerate(shapes, 1))


def add_shapes(row: Imported, shapes: Named, boxes_of: Callable[[Any, str], Iterable[ImportedBox]]) -> None:
    """Add the boxes that a function makes of each shape and its name, and the problems of what is no shape."""
    row.boxes = []
    for origin, shape in shapes:
        try:
            made = list(boxes_of(shape, origin))
            if not all(isinstance(box.name, str) for box in made):
                raise ValueError(f"the class {made[0].name!r:.40}")
            row.boxes += made
        except LeftOut as kind:
            row.left_out.append(str(kind))
        except UNUSABLE as error:
            told = f"no {error}" if isinstance(error, KeyError) else str(error)
            row.problems.append(("malformed box", f"{told:.200} in {origin}"))


def add_labels(row: Imported, names: Sequence[Any]) -> None:
    """Add labels of the whole image to those of its boxes; a problem where one is no text."""
    if not all(isinstance(name, str) and name for name in names):
        row.problems.append(("malformed annotation", f"labels {names[:3]!s:.100}"))
    else:
        row.labels = sorted({*names, *(box.name for box in row.boxes or ())})


def pixels(stated: Any, row: Imported) -> int | None:
    """A width or height; None where it is not stated (null, blank, 0) or makes no sense, a problem of the record."""
    try:
        value = float((stated.strip() if isinstance(stated, str) else stated) or 0)
    except UNUSABLE:
        value = -1
    if 1 <= value <= MAX_SIDE:
        return int(value)
    if value:
        row.problems.append(("malformed annotation", f"a width or height of {stated!s:.80} pixels"))
    return None
