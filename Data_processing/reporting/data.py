"""The curated dataset as tables, and what is measured of it, as numbers and charts. Images are read when shown."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from Datasets.format.curated import Curated
from Datasets.format.records import SPLITS
from Datasets.pages.page import to_uri
from Datasets.tools.errors import UserError

IMAGE_COLUMNS = ["source", "split", "group", "sha256", "width", "height"]
CORNERS = ["x1", "y1", "x2", "y2"]
_BOX_COLUMNS = [f"boxes.list.element.{name}" for name in ("name", *CORNERS)]
BINS = 32
CELLS = 48  # a side of the map of where boxes lie
CELL_COLOUR = (63, 111, 216)
COCO_SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # box area in square pixels


@dataclass(frozen=True)
class Dataset:
    """The annotations as tables, and the files that have the images."""

    classes: list[str]  # in id order
    images: pd.DataFrame  # image (SOURCE/IMAGE), IMAGE_COLUMNS, boxes (NaN: not drawn), phash, brightness, sharpness
    labels: pd.DataFrame  # row (of the image), name (class id)
    boxes: pd.DataFrame  # row, name, x1, y1, x2, y2 in pixels
    shards: list[Path]


def read_rows(shards: Iterable[Any], numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The whole rows of some images, their files too, by number; each row group is read once."""
    wanted, start = set(numbers), 0
    found: dict[int, dict[str, Any]] = {}
    for file in map(pq.ParquetFile, shards):
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if inside := wanted.intersection(range(start, start + size)):
                table = file.read_row_group(group)
                found |= {number: table.slice(number - start, 1).to_pylist()[0] for number in inside}
            start += size
    return found


def read_dataset(curated: Path, accepted: Path) -> Dataset:
    """Read the annotations, not the images, of a curated dataset, and the facts of its images from accepted.parquet."""
    dataset = Curated(curated)
    classes, shards = list(dataset.classes), [shard for split in SPLITS for shard in dataset.shards(split)]
    ids = functools.partial(pc.index_in, value_set=pa.array(classes, pa.string()))
    columns = ["image.path", *IMAGE_COLUMNS, "labels", *_BOX_COLUMNS]
    table = pa.concat_tables(pq.ParquetFile(shard).read(columns=columns) for shard in shards).combine_chunks()
    images = table.select(IMAGE_COLUMNS).to_pandas()
    images.insert(0, "image", pc.struct_field(table["image"], "path").to_pandas())
    images["boxes"] = pc.list_value_length(table["boxes"]).to_pandas().astype(float)
    images["labels"] = pc.list_value_length(table["labels"]).to_pandas().astype(float)
    seen = pq.read_table(accepted, columns=["source", "image", "phash", "brightness", "sharpness"]).to_pandas()
    seen.index = pd.Index(seen.pop("source") + "/" + seen.pop("image"))
    images = images.join(seen, on="image")
    unknown = images.loc[images["phash"].isna(), "image"]
    if len(unknown):
        raise UserError(f"{curated}: {unknown.iloc[0]} is not among the accepted images; run `dvc repro` again")
    labels = {"row": pc.list_parent_indices(table["labels"]), "name": ids(pc.list_flatten(table["labels"]))}
    flat = pc.list_flatten(table["boxes"])
    boxes = {"row": pc.list_parent_indices(table["boxes"]), "name": ids(pc.struct_field(flat, "name"))}
    boxes |= {side: pc.struct_field(flat, side) for side in CORNERS}
    return Dataset(classes, images, pa.table(labels).to_pandas(), pa.table(boxes).to_pandas(), shards)


def by_class(dataset: Dataset, table: pd.DataFrame) -> pd.DataFrame:
    """How many labels or boxes of each class each split has: a row a class id, a column a split."""
    splits = pd.Categorical(dataset.images["split"], categories=SPLITS)[table["row"].to_numpy()]
    counts = pd.crosstab(table["name"], splits) if len(table) else pd.DataFrame()
    return counts.reindex(index=range(len(dataset.classes)), columns=list(SPLITS), fill_value=0).astype(int)


def box_measures(dataset: Dataset) -> pd.DataFrame:
    """Of each box: area in square pixels, side (root of its share of the image), ratio (width by height), and scaled
    (root of its area by the image's longer side, which is the training's `size`).
    """
    boxes = dataset.boxes
    width, height = boxes["x2"] - boxes["x1"], boxes["y2"] - boxes["y1"]
    sides = dataset.images[["width", "height"]].to_numpy(float)[boxes["row"]]
    area, scaled = width * height, np.sqrt(width * height) / sides.max(axis=1)
    return pd.DataFrame(
        {"area": area, "side": np.sqrt(area / sides.prod(axis=1)), "ratio": width / height, "scaled": scaled}
    )


def coverage(dataset: Dataset, cells: int) -> np.ndarray:
    """The share of all boxes that covers each place of the image: float [cells, cells], rows from top to bottom."""
    boxes = dataset.boxes
    size = dataset.images[["width", "height"]].to_numpy(float)[boxes["row"]]
    corners = boxes[CORNERS].to_numpy() / np.tile(size, 2) * cells
    covered = np.zeros((cells, cells))
    for x1, y1, x2, y2 in np.hstack([np.floor(corners[:, :2]), np.ceil(corners[:, 2:])]).astype(int).tolist():
        covered[y1:y2, x1:x2] += 1
    return covered / max(1, len(boxes))


