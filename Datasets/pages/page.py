"""Pages, each one HTML file that needs nothing else, and the pictures in them, with boxes and masks drawn in."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from Datasets.format.images import FULL, open_image, read_mask, to_rgb
from Datasets.tools.atomic import write_text

PARTS = Path(__file__).parent
QUALITY = 78  # of the JPEGs
OPACITY = 0.35  # of masks
ENLARGED = 240  # pixels of the longer side up to which a smaller image is enlarged, by a whole factor
SHOWN = 250, 220  # pixels of the page that a picture fits into, about
LETTER, LINE = 12, 2  # pixels of the page: a name's height, and the width of a box's line


def write_page(template: Path, values: Mapping[str, Any], out: Path) -> None:
    """Fill a template, which extends base.html; every value is escaped, and an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, PARTS]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(out, environment.get_template(template.name).render(values).strip() + "\n")


@dataclass(frozen=True)
class Picture:
    """An image as shown. uri: the JPEG as a data URI. tally: how many of each class, and its hue in degrees."""

    uri: str
    width: int
    height: int
    name: str
    tally: list[tuple[str, int, int]] = field(default_factory=list)


def picture(row: Mapping[str, Any], classes: Sequence[str], side: int, names: bool = True) -> Picture:
    """A row of the curated dataset, annotated. side: pixels of the longer side at most. names: whether on the boxes."""
    hues = hues_of(classes)
    image = open_image(row["image"]["bytes"])
    pixels = to_rgb(image, "image" if image.mode[0] in FULL else None)  # of more than 8 bits: from dark to bright
    shown = shrink(pixels, side)
    drawn = [box for box in row["boxes"] or () if box["segmentation"]]
    layers = [(hues[box["name"]], coco_mask.decode(box["segmentation"])) for box in drawn]
    if row["mask"] and row["mask"]["bytes"]:
        values = read_mask(row["mask"]["bytes"])
        layers += [(hues[name], values == number) for number, name in enumerate(classes, 1) if number in values]
    for degrees, layer in layers:
        alpha = Image.fromarray(layer.astype(np.uint8) * round(255 * OPACITY)).resize(shown.size)
        shown.paste(Image.new("RGB", shown.size, _colour(degrees)), mask=alpha)
    draw_boxes(shown, [(box, hues[box["name"]]) for box in row["boxes"] or ()], shown.width / pixels.shape[1], names)
    tally = [(c["name"], c["count"], hues[c["name"]]) for c in row["counts"] or () if c["count"]]
    if row["counts"] is None:
        tally = [(name, 0, hues[name]) for name in row["labels"] or ()]
    return Picture(to_uri(shown), pixels.shape[1], pixels.shape[0], row["image"]["path"], tally)


def hues_of(classes: Sequence[str]) -> dict[str, int]:
    """The hue of each class in degrees; neighbours are far apart."""
    return {name: int((210 + number * 137.508) % 360) for number, name in enumerate(classes)}


def shrink(pixels: np.ndarray, side: int) -> Image.Image:
    """The image with `side` pixels at most; a tiny one enlarged, so that boxes can be drawn into it."""
    image = Image.fromarray(pixels)
    factor = min(side, ENLARGED) // max(image.size)
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    return image


def draw_boxes(image: Image.Image, boxes: Iterable[tuple[Any, int]], scale: float, names: bool = True) -> None:
    """Draw boxes in their hues, large ones first, with names in Latin letters. scale: pixels of `image` in theirs."""
    larger = max(1.0, image.width / SHOWN[0], image.height / SHOWN[1])
    letter, line = round(LETTER * larger), round(LINE * larger)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(letter)
    placed = []
    for box, degrees in boxes:
        corners = np.array([[box["x1"], box["y1"]], [box["x2"], box["y2"]]], float) * scale
        low, high = np.sort(corners, axis=0)
        if np.isfinite(corners).all() and (low < image.size).all() and (high >= 0).all():
            (x1, y1), (x2, y2) = np.clip((low, high), 0, np.subtract(image.size, 1)).tolist()
            placed.append(((x2 - x1) * (y2 - y1), (x1, y1, x2, y2), box["name"], degrees))
    for _, (x1, y1, x2, y2), name, degrees in sorted(placed, key=itemgetter(0), reverse=True):
        draw.rectangle((x1, y1, x2, y2), outline=_colour(degrees), width=line)
        if names and name.isascii():
            place = max(0, min(x1, image.width - font.getlength(name))), max(0, y1 - letter)
            draw.text(place, name, fill="white", font=font, stroke_width=line, stroke_fill=_colour(degrees, 30))


def _colour(degrees: int, lightness: int = 50) -> str:
    return f"hsl({degrees}, 85%, {lightness}%)"


def to_uri(image: Image.Image) -> str:
    """The image as a data URI: a JPEG, or a PNG if it is transparent."""
    file = io.BytesIO()
    form = "PNG" if image.mode == "RGBA" else "JPEG"
    image.save(file, form, quality=QUALITY, optimize=True)
    return f"data:image/{form.lower()};base64," + base64.b64encode(file.getvalue()).decode()
