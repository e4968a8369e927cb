"""Whether the review finds labels that are wrong, and whether the images it chooses next teach more than others.

    PHOTOS=~/Downloads/raccoon.zip python -m tests.benchmarks review=3

Planted: 5 % of the boxes are deleted, moved or given another class, in all splits of the demonstration and, if PHOTOS
names some, of photographs with boxes; the model is trained on that. Next: from a tenth of the demonstration's training
images on, five rounds of a twentieth each, with so many seeds. Needs the demonstration as `dvc repro` leaves it.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from Datasets.format.curated import Curated
from Datasets.format.records import SPLITS
from Models.learning.box_metrics import best_threshold, overlaps
from Models.learning.data_loading import Samples
from Models.learning.metrics import validate
from Models.learning.weights import Run, read_run
from Models.reviewing import looks as reviewing
from Models.reviewing.looks import Look, out_of_sample, trained_without
from Models.reviewing.next_images import choose
from Models.reviewing.suspects import Suspect, in_boxes
from tests.benchmarks.bench_photos import VARIED, WEIGHTS, made, spread
from tests.benchmarks.measuring import ROOT, Figure, cost, python

SHARE, KINDS = 0.05, ("missing", "badly placed", "wrong class")
FIRST, ROUNDS = 0.10, 5
FOLDS, EPOCHS = 2, 25  # of photographs, of which there are few


def figures(seeds: int = 3) -> Iterator[Figure]:
    """All of it."""
    done = read_run(ROOT / "Models/outputs/e001/train")
    with tempfile.TemporaryDirectory() as directory:
        spoilt, planted = plant(ROOT / "Datasets/curated", Path(directory, "digits"))
        yield from found("the demonstration", spoilt, planted, done, folds=0)
        yield from chosen(done, seeds)
        if "PHOTOS" in os.environ:
            photos = Path(os.environ["PHOTOS"])
            project = made(Path(directory, "project"), "e001", False)
            cost(python("Data_processing.add_source", photos.stem, photos), project)
            cost(python("dvc", "repro", "curate", "pretrained@efficientnet_lite0"), project)
            init, model = WEIGHTS["ImageNet's weights"]
            words = ["--script", "e001_center_detector", "--out", "out", "--init", f"Datasets/pretrained/{init}"]
            cost(python("Models.train", *words, *VARIED, "--epochs", 1, "--", *model), project)
            run = read_run(project / "out")
            run = replace(run, train={**run.train, "epochs": EPOCHS})
            spoilt, planted = plant(project / "Datasets/curated", Path(directory, "photos"))
            os.chdir(project)  # where the initial weights are
            yield from found(photos.stem, spoilt, planted, run, FOLDS)
            os.chdir(ROOT)


def plant(curated: Path, out: Path) -> tuple[Path, dict[tuple[str, int], str]]:
    """A copy with spoilt boxes; what was done to each, by image and number of the box, and `box` where it was."""
    out.mkdir()
    (out / "classes.json").write_bytes((curated / "classes.json").read_bytes())
    classes, rng = list(Curated(curated).classes), np.random.default_rng(1)
    kinds = KINDS if len(classes) > 1 else KINDS[:2]
    planted: dict[Any, Any] = {}
    turn = 0
    for shard in sorted(curated.glob("*-of-*.parquet")):
        table = pq.read_table(shard)
        rows = table["boxes"].to_pylist()
        for row, path in enumerate(image["path"] for image in table["image"].to_pylist()):
            kept = []
            for box in rows[row] or []:
                kind = kinds[turn % len(kinds)] if rng.random() < SHARE and not box["crowd"] else ""
                turn += bool(kind)
                if kind == "missing":
                    planted[path, -len(planted) - 1] = box
                    continue
                if kind == "wrong class":
                    box = {**box, "name": rng.choice([name for name in classes if name != box["name"]])}
                elif kind:
                    box = moved(box, rng)
                if kind:
                    planted[path, len(kept)] = kind
                kept.append(box)
            rows[row] = kept if rows[row] is not None else None
        names = [None if boxes is None else sorted({box["name"] for box in boxes}) for boxes in rows]
        for column, values in (("boxes", rows), ("labels", names)):
            field = table.schema.field(column)
            table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
        pq.write_table(table, out / shard.name, row_group_size=64)
    return out, planted


def moved(box: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The box, shifted by a third to a half of its sides, towards the image's middle where it would leave it."""
    sides = {"x": box["x2"] - box["x1"], "y": box["y2"] - box["y1"]}
    shifts = {axis: rng.uniform(0.33, 0.5) * side * rng.choice([-1, 1]) for axis, side in sides.items()}
    shifts = {axis: abs(shift) if box[f"{axis}1"] + shift < 0 else shift for axis, shift in shifts.items()}
    corners = {f"{axis}{end}": box[f"{axis}{end}"] + shifts[axis] for axis in "xy" for end in "12"}
    return {**box, **corners, "segmentation": None}


