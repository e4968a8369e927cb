"""What each section of the review's page shows, as plain values; images with annotations and answers."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from Datasets.format.records import SPLITS
from Datasets.pages.page import Picture, hues_of, picture, to_uri
from Models.learning.box_metrics import above, match
from Models.learning.data_loading import Samples
from Models.learning.metrics import counts_of, pixel_tables, predicted_counts
from Models.reviewing.looks import Look
from Models.reviewing.suspects import Suspect

SIDE = 480  # pixels of a picture's longer side
SHOWN = 24  # suspects and images on the page
SIZES = {"small, below 32 x 32 pixels": 32**2, "medium": 96**2, "large, from 96 x 96 pixels on": np.inf}  # as COCO's
WORST = 8  # sources and groups that are shown
POINTS, MAP = 1500, (100, 62)  # images on a map, evenly over all; its width and height
CELLS, THUMBNAIL = (20, 12), 52  # images across and down the map of thumbnails; pixels of each
SPLIT_HUES = dict(zip(SPLITS, (222, 35, 170), strict=True))  # as the page's


def drawn(samples: Samples, row: int, *parts: Mapping[str, Any]) -> list[Picture]:
    """A picture of an image for each of `parts`, fields of a row of the curated dataset to draw into it."""
    file = {"bytes": samples.file(row), "path": samples.records[row]["image"]}
    nothing = {"boxes": None, "mask": None, "counts": None, "labels": None}
    return [picture({**nothing, **part, "image": file}, samples.classes, SIDE) for part in parts]


def annotated(samples: Samples, row: int) -> dict[str, Any]:
    """What is annotated in an image, as far as the task goes."""
    return {name: samples.records[row][name] for name in {samples.task, "labels", "counts"}}  # type: ignore[literal-required]


def answered(samples: Samples, prediction: Any, threshold: float) -> dict[str, Any]:
    """An answer as fields of a row of the curated dataset."""
    if samples.task == "mask":
        return {"mask": {"bytes": base64.b64decode(prediction["mask"])}, "labels": prediction["labels"]}
    if samples.task == "boxes":
        return {"boxes": [{**box, "segmentation": None} for box in above(prediction, threshold)["boxes"]]}
    found = zip(samples.classes, predicted_counts(samples, [prediction], threshold)[0].tolist(), strict=True)
    counts = [{"name": name, "count": count} for name, count in found if count]
    return {"labels": [each["name"] for each in counts], "counts": counts if samples.task == "counts" else None}


def amount(task: str, mistakes: float) -> str:
    """An image's mistakes in words."""
    return f"{mistakes:.1%} of the pixels" if task == "mask" else f"{mistakes:g}"


def pictures(samples: Samples, row: int, truth: Mapping[str, Any], answer: Mapping[str, Any]) -> list[Picture]:
    """An image with what is annotated and with what the model answers; once, where neither can be drawn."""
    return drawn(samples, row, truth, answer) if samples.task in ("boxes", "mask") else drawn(samples, row, truth)


def drawable(corners: Sequence[float] | None, name: str | None) -> list[dict[str, Any]]:
    """A box to draw, if there is one."""
    box = dict(zip(("x1", "y1", "x2", "y2"), corners or (), strict=False))
    return [{**box, "name": name, "segmentation": None}] if corners and name else []


