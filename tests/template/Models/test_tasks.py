"""What the tasks beside boxes have of their own: targets, figures, models. The figures of boxes: test_evaluation.py."""

import base64
import json
import shutil

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from test_training import tiny_options

from Datasets.format.curated import Curated
from Datasets.format.images import VOID
from Datasets.tools.errors import UserError
from Datasets.tools.params import with_entry
from Models import e002_coarse_to_fine as e002
from Models import e003_density_counter as e003
from Models import e004_classifier as e004
from Models import experiment
from Models.evaluate import named_confusion
from Models.experimenting.comparison import figure_of
from Models.learning import metrics
from Models.learning.augmentation import check_augmentation
from Models.learning.data_loading import IGNORED, Samples
from Models.learning.metrics import validate
from Models.learning.options import Options
from Models.learning.scripts import arguments_of_data
from Models.learning.training import train
from Models.learning.weights import read_initial, start_from
from tests.template.conftest import AUTHOR, copy_code, edit_params, run_in, succeeded
from tests.template.Models.shape_scenes import POOLED, png, refused, write_scenes


def samples_of(shapes, task, split="train"):
    return Samples(Curated(shapes), split, 64, task)


def segmentation(values):
    return {"labels": [], "mask": base64.b64encode(png(values)).decode()}


def counting(scores, expected=(0, 0)):
    both = ("disc", "square")
    return {"scores": dict(zip(both, scores, strict=True)), "expected": dict(zip(both, expected, strict=True))}


class Fixed:
    """Samples of known counts or masks, for figures that can be reckoned by hand."""

    classes = ("disc", "square")

    def __init__(self, task, truth):
        self.task, self.truth = task, [np.array(each) for each in truth]

    def __len__(self):
        return len(self.truth)

    def counts(self, index):
        return self.truth[index]

    def labels(self, index):
        return self.truth[index].astype(bool)

    def mask(self, index):
        return self.truth[index].astype(np.uint8)


def test_a_mask_follows_its_image_into_the_square_and_its_padding_is_ignored(shapes):
    batch = next(samples_of(shapes, "mask").batches([[0, 1]]))
    values = batch.targets["mask"]
    assert (values.shape, values.dtype) == ((2, 64, 64), torch.int64)
    assert (values[:, :8] == IGNORED).all() and (values[:, -8:] == IGNORED).all() and (values[:, 8:-8] >= 0).all()
    assert (values[1, 8:-8] >= 0).all(), "an image known to hold nothing is background"
    for value, colour in ((1, (200, 40, 40)), (2, (40, 60, 200))):
        inside = batch.images[0][:, values[0] == value].float()
        assert inside.numel() == 0 or (inside.mean(1) - torch.tensor(colour)).abs().max() < 1
    assert (values[0] > 0).any()


def test_what_is_not_annotated_is_ignored(tmp_path):
    def change(split, number, record, files):
        record["mask"]["bytes"] = png(np.full((48, 64), VOID, np.uint8))

    samples = samples_of(write_scenes(tmp_path / "c", {"train": 1, "val": 0, "test": 0}, change=change), "mask")
    assert (next(samples.batches([[0]])).targets["mask"] == IGNORED).all()


def test_labels_and_counts_are_those_of_the_boxes(shapes):
    boxes, numbers, shown = (samples_of(shapes, task) for task in ("boxes", "counts", "labels"))
    assert len(shown) == len(boxes) == len(numbers) + 1, "with a crowd it is not known how many there are"
    names = [record["image"] for record in boxes.records]
    for index, record in enumerate(numbers.records):
        same = names.index(record["image"])
        drawn = np.bincount(boxes.boxes(same, crowd=False)[1], minlength=2)
        assert (numbers.counts(index) == drawn).all() and (shown.labels(same) == (drawn > 0)).all()
    batch = next(numbers.batches([[0, 2, 3]]))
    assert (batch.targets["counts"].shape, batch.targets["counts"].dtype) == ((3, 2), torch.int64)
    assert next(shown.batches([[0, 2, 3]])).targets["labels"].dtype == torch.bool


