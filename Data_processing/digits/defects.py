"""The defects that raw datasets are known for, planted in the demonstration's source.

Each function takes a faultless scene and returns what is delivered of it: one image, or the original and its double.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

Annotations = list[dict[str, Any]]


@dataclass(frozen=True)
class Delivery:
    """One image as delivered: its file (None if it was forgotten) and what the annotation file says of it.

    width, height: in pixels, as annotated. annotations: COCO's, with a class name in place of ids; None if the
    annotation file does not list the image.
    """

    file: bytes | None
    width: int
    height: int
    annotations: Annotations | None
    suffix: str = ".jpg"


Plant = Callable[[Image.Image, Annotations], list[Delivery]]  # what is delivered of a scene with the defect


def deliver(image: Image.Image, annotations: Annotations) -> Delivery:
    """A faultless delivery of a scene."""
    return Delivery(_encode(image, "JPEG", quality=90), image.width, image.height, annotations)


def _encode(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _truncated(image: Image.Image, annotations: Annotations) -> list[Delivery]:
    file = _encode(image, "JPEG", quality=90)
    return [replace(deliver(image, annotations), file=file[: len(file) * 6 // 10])]


def _near_duplicate(image: Image.Image, annotations: Annotations) -> list[Delivery]:
    small = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.BICUBIC)
    scaled = [
        {**a, "bbox": [v * 0.75 for v in a["bbox"]], "area": a["area"] * 0.5625, "segmentation": []}
        for a in annotations
    ]
    file = _encode(small, "JPEG", quality=60)
    return [deliver(image, annotations), Delivery(file, small.width, small.height, scaled)]


def _rotated(image: Image.Image, annotations: Annotations) -> list[Delivery]:
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored picture must be turned 90 degrees clockwise to stand upright
    stored = image.transpose(Image.Transpose.ROTATE_90)
    return [replace(deliver(image, annotations), file=_encode(stored, "JPEG", quality=90, exif=exif))]


def _sixteen_bit(image: Image.Image, annotations: Annotations) -> list[Delivery]:
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return [replace(deliver(image, annotations), file=_encode(deep, "PNG"), suffix=".png")]


def _first_box(change: Callable[[list[float]], list[float]]) -> Plant:
    return lambda image, a: [deliver(image, [{**a[0], "bbox": change(a[0]["bbox"])}, *a[1:]])]


DEFECTS: dict[str, Plant] = {
    "truncated": _truncated,
    "not an image": lambda image, a: [replace(deliver(image, a), file=b"<html><body>404 Not Found</body></html>\n")],
    "image without annotation": lambda image, a: [replace(deliver(image, a), annotations=None)],
    "annotation without image": lambda image, a: [replace(deliver(image, a), file=None)],
    "exact duplicate": lambda image, a: [deliver(image, a), deliver(image, a)],
    "near duplicate": _near_duplicate,
    "swapped corners": _first_box(lambda box: [box[0] + box[2], box[1] + box[3], -box[2], -box[3]]),
    "zero area": _first_box(lambda box: [box[0], box[1], 0.0, box[3]]),
    "partly outside": _first_box(lambda box: [-5.0, box[1], box[0] + box[2] + 5, box[3]]),
    "wholly outside": _first_box(lambda box: [box[0] + 1000, box[1], box[2], box[3]]),
    "misspelt class": lambda image, a: [deliver(image, [{**a[0], "name": "sevn"}, *a[1:]])],
    "wrong size": lambda image, a: [replace(deliver(image, a), width=640, height=480)],
    "EXIF orientation 6": _rotated,
    "grey": lambda image, a: [deliver(image.convert("L"), a)],
    "CMYK": lambda image, a: [deliver(image.convert("CMYK"), a)],
    "16-bit PNG": _sixteen_bit,
}
