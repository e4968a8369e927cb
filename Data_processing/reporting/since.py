"""What changed since a revision: numbers, images with their annotations, and by hand the models' test figures.

The curated dataset of the revision comes from DVC's cache, or else its remote. Of models no stage of this package may
know, so only a page that is made by hand has their figures.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from Data_processing.reporting.data import CORNERS, Dataset, changes, read_rows
from Data_processing.reporting.sections import SIDE, evenly
from Datasets.format.images import read_mask
from Datasets.pages.page import picture
from Datasets.tools.errors import UserError, one_line

SHOWN = 12  # images of each kind
COLUMNS = ["image.path", "sha256", "source", "split", "labels", "counts", "boxes", "mask.bytes"]
Tree = Mapping[str, Any]
Kinds = Mapping[str, pd.DataFrame]
Shards = tuple[Sequence[Any], Sequence[str]]  # paths or open files, and the names of classes in id order


def changed_since(revision: str, files: Mapping[str, Tree], curated: Path, dataset: Dataset) -> dict[str, Any]:
    """What the page shows. files: each metrics file's numbers now.

    Raises UserError if there is no such revision, or one of the files is not in it.
    """
    from dvc.api import DVCFileSystem
    from dvc.scm import RevError, SCMError

    repository = os.environ.get("DVC_ROOT")  # a queued experiment runs in a copy that lacks tags and old commits
    why = "has no entry in the dvc.lock of then, or was not pushed: `dvc push` it where it was made"
    try:
        then = DVCFileSystem(repository, rev=revision)
        before = {path: json.loads(then.read_bytes(path)) for path in files}
    except RevError as error:
        raise UserError(f"report.since: {revision!r} is no revision of this repository") from error
    except SCMError as error:
        raise UserError(f"report.since: {one_line(error)}") from error
    except FileNotFoundError as error:
        raise UserError(f"report.since: of revision {revision!r}, {error.filename} {why}") from error
    numbers = [change for path, now in files.items() for change in changes(before[path], now)]
    models = [] if "DVC_STAGE" in os.environ else changes(figures(then), figures(DVCFileSystem(repository)))
    found = {"revision": revision, "changes": numbers, "figures": models}
    try:
        classes = list(json.loads(then.read_bytes(f"{curated}/classes.json")))
        old: Shards = [then.open(name) for name in sorted(then.glob(f"{curated}/*-of-*.parquet"))], classes
    except FileNotFoundError:
        return {**found, "missing": f"Of revision {revision}, {curated} {why}"}
    new: Shards = dataset.shards, dataset.classes
    every = list(dict.fromkeys([*dataset.classes, *classes]))
    kinds = changed_images(read_images(old, every), read_images(new, every))
    tallies = {"Source": tally(kinds, "source"), "Class": tally(kinds, "labels")}
    shown = {"tallies": tallies, "cards": cards(kinds, old, new)}
    return {**found, **shown, "totals": {kind: len(rows) for kind, rows in kinds.items()}}


def figures(files: Any) -> dict[str, dict[str, float]]:
    """The test figures of each model that are not of one class. files: a DVCFileSystem."""
    found = {}
    for path in files.glob("Models/outputs/*/evaluate/metrics.json"):
        with suppress(FileNotFoundError):
            content = json.loads(files.read_bytes(path))
            found[path.split("/")[2]] = {name: value for name, value in content.items() if not isinstance(value, dict)}
    return found


def read_images(shards: Shards, every: Sequence[str]) -> pd.DataFrame:
    """Of each image: image, sha256, source, split, labels, and stated, which tells annotations apart.

    every: names of classes here and elsewhere, by which masks of other ids become comparable.
    """
    ids = np.arange(256, dtype=np.uint8)
    ids[1 : len(shards[1]) + 1] = [every.index(name) + 1 for name in shards[1]]
    batches = (batch for shard in shards[0] for batch in pq.ParquetFile(shard).iter_batches(1000, columns=COLUMNS))
    return pd.DataFrame(_summary(row, ids) for batch in batches for row in batch.to_pylist())


def _summary(row: dict[str, Any], ids: np.ndarray) -> dict[str, Any]:
    for box in row["boxes"] or ():
        box |= {side: round(box[side], 2) for side in CORNERS}  # as exactly as labelling tools keep them
    boxes = row["boxes"] and sorted(map(json.dumps, row["boxes"]))
    mask = row["mask"] and hashlib.sha256(ids[read_mask(row["mask"]["bytes"])]).hexdigest()
    known = {name: row[name] for name in ("sha256", "source", "split")} | {"image": row["image"]["path"]}
    return {**known, "labels": row["labels"] or [], "stated": json.dumps([row["labels"], row["counts"], boxes, mask])}


def changed_images(old: pd.DataFrame, new: pd.DataFrame) -> Kinds:
    """The images of each kind of change, with their rows in `old` and `new`.

    The same image is one of the same file and name, else of the same file, else of the same name.
    """
    parts = []
    for keys in (["sha256", "image"], ["sha256"], ["image"]):
        before, after = (each.assign(turn=each.groupby(keys).cumcount(), row=each.index) for each in (old, new))
        parts.append(before.merge(after, on=[*keys, "turn"], suffixes=("_old", "_new")))
        old, new = old.drop(parts[-1]["row_old"]), new.drop(parts[-1]["row_new"])
    both = pd.concat(parts, ignore_index=True)
    both["labels"] = [sorted({*one, *other}) for one, other in zip(both["labels_old"], both["labels_new"], strict=True)]
    both["source"] = both["source_new"]
    return {
        "added": new.assign(row_new=new.index, split_new=new["split"]),
        "removed": old.assign(row_old=old.index, split_old=old["split"]),
        "moved": both[both["split_old"] != both["split_new"]],
        "relabelled": both[both["stated_old"] != both["stated_new"]],
    }


def tally(kinds: Kinds, column: str) -> list[tuple[str, list[int]]]:
    """How many images of each kind have each value of a column; of lists, each value."""
    counts = pd.DataFrame({kind: rows[column].explode().value_counts() for kind, rows in kinds.items()})
    return [(str(name), list(map(int, row))) for name, *row in counts.fillna(0).sort_index().itertuples()]


def cards(kinds: Kinds, old: Shards, new: Shards) -> dict[str, list[Any]]:
    """Of each kind at most SHOWN images, evenly over sources and first classes: splits and pictures, old before new."""
    groups = {kind: rows["source"] + "/" + rows["labels"].str[0].fillna("") for kind, rows in kinds.items()}
    chosen = {kind: rows.loc[evenly(groups[kind], SHOWN)] for kind, rows in kinds.items()}
    pictures = {}
    for side, (shards, classes) in {"old": old, "new": new}.items():
        numbers = [number for rows in chosen.values() for number in rows.get(f"row_{side}", ())]
        pictures[side] = {n: picture(row, classes, SIDE) for n, row in read_rows(shards, numbers).items()}

    def card(row: Mapping[Any, Any]) -> list[Any]:
        sides = [side for side in pictures if f"row_{side}" in row]
        return [(pictures[side][row[f"row_{side}"]], row[f"split_{side}"]) for side in sides]

    return {kind: [card(row) for row in rows.to_dict("records")] for kind, rows in chosen.items()}
