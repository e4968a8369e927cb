"""The report's charts of what was measured of images and boxes, each with a sentence."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from Data_processing.reporting import figures
from Data_processing.reporting.data import Dataset, box_measures, coco_sizes, coverage
from Data_processing.reporting.pictures import png_uri

HEAT_CELLS, HEAT_COLOUR = 48, (63, 111, 216)
ASPECTS = figures.Axis(1 / 8, 8, log=True)


def measures(dataset: Dataset) -> list[dict[str, Any]]:
    """The charts: title, a sentence, the drawing."""
    images = dataset.images
    width, height = images["width"].to_numpy(), images["height"].to_numpy()
    words = f"Width by height in pixels. {_frequent(width, height)}"
    found = [_figure("Sizes of images", words, figures.bubbles(width, height, "sizes of images"))]
    if len(dataset.boxes):
        found += _box_figures(dataset)
    members = images.groupby("group").size().to_numpy()
    luma, sharp = images["brightness"].to_numpy(), images["sharpness"].to_numpy().clip(0.1)
    sharpness = figures.Axis(max(0.1, float(sharp.min())) / 1.1, float(sharp.max()) * 1.1, log=True)
    found += [
        _figure(
            "Images in a group",
            f"No split divides a group. Of {_of(len(members), 'group')} the largest has {_of(members.max(), 'image')}.",
            figures.whole_numbers(members, "images in a group"),
        ),
        _figure(
            "Brightness",
            f"Mean luma, 0 is black and 255 white. {_half(luma)}",
            figures.histogram(luma, figures.Axis(0, 255), "brightness"),
        ),
        _figure(
            "Sharpness",
            f"Variance of the Laplacian, low where nothing has an edge. {_half(sharp)}",
            figures.histogram(sharp, sharpness, "sharpness"),
        ),
    ]
    return found


def _box_figures(dataset: Dataset) -> list[dict[str, Any]]:
    boxes, number = box_measures(dataset), dataset.images["boxes"].dropna().to_numpy()
    side, ratio = boxes["side"].to_numpy() * 100, boxes["ratio"].to_numpy()
    covered = coverage(dataset, HEAT_CELLS)
    heat = png_uri(figures.heat(covered, HEAT_COLOUR))
    return [
        _figure(
            "Boxes in an image",
            f"{_half(number)} The most is {int(number.max()):,}.",
            figures.whole_numbers(number, "boxes in an image"),
        ),
        _figure(
            "Sizes of boxes",
            f"Square root of the share of the image's area, in percent. {_half(side)}",
            figures.histogram(side, figures.Axis(0, 100), "sizes of boxes"),
        ),
        _figure("COCO's sizes", "By a box's area: below 32², 96² square pixels, and above.", _coco(boxes["area"])),
        _figure(
            "Shapes of boxes",
            f"Width by height; left of 1 are upright boxes. {_half(ratio)}",
            figures.histogram(ratio, ASPECTS, "shapes of boxes", figures.ratio),
        ),
        _figure(
            "Where boxes lie",
            f"All images stretched to one shape. At the strongest, {100 * covered.max():.0f} % cover a place.",
            Markup('<div class="heat"><img src="{}" alt="where boxes lie"></div>').format(heat),
        ),
    ]


def _of(count: int, one: str) -> str:
    return f"{count:,} {one if count == 1 else one + 's'}"


def _frequent(width: np.ndarray, height: np.ndarray) -> str:
    """The two most frequent sizes."""
    sizes, counts = np.unique(np.stack([width, height], 1), axis=0, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:2]
    often = ", ".join(f"{sizes[k][0]} x {sizes[k][1]} ({counts[k]:,})" for k in first)
    return f"{len(sizes):,} different; most often {often}." if len(sizes) > 1 else f"All are {often}."


def _figure(title: str, words: str, body: str) -> dict[str, Any]:
    return {"title": title, "words": words, "body": Markup(body)}


def _half(values: np.ndarray) -> str:
    low, high = np.quantile(values, (0.25, 0.75))
    return f"Half: {float(f'{low:.3g}'):,g} to {float(f'{high:.3g}'):,g}."


def _coco(areas: pd.Series) -> Markup:
    counts = coco_sizes(areas)
    line = Markup('<div><span>{}</span><i style="width:{}%"></i><span class="n">{} · {} %</span></div>')
    most = max(counts.values())
    shares = {name: (round(100 * n / most, 2), f"{n:,}", f"{100 * n / len(areas):.0f}") for name, n in counts.items()}
    return Markup('<div class="three">{}</div>').format(Markup("").join(line.format(k, *v) for k, v in shares.items()))