def test_what_would_cut_off_counted_objects_is_refused():
    check_augmentation(Options(zoom=0.2, crop=0.2), "mask")
    check_augmentation(Options(flip=True, zoom=0, colour=0.5), "counts")
    with pytest.raises(UserError, match="set both to 0 for a task of counts"):
        check_augmentation(Options(zoom=0.2), "counts")


def test_a_split_without_masks_is_reported(tmp_path):
    def change(split, number, record, files):
        record["mask"] = None

    curated = write_scenes(tmp_path / "c", {"train": 2, "val": 2, "test": 2}, change=change)
    with pytest.raises(UserError, match=r"no image of the val split has mask to learn from; .*curate.draw_masks"):
        samples_of(curated, "mask", "val")


def test_iou_is_of_all_annotated_pixels_and_the_mean_of_the_classes_in_truth():
    truth = [[[1, 1, 0, 0], [1, 1, VOID, VOID]], [[0, 0, 0, 0], [0, 0, 0, 0]]]
    found = [[[1, 1, 1, 0], [1, 0, 2, 2]], [[0, 0, 0, 0], [0, 2, 2, 0]]]
    samples = Fixed("mask", truth)
    answers = [segmentation(np.array(each, np.uint8)) for each in found]
    measured = metrics.measure_masks(samples, answers, 0.0)
    assert measured.metrics == {"mIoU": 0.6, "pixel_accuracy": round(10 / 14, 6), "IoU": {"disc": 0.6}}
    assert metrics.validate_masks(samples, answers) == {"mIoU": 0.6}
    assert measured.curve == [(0.75, 0.75)] and measured.confusion == [("disc", "disc"), (None, "square")]
    assert measured.mistakes == pytest.approx([2 / 6, 2 / 8])
    assert figure_of(samples, answers, 0.0)(np.array([1, 1])) == pytest.approx(0.6)


def test_f1_and_counts_are_as_reckoned_by_hand():
    truth = [[1, 0], [2, 1], [0, 0], [0, 3]]
    answers = [
        counting((0.9, 0.2), (1.2, 0.1)),  # right
        counting((0.8, 0.3), (3.4, 0.6)),  # a disc too many, the square missed
        counting((0.1, 0.0)),
        counting((0.7, 0.9), (0.3, 2.6)),  # a disc where there is none, 3 squares
    ]
    samples = Fixed("counts", truth)
    measured = metrics.measure_labels(samples, answers, 0.5)
    assert measured.metrics["F1"] == {"disc": 0.8, "square": round(2 / 3, 6)}
    assert measured.metrics["macroF1"] == pytest.approx((0.8 + 2 / 3) / 2, abs=1e-6)
    assert (measured.metrics["MAE"], measured.metrics["total_MAE"]) == (0.5, 0.25) and measured.mistakes == [0, 2, 0, 1]
    assert measured.metrics["exact_count"] == 0.5
    assert figure_of(samples, answers, 0.5)(np.ones(4, int)) == pytest.approx(measured.metrics["macroF1"], abs=1e-6)
    assert measured.confusion.count(("square", "disc")) == 1 and (None, "disc") in measured.confusion
    shown = metrics.measure_labels(Fixed("labels", truth), answers, 0.5).metrics
    assert (shown["macroF1"], shown["exact"]) == (measured.metrics["macroF1"], 0.5)
    assert (shown["AP"], shown["mAP"], shown["top1"]) == ({"disc": 1.0, "square": 1.0}, 1.0, 1.0)
    worse = [*answers[:3], counting((0.7, 0.1))]  # its squares come after those of an image without: 1 of 1, 2 of 3
    shown = metrics.measure_labels(Fixed("labels", truth), worse, 0.5).metrics
    assert shown["AP"]["square"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-6) and shown["top1"] == round(
        2 / 3, 6
    )
    assert metrics.best_label_threshold(samples, answers) == 0.21, (
        "the lowest without a false square: only a disc is wrong"
    )
    assert metrics.validate_labels(samples, answers)["macroF1"] == 0.9
    assert metrics.validate_labels(samples, answers)["exact_count"] == 0.5
    assert measured.curve[0] == (0.0, 1.0) and measured.curve[-1] == (1.0, 0.8)


