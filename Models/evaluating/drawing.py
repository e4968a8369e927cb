"""The picture of the worst answers: truth on the left, prediction on the right."""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from Datasets.format.images import VOID, decode
from Datasets.format.predictions import mask_of
from Models.learning.data_loading import Samples
from Models.metrics import counts, labels
from Models.metrics.boxes import above, match

PANEL = 300  # pixels of the longer side of an image as drawn
MARGIN = 8
CAPTION = 22
RIGHT, WRONG, CROWD = (0, 150, 60), (215, 30, 30), (90, 90, 90)
COLUMNS = 2
FONT_SIZE = 13
OPACITY = 0.6  # of a mask on its image
LUMA = (0.299, 0.587, 0.114)
Colour = tuple[int, int, int]
Panels = tuple[str, Image.Image, Image.Image]  # what to write above them, truth, prediction


def draw_worst(samples: Samples, predictions: Sequence[Any], indices: Sequence[int], threshold: float) -> Image.Image:
    """Two panels for each of the samples `indices`, whose answers `predictions` are."""
    heading, panels = PANELS[samples.task]
    tiles = [
        _tile(*panels(samples, index, answer, threshold)) for index, answer in zip(indices, predictions, strict=True)
    ]
    width, height = 2 * PANEL + 2 * MARGIN, PANEL + CAPTION + MARGIN
    columns = min(COLUMNS, len(tiles))
    head = _head(heading, _drawn_classes(samples, predictions, indices), columns * width)
    sheet = Image.new("RGB", (head.width, head.height + -(-len(tiles) // columns) * height), "white")
    sheet.paste(head)
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, head.height + number // columns * height))
    return sheet


def _drawn_classes(samples: Samples, predictions: Sequence[Any], indices: Sequence[int]) -> dict[str, int]:
    """The classes with pixels in some masks, by name, and their values there."""
    if samples.task != "mask":
        return {}
    masks = [*map(samples.mask, indices), *map(mask_of, predictions)]
    values = sorted({int(value) for mask in masks for value in np.unique(mask)} - {0, VOID})
    return {samples.classes[value - 1]: value for value in values}


def _head(heading: str, classes: Mapping[str, int], width: int) -> Image.Image:
    """The heading, and the names of classes on their colours, on as many lines as they need."""
    font = ImageFont.load_default(FONT_SIZE)
    x, y, places = MARGIN + font.getlength(heading), 0, []
    for name in classes:
        if x + MARGIN + font.getlength(name) + 3 > width:
            x, y = 0.0, y + CAPTION
        places.append((x + MARGIN, y + 2.0))
        x += MARGIN + font.getlength(name) + 3
    head = Image.new("RGB", (width, y + CAPTION), "white")
    ImageDraw.Draw(head).text((MARGIN, 3), heading, "black", font)
    for (name, value), at in zip(classes.items(), places, strict=True):
        _text(head, at, name, _colour(value))
    return head


def _tile(caption: str, left: Image.Image, right: Image.Image) -> Image.Image:
    tile = Image.new("RGB", (2 * PANEL + 2 * MARGIN, PANEL + CAPTION + MARGIN), "white")
    ImageDraw.Draw(tile).text((MARGIN, 3), caption, "black", ImageFont.load_default(FONT_SIZE))
    tile.paste(left, (MARGIN, CAPTION))
    tile.paste(right, (MARGIN + PANEL + MARGIN // 2, CAPTION))
    return tile


def _image(samples: Samples, index: int) -> tuple[Image.Image, float]:
    """The image as drawn, and its scale."""
    image = Image.fromarray(decode(samples.file(index)))
    scale = PANEL / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale)))), scale


def _box_panels(samples: Samples, index: int, prediction: Any, threshold: float) -> Panels:
    prediction = above(prediction, threshold)
    matched = match(samples, index, prediction, same_class=True)
    left, scale = _image(samples, index)
    right = left.copy()
    truth = [
        (sides * scale, samples.classes[kind], WRONG if number in matched.missed else RIGHT)
        for number, (sides, kind) in enumerate(zip(*samples.boxes(index, crowd=False), strict=True))
    ]
    crowds = zip(*samples.boxes(index, crowd=True), strict=True)
    _boxes(left, truth + [(sides * scale, f"{samples.classes[kind]} (crowd)", CROWD) for sides, kind in crowds])
    found = [
        (
            np.array([box[side] for side in ("x1", "y1", "x2", "y2")]) * scale,
            f"{box['name']} {box['score']:.2f}",
            WRONG if number in matched.extra else RIGHT,
        )
        for number, box in enumerate(prediction["boxes"])
    ]
    _boxes(right, found)
    caption = f"{len(matched.missed)} missed, {len(matched.extra)} false: {samples.records[index]['image']}"
    return caption, left, right


def _mask_panels(samples: Samples, index: int, prediction: Any, threshold: float) -> Panels:
    image, _ = _image(samples, index)
    truth, found = samples.mask(index), mask_of(prediction)
    wrong = (truth != found)[truth != VOID].mean() if (truth != VOID).any() else 0.0
    caption = f"{wrong:.1%} of the pixels wrong: {samples.records[index]['image']}"
    return caption, _tinted(image, truth), _tinted(image, found)


def _tinted(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image under the colours of its mask's values."""
    palette = np.array([_colour(value) for value in range(256)])
    sized = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    blended = np.asarray(image) * (1 - OPACITY) + palette[sized] * OPACITY
    return Image.fromarray(np.where((sized > 0)[..., None], blended, np.asarray(image)).astype(np.uint8))


def _colour(value: int) -> Colour:
    """The colour of a mask's value; neighbouring values have colours far apart."""
    red, green, blue = colorsys.hsv_to_rgb(value * 0.381966 % 1, 0.9, 0.6 + 0.35 * (value % 2))
    return CROWD if value == VOID else (round(255 * red), round(255 * green), round(255 * blue))


def _label_panels(samples: Samples, index: int, prediction: Any, threshold: float) -> Panels:
    scores = labels.scores_of(samples, [prediction])[0]
    return _listed(samples, index, samples.labels(index).astype(int), (scores >= threshold).astype(int), scores)


def _count_panels(samples: Samples, index: int, prediction: Any, threshold: float) -> Panels:
    scores = labels.scores_of(samples, [prediction])[0]
    return _listed(samples, index, samples.counts(index), counts.counted(samples, [prediction], threshold)[0], scores)


def _listed(samples: Samples, index: int, truth: np.ndarray, found: np.ndarray, scores: np.ndarray) -> Panels:
    """The classes with their numbers, written onto the image: int [C] each."""
    left, _ = _image(samples, index)
    right = left.copy()
    for image, numbers, sure in ((left, truth, None), (right, found, scores)):
        for line, kind in enumerate(np.flatnonzero(numbers)):
            times = f"{numbers[kind]} " if samples.task == "counts" else ""
            text = times + samples.classes[kind] + ("" if sure is None else f" {sure[kind]:.2f}")
            at = (0.0, line * (FONT_SIZE + 7.0))
            _text(image, at, text, RIGHT if truth[kind] == found[kind] else WRONG)
    return f"{np.abs(truth - found).sum()} wrong: {samples.records[index]['image']}", left, right


def _text(image: Image.Image, at: tuple[float, float], text: str, colour: Colour) -> None:
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_SIZE)
    _, _, width, height = draw.textbbox((0, 0), text, font)
    draw.rectangle((at[0], at[1], at[0] + width + 3, at[1] + height + 3), fill=colour)
    draw.text((at[0] + 2, at[1] + 1), text, "white" if np.dot(colour, LUMA) < 128 else "black", font)


def _boxes(image: Image.Image, boxes: Sequence[tuple[np.ndarray, str, Colour]]) -> None:
    """Draw boxes, (x1, y1, x2, y2) each, then their names, in places where they lie over no other if there are any.

    What is wrong comes first, then what comes first in `boxes`.
    """
    draw = ImageDraw.Draw(image)
    for (x1, y1, x2, y2), _, colour in reversed(boxes):
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=2)
    taken: list[np.ndarray] = []
    for sides, text, colour in sorted(boxes, key=lambda box: box[2] != WRONG):
        taken.append(_place(image, sides, text, taken))
        _text(image, (float(taken[-1][0]), float(taken[-1][1])), text, colour)


def _place(image: Image.Image, sides: np.ndarray, text: str, taken: Sequence[np.ndarray]) -> np.ndarray:
    """The sides of the place of a box's name: above it, below it or in it, inside the image."""
    size = np.array(ImageFont.load_default(FONT_SIZE).getbbox(text)[2:]) + 4
    x1, y1, x2, y2 = sides
    wished = product((x1, x2 - size[0]), (y1 - size[1], y2, y1))
    corners = [np.clip(corner, 0, np.maximum(0, image.size - size)) for corner in wished]
    places = [np.concatenate([corner, corner + size]) for corner in corners]
    free = (p for p in places if not any((p[:2] < other[2:]).all() and (other[:2] < p[2:]).all() for other in taken))
    return next(free, places[0])


PANELS: dict[str, tuple[str, Callable[[Samples, int, Any, float], Panels]]] = {
    "boxes": ("left: truth, red where missed; right: prediction with its score, red where wrong", _box_panels),
    "mask": ("left: truth, grey where not annotated; right: prediction; the colours are", _mask_panels),
    "labels": ("left: truth, red where missed; right: prediction with its score, red where wrong", _label_panels),
    "counts": ("left: truth, red where miscounted; right: prediction with its score, red where wrong", _count_panels),
}