def suspect_cards(found: Sequence[tuple[Look, Suspect]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The most suspicious, as far as they are shown: with a mask the whole of it, else the one box alone."""
    cards = []
    for (look, suspect), row in zip(found[:SHOWN], rows, strict=False):
        record, answer = look.samples.records[suspect.row], look.predictions[suspect.row]
        truth: dict[str, Any] = {"labels": record["labels"], "counts": record["counts"]}
        truth["boxes"] = drawable(suspect.box, suspect.name)
        given: dict[str, Any] = {"boxes": drawable(suspect.place, suspect.predicted)}
        if look.samples.task == "mask":
            truth = {"mask": record["mask"], "boxes": drawable(suspect.place, suspect.name)}
            given["mask"] = answered(look.samples, answer, 0)["mask"]
        cards.append({**row, "pictures": pictures(look.samples, suspect.row, truth, given)})
    return cards


def worst_cards(looks: Sequence[Look], threshold: float, origins: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The images with most mistakes, with all that is annotated and all that the model answers."""
    each = [(wrong, look, row) for look in looks for row, wrong in enumerate(look.mistakes) if wrong]
    cards = []
    for wrong, look, row in sorted(each, key=lambda one: -one[0])[:SHOWN]:
        samples, image = look.samples, look.samples.records[row]["image"]
        given = answered(samples, look.predictions[row], threshold)
        about = {"image": image, "split": look.split, "origin": origins.get(image, {}).get("origin")}
        about |= {"words": amount(samples.task, wrong), "answered": given.get("labels")}
        cards.append({**about, "pictures": pictures(samples, row, annotated(samples, row), given)})
    return cards


def things(look: Look, threshold: float) -> pd.DataFrame:
    """A row for each object, or class of a mask, label or count, in truth or in an answer.

    row (of the image), class, size (of boxes), source, group, found (1 or 0, of masks the IoU; NaN where it is not in
    truth), and extra (1 where it is not).
    """
    samples = look.samples
    make = {"boxes": _boxes, "mask": _masks}.get(samples.task, _counts)
    columns = ["row", "class", "size", "found", "extra"]
    table = pd.DataFrame(list(make(samples, look.predictions, threshold)), columns=columns)
    for name in ("source", "group"):
        table[name] = [samples.records[row][name] for row in table["row"]]
    return table


def _boxes(samples: Samples, predictions: Sequence[Any], threshold: float) -> Iterator[tuple[Any, ...]]:
    for row, prediction in enumerate(predictions):
        kept = above(prediction, threshold)
        matched = match(samples, row, kept, same_class=True)
        boxes, kinds = samples.boxes(row, crowd=False)
        for number, (box, kind) in enumerate(zip(boxes, kinds, strict=True)):
            yield row, samples.classes[kind], _size(*box), float(number not in matched.missed), 0
        for number in matched.extra:
            box = kept["boxes"][number]
            yield row, box["name"], _size(box["x1"], box["y1"], box["x2"], box["y2"]), np.nan, 1


def _size(x1: float, y1: float, x2: float, y2: float) -> str:
    return next(name for name, area in SIZES.items() if (x2 - x1) * (y2 - y1) < area)


def _masks(samples: Samples, predictions: Sequence[Any], threshold: float) -> Iterator[tuple[Any, ...]]:
    for row, table in enumerate(pixel_tables(samples, predictions)):
        actual, found, right = table.sum(1)[1:], table.sum(0)[1:], np.diag(table)[1:]
        for kind in np.flatnonzero(actual + found).tolist():
            iou = right[kind] / (actual[kind] + found[kind] - right[kind])
            yield row, samples.classes[kind], None, iou if actual[kind] else np.nan, int(not actual[kind])


def _counts(samples: Samples, predictions: Sequence[Any], threshold: float) -> Iterator[tuple[Any, ...]]:
    actual, predicted = counts_of(samples), predicted_counts(samples, predictions, threshold)
    for row, kind in np.argwhere((actual > 0) | (predicted > 0)).tolist():
        right, there = actual[row, kind] == predicted[row, kind], actual[row, kind] > 0
        yield row, samples.classes[kind], None, float(right) if there else np.nan, int(not there)


def failures(table: pd.DataFrame) -> Iterator[tuple[str, list[Any]]]:
    """For classes, sizes, sources and groups: rows of name, things in truth, share found and extra, the worst first.

    Of groups only those of several images; of all but classes nothing where there is one row.
    """
    for what in ("class", "size", "source", "group"):
        known = table[table[what].notna()]
        if what == "group":
            known = known[known.groupby("group")["row"].transform("nunique") > 1]
        each = known.groupby(what).agg(things=("found", "count"), found=("found", "mean"), extra=("extra", "sum"))
        if len(each) > (what != "class"):  # one class alone has figures, too
            each = each.sort_values(["found", "things"]).reset_index(names="name")
            yield what, (each if what == "class" else each.head(WORST)).to_dict("records")


def maps(looks: Sequence[Look]) -> dict[str, Any] | None:
    """The images in two dimensions, the first principal components of their features; None without features.

    Points of x, y, hue and words for each of three colourings, and a picture of thumbnails.
    """
    images = [(look, row) for look in looks for row in range(len(look.samples))]
    images = [images[i] for i in np.linspace(0, len(images), min(POINTS, len(images)), endpoint=False, dtype=int)]
    features = [look.features[row] for look, row in images]
    if len(features) < 3 or any(each is None for each in features):
        return None
    places = plane(np.array(features, np.float64))
    hues = hues_of(looks[0].samples.classes)
    coloured: dict[str, list[tuple[float, float, int | None, str]]] = {"class": [], "split": [], "mistakes": []}
    for (look, row), (x, y) in zip(images, places.tolist(), strict=True):
        record = look.samples.records[row]
        first = min(record["labels"] or [], key=list(hues).index, default=None)
        wrong = look.mistakes[row] if look.unseen else None
        kinds = {"class": hues.get(first or ""), "split": SPLIT_HUES[look.split], "mistakes": 0 if wrong else None}
        words = f"{record['image']}: {', '.join(record['labels'] or ['nothing'])}, {look.split}"
        for name, hue in kinds.items():
            coloured[name].append((round(x, 2), round(y, 2), hue, words))
    return {"coloured": coloured, "thumbnails": thumbnails(images, places)}


def plane(features: np.ndarray) -> np.ndarray:
    """The first two principal components of features [N, D], in the map's units: float [N, 2]."""
    centred = features - features.mean(0)
    places = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    low, high = np.percentile(places, (1, 99), axis=0)  # so that a few far away do not press the others together
    return np.clip((places - low) / np.maximum(high - low, 1e-9), 0, 1) * MAP


def thumbnails(images: Sequence[tuple[Look, int]], places: np.ndarray) -> str:
    """A picture of the map with one image in each of CELLS, as a data URI."""
    cells = np.minimum(places / MAP * CELLS, np.array(CELLS) - 1).astype(int)
    sheet = Image.new("RGBA", (CELLS[0] * THUMBNAIL, CELLS[1] * THUMBNAIL))
    for (x, y), number in {tuple(cell): number for number, cell in enumerate(cells.tolist())}.items():
        look, row = images[number]
        small = Image.fromarray(look.samples.letterbox(row).pixels).resize((THUMBNAIL - 4, THUMBNAIL - 4))
        sheet.paste(small, (x * THUMBNAIL + 2, y * THUMBNAIL + 2))
    return to_uri(sheet)