def test_perfect_answers_are_perfect(shapes):
    samples = samples_of(shapes, "mask", "val")
    perfect = [segmentation(samples.mask(index)) for index in range(len(samples))]
    assert metrics.measure_masks(samples, perfect, 0.0).metrics["mIoU"] == 1
    for task in ("counts", "labels"):
        samples = samples_of(shapes, task, "val")
        truth = [getattr(samples, task)(index) for index in range(len(samples))]
        perfect = [counting((each > 0).astype(float), each) for each in truth]
        assert metrics.measure_labels(samples, perfect, 0.5).metrics["macroF1"] == 1


def test_a_class_called_background_is_not_confused_with_no_object():
    samples = Fixed("labels", [[1, 0], [0, 1]])
    samples.classes = ["background", "disc"]
    answers = [{"scores": {"background": 0.9, "disc": 0.9}}, {"scores": {"background": 0.1, "disc": 0.1}}]
    measured = metrics.measure_labels(samples, answers, 0.5)
    pairs = named_confusion(measured, samples.classes)
    assert pairs == [("background", "background"), ("(background)", "disc"), ("disc", "(background)")]
    assert ("background", "disc") in named_confusion(measured, ["ring", "disc"])


@pytest.mark.parametrize(("height", "width"), [(96, 96), (100, 37), (5, 5)])
def test_the_models_take_images_of_any_size(height, width):
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    found = e002.build(classes=3, width=8).eval()(images)["mask"]
    assert (found.shape, found.dtype) == ((2, height, width), torch.uint8) and found.max() <= 3
    found = e003.build(classes=3, width=8).eval()(images)
    assert found["scores"].shape == found["counts"].shape == (2, 3)
    assert (found["scores"] >= 0).all() and (found["scores"] <= 1).all() and (found["counts"] >= 0).all()


def test_a_model_of_masks_learns_a_handful_of_images_by_heart(tmp_path):
    samples = samples_of(write_scenes(tmp_path / "c", {"train": 12, "val": 0, "test": 0}), "mask")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = e002.build(classes=2, width=16)
    train(model, samples, tiny_options(size=64, epochs=25, batch=6), lambda _: {}, tmp_path / "c.pt", lambda _: None)
    assert validate(model, samples, 6)["val_mIoU"] > 0.85


def test_a_model_of_counts_learns_from_the_detectors_weights(shapes, outputs, tmp_path):
    samples = samples_of(shapes, "counts")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = e003.build(classes=2, width=16)
    _, told = start_from(model, read_initial(outputs / "export"), samples.classes)
    assert told[1:] == ["init: 2 in it, but not used: distances.bias 4, distances.weight 4x32x1x1"], "all others fit"
    options = tiny_options(size=64, epochs=6, learning_rate=3e-3)
    train(model, samples, options, lambda _: {}, tmp_path / "c.pt", lambda _: None)
    figures = validate(model, samples_of(shapes, "counts", "test"), 6)
    assert figures["val_macroF1"] > 0.9 and figures["val_MAE"] < 0.3


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_model_of_labels_learns_one_class_or_several_of_an_image(tmp_path, exclusive):
    def change(split, number, record, files):
        if exclusive:
            record["labels"] = (record["labels"] or ["disc"])[:1]

    samples = samples_of(write_scenes(tmp_path / "c", {"train": 24, "val": 0, "test": 0}, change=change), "labels")
    arguments = arguments_of_data(e004.build, {"width": 16}, samples)
    shown = np.sum([samples.labels(index) for index in range(len(samples))], axis=0).tolist()
    assert arguments == {"exclusive": exclusive, "images": shown}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = e004.build(classes=2, width=16, balance=True, **arguments)
    options = tiny_options(size=64, epochs=25, batch=6)
    train(model, samples, options, lambda _: {}, tmp_path / "c.pt", lambda _: None)
    if not exclusive:
        assert validate(model, samples, 6)["val_macroF1"] > 0.9
    scores = model.eval()(torch.randint(0, 256, (2, 3, 40, 30), dtype=torch.uint8))["scores"]
    assert torch.allclose(scores.sum(1), torch.ones(2)) == exclusive


