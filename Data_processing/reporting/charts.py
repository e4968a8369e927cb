"""The report's charts of what was measured of images and boxes: each a title, a sentence, and numbers for the page."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from Data_processing.reporting.data import Dataset, box_measures, coco_sizes, coverage
from Data_processing.reporting.pictures import to_uri

BINS = 32
CELLS = 48  # a side of the map of where boxes lie
CELL_COLOUR = (63, 111, 216)


@dataclass(frozen=True)
class Chart:
    """What the page draws below a title and a sentence; one of the last four.

    bars: the height in percent and the words of each; ticks: evenly below them. points: x and y in percent, radius in
    pixels, words. shares: name, count, percent of all. map: the URI of a picture that fills the chart.
    """

    title: str
    words: str
    ticks: tuple[str, ...] = ()
    bars: tuple[tuple[float, str], ...] = ()
    points: tuple[tuple[float, float, float, str], ...] = ()
    shares: tuple[tuple[str, int, float], ...] = ()
    map: str = ""


def charts(dataset: Dataset) -> list[Chart]:
    """All charts of a dataset."""
    images = dataset.images
    members = images.groupby("group").size().to_numpy()
    luma, sharp = images["brightness"].to_numpy(), images["sharpness"].to_numpy().clip(0.1)
    groups, most = _plural(len(members), "group"), _plural(members.max(), "image")
    ends = max(0.1, float(sharp.min())) / 1.1, float(sharp.max()) * 1.1
    words = f"Variance of the Laplacian, low where nothing has an edge. {_middle(sharp)}"
    return [
        image_sizes(images["width"].to_numpy(), images["height"].to_numpy()),
        *(_box_charts(dataset) if len(dataset.boxes) else ()),
        counts("Images in a group", f"No split divides a group. Of {groups} the largest has {most}.", members),
        histogram("Brightness", f"Mean luma, 0 is black and 255 white. {_middle(luma)}", luma, (0, 255)),
        histogram("Sharpness", words, sharp, ends, log=True),
    ]


def _box_charts(dataset: Dataset) -> list[Chart]:
    boxes, number = box_measures(dataset), dataset.images["boxes"].dropna().to_numpy()
    side, ratio = boxes["side"].to_numpy() * 100, boxes["ratio"].to_numpy()
    covered, sizes = coverage(dataset, CELLS), coco_sizes(boxes["area"])
    alpha = np.rint(covered / max(float(covered.max()), 1e-12) * 255).astype(np.uint8)
    pixels = np.dstack([*(np.full(covered.shape, part, np.uint8) for part in CELL_COLOUR), alpha])
    shape = f"All images stretched to one shape. At the strongest, {100 * covered.max():.0f} % cover a place."
    percent = f"Square root of the share of the image's area, in percent. {_middle(side)}"
    width = f"Width by height; left of 1 are upright boxes. {_middle(ratio)}"
    return [
        counts("Boxes in an image", f"{_middle(number)} The most is {int(number.max()):,}.", number),
        histogram("Sizes of boxes", percent, side, (0, 100)),
        Chart(
            "COCO's sizes",
            "By a box's area: below 32², 96² square pixels, and above.",
            shares=tuple((name, count, 100 * count / len(boxes)) for name, count in sizes.items()),
        ),
        histogram("Shapes of boxes", width, ratio, (1 / 8, 8), log=True, form=_ratio),
        Chart("Where boxes lie", shape, map=to_uri(Image.fromarray(pixels))),
    ]


def histogram(
    title: str,
    words: str,
    values: np.ndarray,
    ends: tuple[float, float],
    log: bool = False,
    form: Callable[[float], str] | None = None,
) -> Chart:
    """How many values lie in each of BINS parts between `ends`; those beyond are in the end bins."""
    space = np.geomspace if log else np.linspace
    edges = space(*ends, BINS + 1)
    numbers, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    ranges = [f"{_short(low)} to {_short(high)}" for low, high in pairwise(edges)]
    return Chart(title, words, tuple(map(form or _short, space(*ends, 5))), _bars(ranges, numbers))


def counts(title: str, words: str, values: np.ndarray) -> Chart:
    """A bar for each whole number, or for each of equal ranges where there are many."""
    most = int(values.max())
    width = -(-(most + 1) // 40)
    numbers = np.bincount(values.astype(int) // width)
    ranges = [f"{start}" if width == 1 else f"{start} to {start + width - 1}" for start in range(0, most + 1, width)]
    return Chart(title, words, ("0", f"{most:,}"), _bars(ranges, numbers))


def _bars(ranges: list[str], numbers: np.ndarray) -> tuple[tuple[float, str], ...]:
    heights = np.round(100 * numbers / max(1, numbers.max()), 2).tolist()
    return tuple((height, f"{words}: {n:,}") for height, words, n in zip(heights, ranges, numbers, strict=True))


def image_sizes(width: np.ndarray, height: np.ndarray) -> Chart:
    """A circle for each size, or about it, whose area grows with the number of images; equal scales from 0."""
    sizes, numbers = np.unique(np.stack([width, height], 1), axis=0, return_counts=True)
    first = np.argsort(-numbers, kind="stable")[:2]
    often = ", ".join(f"{sizes[k][0]} x {sizes[k][1]} ({numbers[k]:,})" for k in first)
    words = f"{len(sizes):,} different; most often {often}." if len(sizes) > 1 else f"All are {often}."
    cell = sizes.max() / 40
    middles, places = np.unique((sizes // cell + 0.5) * cell, axis=0, return_inverse=True)
    images = np.bincount(places.ravel(), numbers)
    percent, radius = 100 * middles / (sizes.max(axis=0) + cell), 2 + 10 * np.sqrt(images / images.max())
    labels = [f"about {x:.0f} x {y:.0f}: {n:,.0f}" for (x, y), n in zip(middles, images, strict=True)]
    points = zip(*percent.round(2).T.tolist(), radius.round(1).tolist(), labels, strict=True)
    ticks = "0", f"{width.max():,} x {height.max():,}"
    return Chart("Sizes of images", f"Width by height in pixels. {words}", ticks, points=tuple(points))


def _plural(count: int, one: str) -> str:
    return f"{count:,} {one if count == 1 else one + 's'}"


def _middle(values: np.ndarray) -> str:
    low, high = np.quantile(values, (0.25, 0.75))
    return f"Half: {_short(low)} to {_short(high)}."


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"


def _ratio(value: float) -> str:
    return f"{value:.2g}:1" if value >= 1 else f"1:{1 / value:.2g}"