def numbers(dataset: Dataset) -> dict[str, Any]:
    """What the clean and curate stages' summaries do not say of the dataset, for `dvc metrics diff`."""
    images, counts, measures = dataset.images, by_class(dataset, dataset.labels), box_measures(dataset)
    missing = {split: int((counts[split] == 0).sum()) for split in SPLITS if (images["split"] == split).any()}
    by_split = {split: dict(sorted(zip(dataset.classes, map(int, counts[split]), strict=True))) for split in SPLITS}
    found = {
        "images_by_class": by_split,
        "classes_missing": missing,
        "images_of_nothing": int((images["labels"] == 0).sum()),
        **{name: spread(images[name]) for name in ("width", "height", "brightness", "sharpness")},
    }
    if len(dataset.boxes):
        found |= {"boxes_per_image": spread(images["boxes"]), "box_sizes": coco_sizes(measures["area"])}
        found |= {"box_side_share": spread(measures["side"]), "box_aspect_ratio": spread(measures["ratio"])}
    return found


def coco_sizes(areas: pd.Series) -> dict[str, int]:
    """How many boxes COCO would call small, medium and large, by the box's area (COCO takes the segmentation's)."""
    return {name: int(((areas >= low) & (areas < high)).sum()) for name, (low, high) in COCO_SIZES.items()}


def spread(values: pd.Series) -> dict[str, float]:
    """Least, median and greatest value, and the quarters between."""
    names = ("least", "quarter", "median", "three_quarters", "greatest")
    found = np.quantile(values.dropna().to_numpy(float), np.linspace(0, 1, 5)) if values.notna().any() else [0.0] * 5
    return {name: float(f"{value:.5g}") for name, value in zip(names, found, strict=True)}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, float | None, float | None]]:
    """The numbers that differ between two nested mappings: name, before, now; None where there was none."""
    before, now = (pd.json_normalize(dict(tree), sep=" / ").to_dict("records")[0] for tree in (old, new))
    return [(str(k), before.get(k), now.get(k)) for k in {**now, **before} if before.get(k) != now.get(k)]


@dataclass(frozen=True)
class Chart:
    """What the page draws below a title and a sentence: bars, or a map."""

    title: str
    words: str
    ticks: tuple[str, ...] = ()
    bars: tuple[tuple[float, str], ...] = ()  # height in percent, words
    map: str = ""  # the URI of a picture that fills the chart


def charts(dataset: Dataset) -> list[Chart]:
    """All charts of a dataset."""
    images = dataset.images
    sizes, longer = images[["width", "height"]].value_counts(), images[["width", "height"]].max(axis=1).to_numpy()
    often = " and ".join("{} x {} ({:,})".format(*size) for size in sizes[:2].reset_index().to_numpy().tolist())
    words = f"Pixels of the longer side. {_middle(longer)} {len(sizes):,} different; most often {often}."
    found = [histogram("Sizes of images", words, longer, np.linspace(0, longer.max(), BINS + 1))]
    if len(dataset.boxes):
        boxes, number = box_measures(dataset), images["boxes"].dropna().to_numpy()
        side, ratio, covered = boxes["side"].to_numpy() * 100, boxes["ratio"].to_numpy(), coverage(dataset, CELLS)
        heat = Image.new("RGB", covered.shape, CELL_COLOUR)
        heat.putalpha(Image.fromarray(np.rint(covered / max(float(covered.max()), 1e-12) * 255).astype(np.uint8)))
        by_coco = ", ".join(f"{100 * n / len(boxes):.0f} % {name}" for name, n in coco_sizes(boxes["area"]).items())
        percent = f"Square root of the share of the image's area, in percent. {_middle(side)} By COCO: {by_coco}."
        shape = f"All images stretched to one shape. At the strongest, {100 * covered.max():.0f} % cover a place."
        width = f"Width by height; left of 1 are upright boxes. {_middle(ratio)}"
        found += [
            counts("Boxes in an image", _middle(number), number),
            histogram("Sizes of boxes", percent, side, np.linspace(0, 100, BINS + 1)),
            histogram("Shapes of boxes", width, ratio, np.geomspace(1 / 8, 8, BINS + 1)),
            Chart("Where boxes lie", shape, map=to_uri(heat)),
        ]
    return found


def histogram(title: str, words: str, values: np.ndarray, edges: np.ndarray) -> Chart:
    """How many values lie in each of BINS parts between `edges`; those beyond are in the end bins."""
    numbers, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    ranges = [f"{_short(low)} to {_short(high)}" for low, high in pairwise(edges)]
    return Chart(title, words, tuple(map(_short, edges[:: BINS // 4])), _bars(ranges, numbers))


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


def _middle(values: np.ndarray) -> str:
    low, high = np.quantile(values, (0.25, 0.75))
    same = values.min() == values.max()
    return f"All are {_short(low)}." if same else f"Half: {_short(low)} to {_short(high)}."


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"
