"""The curated dataset as tables to count in: a row an image, a label, a box. No image is read until it is shown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from Datasets.format.classes import read_classes
from Datasets.format.records import SPLITS
from Datasets.tools.errors import UserError

IMAGE_COLUMNS = ["source", "split", "group", "sha256", "width", "height"]
CORNERS = ["x1", "y1", "x2", "y2"]
_BOX_COLUMNS = [f"boxes.list.element.{name}" for name in ("name", *CORNERS)]
COCO_SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # box area in square pixels


@dataclass(frozen=True)
class Dataset:
    """classes: names in id order.

    images: a row an image, image (SOURCE/IMAGE), IMAGE_COLUMNS, and boxes (their number, NaN where there are none
    because nobody drew any), phash, brightness, sharpness. labels: row (of the image), name (class id). boxes: row,
    name, x1, y1, x2, y2 in pixels.
    """

    classes: list[str]
    images: pd.DataFrame
    labels: pd.DataFrame
    boxes: pd.DataFrame
    shards: list[Path]

    def rows(self, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
        """The whole rows of some images, their files too, by number; each row group is read once."""
        wanted, start = sorted(set(numbers)), 0
        found: dict[int, dict[str, Any]] = {}
        for file in map(pq.ParquetFile, self.shards):
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if inside := [number for number in wanted if start <= number < end]:
                    table = file.read_row_group(group)
                    found |= {number: table.slice(number - start, 1).to_pylist()[0] for number in inside}
                start = end
        return found


def read_dataset(curated: Path, accepted: Path) -> Dataset:
    """Read the annotations, not the images, of a curated dataset, and the facts of its images from accepted.parquet.

    Raises UserError if an image of the dataset is not among the accepted ones.
    """
    classes = list(read_classes(curated / "classes.json"))
    shards = [shard for split in SPLITS for shard in sorted(curated.glob(f"{split}-*-of-*.parquet"))]
    if not shards:
        raise UserError(f"{curated}: holds no shards; run the curate stage, or `dvc pull`")
    columns = ["image.path", *IMAGE_COLUMNS, "labels", *_BOX_COLUMNS]
    table = pa.concat_tables(pq.ParquetFile(shard).read(columns=columns) for shard in shards).combine_chunks()
    images = table.select(IMAGE_COLUMNS).to_pandas()
    images.insert(0, "image", pc.struct_field(table["image"], "path").to_pandas())
    images["boxes"] = pc.list_value_length(table["boxes"]).to_pandas().astype(float)
    images["labels"] = pc.list_value_length(table["labels"]).to_pandas().astype(float)
    images = images.join(_facts(accepted), on="image")
    unknown = images.loc[images["phash"].isna(), "image"]
    if len(unknown):
        raise UserError(f"{curated}: {unknown.iloc[0]} is not among the accepted images; run `dvc repro` again")
    return Dataset(classes, images, _labels(table, classes), _boxes(table, classes), shards)


def _labels(table: pa.Table, classes: list[str]) -> pd.DataFrame:
    rows, names = pc.list_parent_indices(table["labels"]), pc.list_flatten(table["labels"])
    return pd.DataFrame({"row": rows.to_numpy(), "name": _ids(names, classes)}).drop_duplicates(ignore_index=True)


def _boxes(table: pa.Table, classes: list[str]) -> pd.DataFrame:
    flat = pc.list_flatten(table["boxes"])
    columns = {side: pc.struct_field(flat, side).to_numpy() for side in CORNERS}
    names = _ids(pc.struct_field(flat, "name"), classes)
    return pd.DataFrame({"row": pc.list_parent_indices(table["boxes"]).to_numpy(), "name": names, **columns})


def _ids(names: pa.ChunkedArray, classes: list[str]) -> np.ndarray:
    return pc.index_in(names, value_set=pa.array(classes, pa.string())).to_numpy()


def _facts(accepted: Path) -> pd.DataFrame:
    """phash, brightness and sharpness of the accepted images, by SOURCE/IMAGE."""
    facts = ["phash", "brightness", "sharpness"]
    table = pq.read_table(accepted, columns=["source", "image", *facts]).to_pandas()
    return table.set_index(table["source"] + "/" + table["image"])[facts]


def by_class(dataset: Dataset, table: pd.DataFrame) -> pd.DataFrame:
    """How many labels or boxes of each class each split has: a row a class id, a column a split."""
    splits = pd.Categorical(dataset.images["split"], categories=SPLITS)[table["row"].to_numpy()]
    counts = pd.crosstab(table["name"], splits) if len(table) else pd.DataFrame()
    return counts.reindex(index=range(len(dataset.classes)), columns=list(SPLITS), fill_value=0).astype(int)


def box_measures(dataset: Dataset) -> pd.DataFrame:
    """Of each box: area in square pixels, side (square root of its share of the image), ratio (width by height)."""
    boxes, images = dataset.boxes, dataset.images
    width, height = boxes["x2"] - boxes["x1"], boxes["y2"] - boxes["y1"]
    whole = (images["width"].to_numpy(float) * images["height"].to_numpy(float))[boxes["row"]]
    area = width * height
    return pd.DataFrame({"area": area, "side": np.sqrt(area / whole), "ratio": width / height})


def coverage(dataset: Dataset, cells: int) -> np.ndarray:
    """The share of all boxes that covers each place of the image: float [cells, cells], rows from top to bottom."""
    boxes = dataset.boxes
    size = dataset.images[["width", "height"]].to_numpy(float)[boxes["row"]]
    edges = [boxes[side].to_numpy() / size[:, axis] * cells for side, axis in zip(CORNERS, (0, 1, 0, 1), strict=True)]
    x1, y1 = (np.clip(np.floor(edge), 0, cells - 1).astype(int) for edge in edges[:2])
    x2, y2 = (np.clip(np.ceil(edge), 1, cells).astype(int) for edge in edges[2:])
    steps = np.zeros((cells + 1, cells + 1))
    for x, y, sign in ((x1, y1, 1), (x2, y1, -1), (x1, y2, -1), (x2, y2, 1)):
        np.add.at(steps, (y, x), sign)
    return steps.cumsum(0).cumsum(1)[:-1, :-1] / max(1, len(boxes))


def numbers(dataset: Dataset) -> dict[str, Any]:
    """What the clean and curate stages' summaries do not say of the dataset, for `dvc metrics diff`."""
    images, counts, measures = dataset.images, by_class(dataset, dataset.labels), box_measures(dataset)
    missing = {split: int((counts[split] == 0).sum()) for split in SPLITS if (images["split"] == split).any()}
    found = {
        "images_by_class": {
            split: dict(sorted(zip(dataset.classes, map(int, counts[split]), strict=True))) for split in SPLITS
        },
        "classes_missing": missing,
        "images_of_nothing": int((images["labels"] == 0).sum()),
        **{name: spread(images[name]) for name in ("width", "height", "brightness", "sharpness")},
    }
    if len(dataset.boxes):
        found["boxes_per_image"] = spread(images["boxes"])
        found["box_sizes"] = coco_sizes(measures["area"])
        found["box_side_share"] = spread(measures["side"])
        found["box_aspect_ratio"] = spread(measures["ratio"])
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
    before, now = _flat(old), _flat(new)
    names = [*now, *(name for name in before if name not in now)]
    return [(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{prefix}{name} / ") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
