"""What each section of the report says, as plain values for its page."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from Data_processing.reporting import figures
from Data_processing.reporting.choice import evenly, exact_pairs, extremes, gallery, near_pairs
from Data_processing.reporting.data import CORNERS, Dataset, boxes_by_class, images_by_class
from Data_processing.reporting.pictures import Picture, picture, stated_picture
from Data_processing.sources.files import read_inspected_file
from Datasets.format.records import SPLITS

SHOWN_REJECTED, SHOWN_REPAIRS, SHOWN_GALLERY, SHOWN_PAIRS, SHOWN_EXACT, SHOWN_EXTREMES = 24, 24, 24, 12, 4, 4
SIDE, SMALL_SIDE = 480, 160  # pixels of a picture's longer side
EXTREMES = {
    "Darkest": "Mean luma, of 255.",
    "Brightest": "Mean luma, of 255.",
    "Least sharp": "Variance of the Laplacian.",
    "Smallest": "Pixels of the longer side.",
    "Most boxes": "Boxes in the image.",
    "Smallest boxes": "Square root of the box's share of the image, in percent.",
}


def totals(dataset: Dataset, summary: Mapping[str, Any], sources: Iterable[str]) -> dict[str, Any]:
    """The numbers at the top; tiles are (number, words, whether it is bad news)."""
    images = dataset.images
    groups = images["group"].nunique()
    tiles = [
        (summary["imported"], "imported", False),
        (summary["accepted"], "accepted", False),
        (summary["rejected"], "rejected", True),
        (len(dataset.boxes), "box" if len(dataset.boxes) == 1 else "boxes", False),
        (len(dataset.classes), "class" if len(dataset.classes) == 1 else "classes", False),
        (groups, "group" if groups == 1 else "groups", False),
    ]
    known = {"images": len(images), "boxes": len(dataset.boxes), "classes": len(dataset.classes)}
    return {**known, "sources": list(sources), "tiles": tiles}


def flow(dataset: Dataset, rejected: pd.DataFrame, sources: Iterable[str], width: int, name: str) -> str:
    """Every image from its source to its split, or to the rule by which it was rejected."""
    images, node = dataset.images, figures.Node
    nodes = [node("accepted", 1, len(images), "accepted"), node("rejected", 1, len(rejected), "rejected")]
    links = []
    for source in sources:
        parts = int((images["source"] == source).sum()), int((rejected["source"] == source).sum())
        nodes.append(node(source, 0, sum(parts), "source"))
        links += [(len(nodes) - 1, end, size) for end, size in enumerate(parts)]
    for end, column, kinds in ((0, images["split"], list(SPLITS)), (1, rejected["rule"], _by_number(rejected["rule"]))):
        for kind in kinds:
            size = int((column == kind).sum())
            nodes.append(node(kind, 2, size, "rejected" if end else kind))
            links.append((end, len(nodes) - 1, size))
    return figures.flow(nodes, [link for link in links if link[2]], width, name)


def _by_number(rules: pd.Series) -> list[str]:
    """The rules that occur, most frequent first."""
    counts = rules.value_counts()
    return sorted(counts.index, key=lambda rule: (-counts[rule], rule))


def rejects(rejected: pd.DataFrame, paths: Mapping[str, str]) -> dict[str, Any]:
    """The rules with their counts, and some of the rejected images, as well as they can be shown.

    rejected: the clean stage's rejected.parquet. paths: where each source lies.
    """
    counts, remedies = rejected["rule"].value_counts(), rejected.groupby("rule")["remedy"].first()
    rules = [{"name": r, "count": int(counts[r]), "remedy": remedies[r]} for r in _by_number(rejected["rule"])]
    shown = rejected.loc[evenly(rejected["rule"], SHOWN_REJECTED)].to_dict("records")
    return {"rules": rules, "cards": [_rejected_card(row, paths[row["source"]]) for row in shown]}


def _rejected_card(row: Mapping[Any, Any], source: str) -> dict[str, Any]:
    if pd.isna(row["sha256"]) or pd.notna(row["reason"]):
        absent = "no such image" if pd.isna(row["sha256"]) else "cannot be decoded"
        return {**row, "picture": None, "absent": absent}
    data = read_inspected_file(source, row["image"], row["sha256"])
    return {**row, "picture": stated_picture(data, row["image"], row["boxes"], SIDE)}


def repairs(table: pd.DataFrame) -> dict[str, Any]:
    """What was mended, some of it."""
    return {"count": len(table), "rows": table.loc[evenly(table["rule"], SHOWN_REPAIRS)].to_dict("records")}


def balance(dataset: Dataset) -> dict[str, Any]:
    """Classes by their number of images, with how the splits share them, and which are missing from a split."""
    sizes = {split: int((dataset.images["split"] == split).sum()) for split in SPLITS}
    splits = [split for split in SPLITS if sizes[split]]
    counts, boxes = images_by_class(dataset).to_dict("records"), boxes_by_class(dataset).sum(axis=1).tolist()
    rows: list[dict[str, Any]] = [
        {"name": name, "images": sum(counts[k].values()), "boxes": boxes[k], "counts": counts[k]}
        for k, name in enumerate(dataset.classes)
    ]
    missing = [(row["name"], lacks) for row in rows if (lacks := [s for s in splits if not row["counts"][s]])]
    rows.sort(key=lambda row: -row["images"])
    return {"rows": rows, "missing": missing, "splits": [{"name": s, "images": sizes[s]} for s in splits]}


def pictures(dataset: Dataset, bits: int) -> dict[str, Any]:
    """The gallery, the extremes and the duplicates, with every image that they show read once."""
    images = dataset.images
    ends, chosen = extremes(dataset, SHOWN_EXTREMES), gallery(dataset, SHOWN_GALLERY)
    near, exact = near_pairs(images, bits), exact_pairs(images)
    copies = exact[: max(SHOWN_EXACT, SHOWN_PAIRS - len(near))]
    pairs = [*((*pair, -1) for pair in copies), *near][:SHOWN_PAIRS]
    numbers = [*chosen, *(n for part in ends.values() for n in part.index), *(n for pair in pairs for n in pair[:2])]
    rows = dataset.rows(numbers)

    def show(number: int, boxed: bool | None = None) -> Picture:
        if boxed is None:
            return picture(rows[number], dataset.classes, SIDE)
        boxes = [{**box, "segmentation": None} for box in rows[number]["boxes"] or ()] if boxed else None
        bare = {"labels": None, "counts": None, "mask": None, "boxes": boxes}
        return picture({**rows[number], **bare}, dataset.classes, SMALL_SIDE)

    return {
        "gallery": [(show(number), images["split"][number]) for number in chosen],
        "extremes": [
            (
                name,
                EXTREMES[name],
                [(show(k, boxed="boxes" in name), float(v)) for k, v in zip(values.index, values, strict=True)],
            )
            for name, values in ends.items()
        ],
        "pairs": [
            {
                "shown": [show(one), show(other)],
                "split": images["split"][one],
                "words": "the same file" if distance < 0 else f"{distance} of 256 bits differ",
                "agreement": agreement(rows[one], rows[other]),
            }
            for one, other, distance in pairs
        ],
    }


def agreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """How far two images' annotations agree: 0 if they name other classes or other numbers of objects, else the least
    IoU of any box with the best of its class in the other image, each box as shares of its image; 1 without boxes."""
    same = one["labels"] == other["labels"] and one["counts"] == other["counts"]
    if not same or not one["boxes"] or not other["boxes"]:
        return float(same and bool(one["boxes"]) == bool(other["boxes"]))
    names = [np.array([box["name"] for box in row["boxes"]]) for row in (one, other)]
    left, right = (_relative(row) for row in (one, other))
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(corners[:, 2:] - corners[:, :2]).prod(-1) for corners in (left, right)]
    iou = shared / (areas[0][:, None] + areas[1][None] - shared) * (names[0][:, None] == names[1][None])
    return float(min(iou.max(1).min(), iou.max(0).min()))


def _relative(row: Mapping[str, Any]) -> np.ndarray:
    size = np.array([row["width"], row["height"]] * 2, float)
    return np.array([[box[side] for side in CORNERS] for box in row["boxes"]]) / size
