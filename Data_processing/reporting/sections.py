"""What each section of the report shows, as plain values for its page; the same of the same dataset."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from Data_processing.curating.duplicates import first_alike, look_alike
from Data_processing.reporting.data import Dataset, box_measures, by_class, read_rows
from Data_processing.shared.files import read_inspected_file
from Datasets.format.records import SPLITS
from Datasets.pages.page import Picture, picture

SHOWN_REJECTED, SHOWN_REPAIRS, SHOWN_GALLERY, SHOWN_PAIRS, SHOWN_EXACT, SHOWN_EXTREMES = 24, 24, 24, 12, 4, 4
SIDE, SMALL_SIDE = 480, 160  # pixels of a picture's longer side


def by_source(dataset: Dataset, rejected: pd.DataFrame, repaired: pd.DataFrame, sources: Iterable[str]) -> list[Any]:
    """Of each source how many images were accepted, rejected and corrected, and how many of others it corrects."""
    changed = repaired[repaired["rule"] == "corrected"].drop_duplicates(["source", "image"])
    columns = {"accepted": dataset.images, "rejected": rejected, "corrected": changed}
    counts = {name: table["source"].value_counts() for name, table in columns.items()}
    counts["corrects"] = changed["origin"].str.replace(":.*", "", regex=True).value_counts()
    return [{"name": source, **{k: int(n.get(source, 0)) for k, n in counts.items()}} for source in sources]


def flow(dataset: Dataset, rejected: Mapping[str, int], accepted: int) -> list[tuple[str, int, str]]:
    """Where every image ended, in parts that add up to all: name, count, CSS class. rejected: by rule."""
    of_split = dataset.images["split"].value_counts()
    ends = [(split, int(of_split.get(split, 0)), split) for split in SPLITS]
    ends += [(rule, count, "rejected") for rule, count in Counter(rejected).most_common()]
    return [*ends, ("left out by curate", accepted - len(dataset.images), "rejected")]


def rejects(rejected: pd.DataFrame, paths: Mapping[str, str]) -> dict[str, Any]:
    """The rules with their counts, and some of the rejected images. paths: where each source lies."""
    rules = rejected.groupby("rule").agg(count=("image", "size"), remedy=("remedy", "first"))
    rules = rules.sort_values("count", ascending=False, kind="stable").reset_index(names="name")
    cards = []
    for row in rejected.loc[evenly(rejected["rule"], SHOWN_REJECTED)].to_dict("records"):
        if pd.notna(row["sha256"]) and pd.isna(row["reason"]):
            data = read_inspected_file(paths[row["source"]], row["image"], row["sha256"])
            boxes = [{**box, "segmentation": None} for box in row["boxes"]]
            stated = {"image": {"bytes": data, "path": row["image"]}, "boxes": boxes, "counts": [], "mask": None}
            row["picture"] = picture(stated, sorted({box["name"] for box in boxes}), SIDE)
        cards.append(row)
    return {"rules": rules.to_dict("records"), "cards": cards}


def balance(dataset: Dataset, sizes: Sequence[int]) -> dict[str, Any]:
    """Classes by their number of images, with how the splits share them; those missing from a split come first.

    sizes: of the training, in pixels; `pixels` are of the side of the middle object at each.
    """
    images = {split: int((dataset.images["split"] == split).sum()) for split in SPLITS}
    splits = [split for split in SPLITS if images[split]]
    counts = by_class(dataset, dataset.labels)
    table = pd.DataFrame({"name": dataset.classes, "images": counts.sum(axis=1), "counts": counts.to_dict("records")})
    table["boxes"] = by_class(dataset, dataset.boxes).sum(axis=1)
    middle = box_measures(dataset)["scaled"].groupby(dataset.boxes["name"]).median().reindex(table.index)
    table["pixels"] = [[share * size for size in sizes] for share in middle.tolist()]
    table["whole"] = (counts[splits] > 0).all(axis=1)
    rows = table.sort_values(["whole", "images"], ascending=[True, False], kind="stable").to_dict("records")
    lacking = ((row["name"], [split for split in splits if not row["counts"][split]]) for row in rows)
    return {
        "rows": rows,
        "most": int(table["images"].max()),
        "missing": [(name, lacks) for name, lacks in lacking if lacks],
        "splits": [{"name": split, "images": images[split]} for split in splits],
    }


def pictures(dataset: Dataset, bits: int) -> dict[str, Any]:
    """The gallery, the extremes and the duplicates, with every image that they show read once."""
    images = dataset.images
    ends, chosen = extremes(dataset, SHOWN_EXTREMES), gallery(dataset, SHOWN_GALLERY)
    pairs = duplicate_pairs(images, bits)
    pairs = list(dict.fromkeys([*pairs[: SHOWN_PAIRS - SHOWN_EXACT], *pairs[-SHOWN_EXACT:]]))
    numbers = [*chosen, *(row for *_, values in ends for row in values.index), *(n for pair in pairs for n in pair[:2])]
    rows = read_rows(dataset.shards, numbers)

    def strip(values: pd.Series) -> list[tuple[Picture, float]]:
        """Small pictures, and the values."""
        small = [picture(rows[number], dataset.classes, SMALL_SIDE, names=False) for number in values.index]
        return list(zip(small, values.tolist(), strict=True))

    return {
        "gallery": [(picture(rows[number], dataset.classes, SIDE), images["split"][number]) for number in chosen],
        "extremes": [(name, words, strip(values)) for name, words, values in ends],
        "pairs": [
            {
                "shown": [picture(rows[number], dataset.classes, SIDE) for number in (one, other)],
                "split": images["split"][one],
                "words": "the same file" if distance < 0 else f"{distance} of 256 bits differ",
                "differ": any(rows[one][stated] != rows[other][stated] for stated in ("labels", "counts")),
            }
            for one, other, distance in pairs
        ],
    }


def evenly(rules: pd.Series, most: int) -> pd.Index:
    """The index of at most `most` entries, in which every rule gets its turn before any gets a second one."""
    turn = rules.groupby(rules).cumcount()
    order = pd.DataFrame({"turn": turn, "rule": rules}).sort_values(["turn", "rule"], kind="stable")
    return order.head(most).sort_values(["rule", "turn"], kind="stable").index


def gallery(dataset: Dataset, most: int) -> list[int]:
    """At most `most` images: one of nothing, and those that between them show every class in every split.

    Of the pairs of class and split the rarest comes first, in its image with the fewest boxes. What is left of `most`
    is filled with images of each split in turn. Ties are broken by sha256.
    """
    images, row = dataset.images, dataset.labels["row"].to_numpy()
    rank = np.argsort(images.sort_values(["boxes", "sha256"]).index)
    labels = dataset.labels.assign(split=images["split"].to_numpy()[row], rank=rank[row])
    labels["images"] = labels.groupby(["name", "split"])["row"].transform("size")
    shown = labels.sort_values("rank").drop_duplicates(["name", "split"]).sort_values("images", kind="stable")["row"]
    turns = images.sort_values("sha256").groupby("split").cumcount().sort_values(kind="stable").index
    chosen = dict.fromkeys([*images.index[images["labels"] == 0][:1], *shown, *turns])
    return sorted(map(int, list(chosen)[:most]))


def extremes(dataset: Dataset, most: int) -> list[tuple[str, str, pd.Series]]:
    """The images at the ends of what was measured, where mistakes gather: heading, words, and values by image."""
    images = dataset.images
    shares = box_measures(dataset)["side"].groupby(dataset.boxes["row"]).min() * 100
    measured = [
        ("Darkest", "Mean luma, of 255.", images["brightness"], True),
        ("Brightest", "Mean luma, of 255.", images["brightness"], False),
        ("Least sharp", "Variance of the Laplacian.", images["sharpness"], True),
        ("Smallest", "Pixels of the longer side.", images[["width", "height"]].max(axis=1), True),
        ("Most boxes", "Boxes in the image.", images["boxes"], False),
        ("Smallest boxes", "Square root of the box's share of the image, in percent.", shares, True),
    ]
    return [
        (name, words, values.nsmallest(most) if least else values.nlargest(most))
        for name, words, values, least in measured
        if values.nunique() > 1
    ]


def duplicate_pairs(images: pd.DataFrame, bits: int) -> list[tuple[int, int, int]]:
    """Each image with an earlier near duplicate, and their distance in bits, farthest apart first: at the threshold
    mistakes would show. Last come those with an earlier one of the same file, at a distance of -1.
    """
    own, first = np.arange(len(images)), first_alike(pa.chunked_array([pa.array(images["sha256"])]))
    hashes = pa.array(images["phash"], pa.binary(len(images["phash"][0])))
    partner = np.where(first < own, first, look_alike(pa.chunked_array([hashes]), bits)[0])
    words = np.frombuffer(b"".join(hashes.to_pylist()), np.uint64).reshape(len(own), -1)
    distance = np.where(first < own, -1, np.bitwise_count(words ^ words[partner]).sum(axis=1, dtype=np.int64))
    pairs = zip(partner.tolist(), own.tolist(), distance.tolist(), strict=True)
    return sorted((pair for pair in pairs if pair[0] >= 0), key=lambda pair: -pair[2])
