"""Review: which labels may be wrong, where a model fails, and what it sees in each image.

    python -m Models.review e001
    python -m Models.review next pool.parquet --count 100 --to next.parquet

Looks at the splits val and test, which the model was not trained on; with --folds also at train, by that many models
that are each trained without a part of it. Writes into Models/outputs/ID: review.html (a page that needs nothing else),
review.parquet (a row for each suspect, the most suspicious first; Models/reviewing/suspects.py) and features.parquet
(a row for each image: image, sha256, split, mistakes, uncertainty, and features, what the model sees in it). `next`
chooses the images to label next (Models/reviewing/next_images.py).
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from Datasets.format.curated import read_origins
from Datasets.format.records import SPLITS
from Datasets.pages.page import write_page
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError
from Models.learning.data_loading import Samples
from Models.learning.weights import read_trained
from Models.reviewing.looks import Look, look, out_of_sample
from Models.reviewing.next_images import OUTPUTS, next_images
from Models.reviewing.sections import failures, maps, suspect_cards, things, worst_cards
from Models.reviewing.suspects import Suspect, find_suspects

PAGE = Path(__file__).parent / "reviewing" / "page.html"
TEXT, NUMBER = pa.string(), pa.float64()
CORNERS = pa.list_(NUMBER)  # x1, y1, x2, y2 in pixels of the image
IMAGE = dict.fromkeys(("image", "sha256", "split"), TEXT)
SUSPECT = {"kind": TEXT, "suspicion": NUMBER, "name": TEXT, "predicted": TEXT, "box": CORNERS, "place": CORNERS}
SUSPECTS = pa.schema({**IMAGE, **SUSPECT, "path": TEXT, "origin": TEXT})
FEATURES = pa.schema({**IMAGE, "mistakes": NUMBER, "uncertainty": NUMBER, "features": pa.list_(pa.float32())})


def main(
    experiment: Annotated[str, typer.Argument(help="id of the experiment, as in params.yaml", show_default=False)],
    curated: Annotated[Path, typer.Option(help="curated dataset")] = Path("Datasets/curated"),
    folds: Annotated[int, typer.Option(min=0, help="models to train for suspects in train: 0, or 2 and more")] = 0,
) -> None:
    """Write what the labels and the model of an experiment look like beside each other.

    `python -m Models.review next --help`: which images to label next.
    """
    directory = OUTPUTS / experiment
    if folds == 1:
        raise UserError("folds: 1 would train on nothing; give 0, or 2 and more")
    if not (directory / "evaluate/metrics.json").is_file():
        raise UserError(f"{directory}/evaluate: not found; `dvc repro evaluate@{experiment}`, if params.yaml has it")
    done, model, data = read_trained(directory / "train", curated)
    threshold = json.loads((directory / "evaluate/metrics.json").read_bytes())["score_threshold"]
    if data.fingerprint() != done.data:
        again = f"which may have learned from images of val and test; `dvc repro review@{experiment}`"
        print(f"{curated}: has changed since the training of {experiment}, {again}", file=sys.stderr)
    samples = {split: Samples(data, split, done.train["size"], done.task) for split in SPLITS}
    batch = done.train["batch"]
    looks = [look(samples[split], split, model, batch, threshold, unseen=split != "train") for split in SPLITS]
    if folds:
        looks[0] = out_of_sample(looks[0], done, threshold, folds)
    unseen = [each for each in looks if each.unseen]

    found = [(each, suspect) for each in unseen for suspect in find_suspects(each)]
    found.sort(key=lambda pair: -pair[1].suspicion)
    origins = read_origins(curated)
    rows = [row_of(each, suspect, origins) for each, suspect in found]
    write_table(rows, SUSPECTS, directory / "review.parquet")
    weights = hashlib.sha256((directory / "train/weights.safetensors").read_bytes()).hexdigest()
    features = [row for each in looks for row in features_of(each)]
    write_table(features, FEATURES.with_metadata({"weights": weights}), directory / "features.parquet")
    splits = [(each.split, len(each.samples)) for each in unseen]
    values = {
        "experiment": experiment,
        "task": done.task,
        "splits": splits,
        "count": len(found),
        "suspects": suspect_cards(found, rows),
        "failures": list(failures(pd.concat([things(each, threshold) for each in unseen]))),
        "worst": worst_cards(unseen, threshold, origins),
        "maps": maps(looks),
    }
    write_page(PAGE, values, directory / "review.html")
    print(f"{directory}/review.html: {len(found)} labels of {sum(dict(splits).values())} images may be wrong")


def row_of(look: Look, suspect: Suspect, origins: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A suspect as a row of review.parquet."""
    record = look.samples.records[suspect.row]
    place = origins.get(record["image"], {})
    origin = place.get("origin")
    if suspect.number is not None and place:
        origin = place["boxes"][suspect.number]
    row = {"image": record["image"], "sha256": record["sha256"], "split": look.split, "path": place.get("path")}
    return {**row, **suspect._asdict(), "origin": origin}


def features_of(look: Look) -> Iterator[dict[str, Any]]:
    """The rows of features.parquet."""
    mistakes = look.mistakes if look.unseen else [None] * len(look.samples)
    each = zip(look.samples.records, mistakes, look.uncertainties, look.features, strict=True)
    for record, wrong, unsure, features in each:
        row = {"image": record["image"], "sha256": record["sha256"], "split": look.split}
        yield {**row, "mistakes": wrong, "uncertainty": unsure, "features": features}


def write_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write rows as Parquet; what the schema does not name is left out."""
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), partial, compression="zstd")


if __name__ == "__main__":
    if sys.argv[1:2] == ["next"]:
        del sys.argv[1]
        run(next_images)
    else:
        run(main)