def found(what: str, curated: Path, planted: dict[Any, Any], done: Run, folds: int) -> Iterator[Figure]:
    """Train on the spoilt labels, and see how high they rank."""
    data = Curated(curated)
    parts = {split: Samples(data, split, done.train["size"]) for split in SPLITS}
    model = trained_without(parts["train"], done, ["planted", what])
    threshold = best_threshold(parts["val"], reviewing.look(parts["val"], "val", model, 16, 0.5).predictions)
    looks = [reviewing.look(parts[split], split, model, 16, threshold) for split in SPLITS[1:]]
    if folds:
        train = reviewing.look(parts["train"], "train", model, 16, threshold)
        looks.append(out_of_sample(train, done, threshold, folds))
    suspects = [(look, each) for look in looks for row in range(len(look.samples)) for each in in_look(look, row)]
    kinds = [kind_of(look, each, planted) for look, each in suspects]
    order = np.argsort([-each.suspicion for _, each in suspects], kind="stable")
    images = {record["image"] for look in looks for record in look.samples.records}
    number = sum(path in images for path, _ in planted)
    right = sum(kinds[i] not in ("", "labelled") for i in order[:number])
    labels = [
        (each.suspicion, kind) for (_, each), kind in zip(suspects, kinds, strict=True) if each.number is not None
    ]
    ranked = [
        f"{kind} {area([s for s, k in labels if k == kind], [s for s, k in labels if k == 'labelled']):.3f}"
        for kind in KINDS[1:]
        if any(k == kind for _, k in labels)
    ]
    best = {image: 0.0 for image in images}
    for look, each in suspects:
        if each.kind == "missing":
            path = look.samples.records[each.row]["image"]
            best[path] = max(best[path], each.suspicion)
    spoilt = {path for path, place in planted if place < 0}
    lost = area([best[path] for path in images & spoilt], [best[path] for path in images - spoilt])
    details = (
        f"AUROC: {', '.join([f'missing {lost:.3f} (of images)', *ranked])}; {number} planted in {len(labels)} labels"
    )
    precision = f"{right / number:.2f}"
    chance = f"random order {number / len(labels):.2f}"
    yield Figure(f"precision at the number planted: {what}", chance, precision, "AUROC 0.90, placed 0.80", details)


def in_look(look: Look, row: int) -> Iterator[Suspect]:
    """All that is said of an image, however little suspicious."""
    return in_boxes(look.samples, row, look.predictions[row])


def kind_of(look: Look, suspect: Suspect, planted: dict[Any, Any]) -> str:
    """What was planted where a suspect is; "labelled" for a label that was left alone, "" for nothing."""
    path = look.samples.records[suspect.row]["image"]
    if suspect.number is not None:
        return planted.get((path, suspect.number), "labelled")
    gone = [box for (image, place), box in planted.items() if image == path and place < 0]
    corners = np.array([[box[side] for side in ("x1", "y1", "x2", "y2")] for box in gone]).reshape(-1, 4)
    return "missing" if (overlaps(np.array([suspect.place]), corners, crowd=False) >= 0.5).any() else ""


def area(positive: list[float], negative: list[float]) -> float:
    """AUROC: how often a planted one is more suspicious than another; ties count half."""
    p, n = np.array(positive)[:, None], np.array(negative)[None]
    return float(((p > n) + 0.5 * (p == n)).mean())


def chosen(done: Run, seeds: int) -> Iterator[Figure]:
    """mAP on test after each round, chosen and at random."""
    data = Curated(ROOT / "Datasets/curated")
    train, val, test = (Samples(data, split, done.train["size"]) for split in SPLITS)
    ways: dict[str, list[list[float]]] = {"chosen": [], "at random": []}
    for seed in range(seeds):
        start = np.random.default_rng(seed).permutation(len(train))[: round(FIRST * len(train))].tolist()
        for way, curves in ways.items():
            rows, curve = list(start), []
            for step in range(ROUNDS + 1):
                epochs = round(
                    done.train["epochs"] * len(train) / len(rows) / 3
                )  # a third of the steps of a whole training
                how = replace(done, train={**done.train, "epochs": epochs, "seed": seed})
                model = trained_without(train.subset(rows), how, [way, seed, step])
                curve.append(validate(model, test, 16)["val_mAP"])
                rest = sorted(set(range(len(train))) - set(rows))
                count = round(len(train) * FIRST / 2)
                rows += pick(way, model, train, val, rows, rest, count, np.random.default_rng([seed, step]))
            curves.append(curve)
            print(f"{way}, seed {seed}: {' '.join(f'{value:.3f}' for value in curve)}", flush=True)
    means = {way: np.mean(curves, axis=0) for way, curves in ways.items()}
    gains = [float(np.mean(a[1:]) - np.mean(b[1:])) for a, b in zip(*ways.values(), strict=True)]
    details = "; ".join(f"{way}: {' '.join(f'{value:.3f}' for value in curve)}" for way, curve in means.items())
    what = f"mAP gained by choosing, the mean of {ROUNDS} rounds"
    yield Figure(what, "random choice", spread(gains), "above 0", f"{details}; {seeds} seeds")


def pick(
    way: str, model: Any, train: Samples, val: Samples, rows: list[int], rest: list[int], count: int, rng: Any
) -> list[int]:
    """The images to label next."""
    if way == "at random":
        return rng.permutation(rest)[:count].tolist()
    threshold = best_threshold(val, reviewing.look(val, "val", model, 16, 0.5).predictions)
    new = reviewing.look(train.subset(rest), "train", model, 16, threshold)
    known = np.array(reviewing.look(train.subset(rows), "train", model, 16, threshold).features)
    own = np.array(new.features)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (own, known)]
    return [rest[i] for i in choose(unit[0], np.array(new.uncertainties), unit[1], count)]