def test_labels_that_are_the_same_everywhere_are_refused(tmp_path):
    def change(split, number, record, files):
        record["labels"] = ["disc"]

    curated = write_scenes(tmp_path / "c", {"train": 4, "val": 2, "test": 0}, change=change)
    words = ["--script", "e004_classifier", "--curated", curated, "--out", tmp_path / "out", "--size", "64"]
    assert "all images of the split train show disc: there is nothing to tell apart" in refused("train", *words)


@pytest.mark.parametrize(
    ("task", "script"),
    [("boxes", "e001_center_detector"), ("mask", "e002_coarse_to_fine"), ("labels", "e004_classifier")],
)
def test_an_experiment_is_proposed_for_a_task_with_what_the_data_suggest(shapes, tmp_path, monkeypatch, task, script):
    copy_code(tmp_path, "Models")
    (tmp_path / "Datasets").mkdir()
    (tmp_path / "Datasets/curated").symlink_to(shapes)
    params = tmp_path / "params.yaml"
    params.write_text("pretrained:\n  efficientnet_lite0: {}\nexperiments:\n  e001: {script: e001_center_detector}\n")
    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    monkeypatch.setattr(experiment, "PARAMS", params)
    entry = experiment.proposed_entry(task)
    assert (entry["script"], entry["init"]) == (script, "efficientnet_lite0")
    assert entry["train"]["size"] == 64 and entry["train"]["zoom"] == (0.0 if task == "labels" else 0.3), (
        "64 pixels wide"
    )
    text = with_entry(params, "experiments", "e005", entry)
    assert YAML(typ="safe").load(text)["experiments"]["e005"] == entry and "    train:\n      size: 64\n" in text
    with pytest.raises(UserError, match="--for depth: no script of Models learns it; they learn boxes, mask, counts"):
        experiment.proposed_entry("depth")


@pytest.mark.long
def test_a_new_model_is_a_file_and_an_entry_and_learns_the_classes_that_are_kept(project, tmp_path):
    copy, kept = tmp_path / "copy", ["seven", "one", "three"]
    shutil.copytree(project, copy, symlinks=True)
    (copy / "Models/e900_pooled.py").write_text(POOLED)
    (copy / "Models/blocks").mkdir()
    (copy / "Models/blocks/__init__.py").touch()
    (copy / "Models/blocks/sizes.py").write_text("KERNEL = 8\n")

    def add(params):
        params["clean"]["keep"] = kept
        detector = params["experiments"]["e001"]
        entry = {"script": "e900_pooled", "train": {**detector["train"], "epochs": 1}, "model": {"width": 4}}
        params["experiments"]["e900"] = {**detector, **entry, "helpers": "Models/blocks"}

    edit_params(copy, add)
    succeeded(run_in(copy, "dvc", "repro", "export@e900", timeout=600, **AUTHOR))
    stages = YAML(typ="safe").load(copy / "dvc.lock")["stages"]
    for stage in ("train@e900", "evaluate@e900", "export@e900"):
        assert "Models/e900_pooled.py" in [dep["path"] for dep in stages[stage]["deps"]]

    export = copy / "Datasets/pretrained/e900"
    manifest = json.loads((export / "manifest.json").read_text())
    assert (manifest["task"], manifest["classes"], manifest["script"]["build"]["classes"]) == ("labels", kept, 3)
    data = set()  # of the stages before the training; others are as they ran before
    for stage in ("digits", "import@digits", "inspect@digits", "clean", "curate"):
        outs = {out["path"]: out["md5"] for out in stages[stage]["outs"]}
        assert outs.items() <= manifest["data"].items(), stage
        data |= {
            *outs,
            *(dep["path"] for dep in stages[stage]["deps"] if "intermediate/" in dep["path"] or "/raw/" in dep["path"]),
        }
    assert set(manifest["data"]) == data
    answers = json.loads((export / "sample/expected.json").read_text())
    assert all(list(answer["scores"]) == kept for answer in answers.values())

    before = due(copy)
    (copy / "Models/blocks/sizes.py").write_text("KERNEL = 6\n")
    assert due(copy) - before == {"train@e900", "evaluate@e900", "export@e900"}, "an edit of what its script imports"


def due(directory):
    """The stages that `dvc repro` would run."""
    return set(json.loads(succeeded(run_in(directory, "dvc", "status", "--json")).stdout))
