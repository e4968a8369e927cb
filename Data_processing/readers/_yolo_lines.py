"""What the lines of YOLO's label files mean, which programs write in several forms without saying in which.

`class cx cy width height`, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon; then perhaps a confidence, and the number of a
track; behind a box perhaps key points, as `kpt_shape` in data.yaml says or all lines together tell.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from Data_processing.shared.imported import ImportedBox
from Data_processing.shared.outlines import encode

FAR = 2  # fractions; what reaches somewhat out of its image is clipped later
SCORED_TRACK = re.compile(r"(0?\.\d+|[01]\.\d*)(e-?\d+)? \d+")  # a confidence and the number of a track
MOST, MANY = 0.9, 0.8  # of the lines, that tell what all are: of polygons, and of boxes with key points
BESIDE = 0.02  # fractions of the image's size that a key point may lie outside its box


class Form(NamedTuple):
    """keypoints: numbers of key points behind each box, of which there are no polygons; closing: numbers behind all."""

    keypoints: int
    closing: int


def form_of(lines: Sequence[Sequence[str]], keypoints: int | None) -> Form:
    """What lines of numbers have in common. keypoints: as stated. Raises ValueError where they do not show it."""
    if keypoints:
        return Form(keypoints, 0)
    long = [line[1:] for line in lines if len(line) > 6]
    lengths = set(map(len, long))
    if keypoints is None and len(lengths) == 1 and len(long) == len(lines):
        keypoints = _keypoints(long)
    if keypoints or not long:
        return Form(keypoints or 0, 0)
    odd = {length % 2 for length in lengths}
    tracked = odd == {0} and all(SCORED_TRACK.fullmatch(" ".join(line[-2:])) for line in long)
    tracked &= any(line[-1] not in ("0", "1") for line in long)  # which may be a polygon's point on the border
    return Form(0, 2 if tracked else int(odd == {1}))


def _keypoints(lines: Sequence[Sequence[str]]) -> int:
    """The numbers of key points behind each box; 0 of polygons. lines: as long as each other, without the class."""
    try:
        values = np.array(lines, float)
    except ValueError:
        return 0
    behind = values.shape[1] - 4
    if behind % 3 == 0 and np.isin(values[:, 6::3], (0, 1, 2)).all():  # how visible each is
        return behind
    if behind % 2:
        return 0
    centre, size, points = values[:, None, :2], values[:, None, 2:4], values[:, 4:].reshape(len(lines), -1, 2)
    inside = (np.abs(points - centre) <= size / 2 + BESIDE) | ~points.any(axis=2, keepdims=True)  # (0, 0) is not there
    around = (points.min(axis=1) <= centre[:, 0]) & (centre[:, 0] <= points.max(axis=1)) | (behind == 2)
    corners = np.concatenate([centre, points], axis=1)  # of a polygon, all but the second, which is near them
    low, high = corners.min(axis=1), corners.max(axis=1)
    near = (high - low).max(axis=1, keepdims=True)
    is_polygon = behind == 2 or ((low - near <= size[:, 0]) & (size[:, 0] <= high + near)).all(axis=1).mean() >= MOST
    is_pose = (inside.all(axis=(1, 2)) & around.all(axis=1)).mean() >= MANY
    if is_pose == is_polygon:
        raise ValueError(f"lines of {behind + 5} numbers are polygons, or boxes with {behind // 2} key points")
    return behind if is_pose else 0


def box_of(values: Sequence[float], name: str, origin: str, form: Form) -> ImportedBox:
    """The box of a line's numbers after the class, with the outline of a polygon. Raises ValueError."""
    count = len(values)
    is_box = 4 <= count - form.keypoints <= 5 or (form.closing == 2 and count == 6)
    corners = 4 if is_box else count - form.closing
    if not is_box and (form.keypoints or corners < 6 or corners % 2):
        others = f" as {form.closing} follow others" if form.closing else ""
        raise ValueError(f"{count} numbers after the class: neither a box's 4 nor a polygon's 6, 8, ...{others}")
    for value in values[:corners]:
        if not -FAR < value < FAR:  # such as pixels, or how visible a key point is
            raise ValueError(f"{value:g} is no fraction of the image's size")
    if is_box:
        x, y, width, height = values[:4]
        return ImportedBox(name, x - width / 2, y - height / 2, x + width / 2, y + height / 2, origin)
    xs, ys = values[0:corners:2], values[1:corners:2]
    return ImportedBox(name, min(xs), min(ys), max(xs), max(ys), origin, outline=encode([values[:corners]]))
