import csv
import io
import json
import shutil
from collections import Counter
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from Datasets.format.coco import predictions_to_coco
from Datasets.format.curated import Curated
from Datasets.format.records import read_predictions
from Models.experimenting.comparison import figure_of
from Models.learning.box_metrics import (
    best_threshold,
    coco_precision,
    coco_truth,
    confusion,
    match,
    measure,
)
from Models.learning.data_loading import Samples
from Models.learning.metrics import predict
from Models.learning.weights import read_trained
from tests.template.Models.shape_scenes import refused, write_scenes


def predicted(*boxes):
    keys = ("name", "x1", "y1", "x2", "y2", "score")
    return {
        "width": 64,
        "height": 48,
        "labels": [],
        "counts": [],
        "boxes": [dict(zip(keys, b, strict=True)) for b in boxes],
    }


def truth_of(samples, index):
    boxes, kinds = samples.boxes(index, crowd=False)
    return [(samples.classes[kind], *sides) for sides, kind in zip(boxes.tolist(), kinds, strict=True)]


def guesses(samples, seed=0):
    """True boxes moved about, some left out, some of the wrong class, and some of nothing."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(len(samples)):
        boxes = []
        for name, *sides in truth_of(samples, index):
            if random.random() < 0.85:
                name = name if random.random() < 0.8 else str(random.choice(samples.classes))
                boxes.append((name, *(np.array(sides) + random.normal(0, 1.5, 4)).tolist(), random.random()))
        if random.random() < 0.5:
            x, y = random.uniform(0, 40, 2).tolist()
            boxes.append((str(random.choice(samples.classes)), x, y, x + 15, y + 12, random.random()))
        found.append(predicted(*sorted(boxes, key=lambda box: -box[-1])))
    return found


@pytest.fixture(scope="module")
def samples(shapes):
    return Samples(Curated(shapes), "train", 48)


def test_average_precision_is_that_of_pycocotools(samples):
    truth, guessed = coco_truth(samples), guesses(samples)
    assert any(each["iscrowd"] for each in truth["annotations"])
    of_sizes, classes = coco_precision(samples, guessed)
    ours = of_sizes[..., 0]
    rows = [{"image": str(number), **prediction} for number, prediction in enumerate(guessed)]
    found = predictions_to_coco(rows, "boxes", samples.classes)["annotations"]
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        theirs = COCOeval(coco, coco.loadRes(found), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    assert [ours.mean(), ours[0].mean(), ours[5].mean()] == pytest.approx(theirs.stats[:3], abs=1e-9)
    known = [size[size >= 0].mean() if (size >= 0).any() else -1 for size in np.moveaxis(of_sizes, -1, 0)[1:]]
    assert known == pytest.approx(theirs.stats[3:6], abs=1e-9), "small, medium and large"
    by_class = theirs.eval["precision"][:, :, :, 0, 2].mean((0, 1))
    assert ours.mean((0, 1)).tolist() == pytest.approx(by_class.tolist(), abs=1e-9) and classes == samples.classes
    assert 0.1 < ours.mean() < 0.9


def test_map50_of_images_drawn_several_times_is_cocos_of_their_copies(samples):
    guessed, random = guesses(samples), np.random.default_rng(0)
    figure = figure_of(samples, guessed, 0.5)
    for times in (np.ones(len(samples), int), random.integers(0, 4, len(samples))):
        rows = np.repeat(np.arange(len(samples)), times).tolist()
        precision, _ = coco_precision(samples.subset(rows), [guessed[row] for row in rows])
        assert figure(times) == pytest.approx(precision[0, ..., 0].mean(), abs=2e-3), "but for equal scores"


def test_perfect_predictions_have_a_precision_of_1(samples):
    perfect = [predicted(*((*each, 0.9) for each in truth_of(samples, i))) for i in range(len(samples))]
    assert coco_precision(samples, perfect)[0][..., 0].min() == pytest.approx(1)
    assert best_threshold(samples, perfect) == 0.9
    assert all(actual == found for actual, found in confusion(samples, perfect))


def test_no_prediction_has_a_precision_of_0(samples):
    metrics = measure(samples, [predicted()] * len(samples), 0.5).metrics
    assert metrics["mAP"] == 0 and metrics["AP"] == metrics["AP50"] == {"disc": 0, "square": 0}
    assert best_threshold(samples, [predicted()] * len(samples)) == 0.5


def test_the_threshold_parts_right_from_wrong(samples):
    found = [predicted(*((*each, 0.71237) for each in truth_of(samples, i))) for i in range(len(samples))]
    for prediction in found[::2]:
        prediction["boxes"].append(predicted(("disc", 0.0, 0.0, 3.0, 3.0, 0.4))["boxes"][0])
    threshold, objects = best_threshold(samples, found), sum(len(truth_of(samples, i)) for i in range(len(samples)))
    assert threshold == 0.7123 and measure(samples, found, threshold).metrics["F1"] == 1
    next(prediction for prediction in found if len(prediction["boxes"]) > 1)["boxes"].pop(0)
    figures, right, wrong = measure(samples, found, 0.3).metrics, objects - 1, len(found[::2])
    assert figures["precision"] == pytest.approx(right / (right + wrong), abs=1e-6)
    assert figures["recall"] == pytest.approx(right / objects, abs=1e-6)
    assert figures["F1"] == pytest.approx(2 * right / (right + wrong + objects), abs=1e-6)


def test_the_confusion_counts_each_object_and_each_false_detection(samples):
    found = guesses(samples)
    pairs = confusion(samples, found)
    objects = sum(len(truth_of(samples, index)) for index in range(len(samples)))
    assert sum(actual is not None for actual, _ in pairs) == objects
    assert Counter(pairs)["disc", "square"] > 0 and Counter(pairs)[None, "disc"] > 0
    assert (None, None) not in pairs


def test_a_detection_in_a_crowd_is_not_a_mistake(samples):
    index = next(i for i, r in enumerate(samples.records) if any(box["crowd"] for box in r["boxes"]))
    inside = predicted(("disc", 42.0, 2.0, 60.0, 20.0, 0.9))
    assert match(samples, index, inside, same_class=False).extra == []
    assert match(samples, index, inside, same_class=True).extra == []
    inside["boxes"][0]["name"] = "square"
    assert match(samples, index, inside, same_class=False).extra == []
    assert match(samples, index, inside, same_class=True).extra == [0], "COCO's mAP counts it, too"


def test_the_image_with_most_mistakes_is_found(samples):
    found = [predicted(*((*each, 0.9) for each in truth_of(samples, i))) for i in range(len(samples))]
    found[7] = predicted(("disc", 0.0, 0.0, 9.0, 9.0, 0.8), ("square", 50.0, 30.0, 63.0, 47.0, 0.7))
    mistakes = measure(samples, found, 0.5).mistakes
    assert max(range(len(samples)), key=lambda i: mistakes[i]) == 7


def test_what_evaluating_writes(outputs, shapes):
    out = outputs / "evaluate"
    metrics = json.loads((out / "metrics.json").read_text())
    _, model, _ = read_trained(outputs / "train", shapes)
    val, test = (Samples(Curated(shapes), split, 48) for split in ("val", "test"))
    on_val, on_test = (best_threshold(each, predict(model, each, 8)) for each in (val, test))
    assert metrics["score_threshold"] == pytest.approx(on_val, abs=1e-3) and abs(on_val - on_test) > 1e-3
    assert metrics["mAP50"] > 0.5 and set(metrics["AP"]) == {"disc", "square"}
    assert np.mean(list(metrics["AP50"].values())) == pytest.approx(metrics["mAP50"], abs=1e-5)
    assert (metrics["images"], metrics["train_images"]) == (11, 59), "one of each split is not annotated"
    assert 0 < metrics["score_threshold"] < 1
    kept = read_predictions(out / "predictions.parquet")
    assert kept == dict(zip((record["image"] for record in test.records), predict(model, test, 8), strict=True))
    rows = list(csv.DictReader((out / "precision_recall.csv").open()))
    assert len(rows) == 101 and (rows[0]["recall"], rows[-1]["recall"]) == ("0", "1")
    assert {"actual", "predicted"} == set(next(csv.DictReader((out / "confusion.csv").open())))


def test_a_test_split_without_boxes_is_reported(outputs, tmp_path):
    curated = write_scenes(tmp_path / "curated", {"train": 2, "val": 2, "test": 0})
    words = ["--curated", curated, "--trained", outputs / "train"]
    assert "no image of the test split has boxes to learn" in refused("evaluate", *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(outputs, shapes):
    words = ["--curated", shapes, "--trained", outputs / "train", "--device", "cuda"]
    assert "device: 'cuda' cannot be used here: " in refused("evaluate", *words)


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("run.json", lambda data: data[:-9], "run.json: damaged, or of another version"),
        ("run.json", lambda data: data.replace(b'"data"', b'"dates"'), "run.json: damaged, or of another version"),
        ("run.json", lambda data: data.replace(b'"width": 16', b'"width": 8'), "or not of the model that Models/e001_"),
        ("weights.safetensors", lambda data: data[:-9], "weights.safetensors: damaged, or not of the model"),
    ],
)
def test_what_a_training_made_and_is_damaged_is_refused(outputs, shapes, tmp_path, file, change, line):
    trained = shutil.copytree(outputs / "train", tmp_path / "train")
    (trained / file).write_bytes(change((trained / file).read_bytes()))
    assert line in refused("evaluate", "--curated", shapes, "--trained", trained)
