"""Every experiment of params.yaml trains, evaluates and exports, and trying it leaves nothing behind."""

import shutil

import pytest
from ruamel.yaml import YAML

from Datasets.format.curated import Curated
from Datasets.format.records import SPLITS
from Models.experimenting.trial import write_few
from Models.learning.data_loading import Samples
from tests.template.conftest import ROOT, copy_checkout, edit_params, refused, run_in, stage, succeeded
from tests.template.Models.shape_scenes import write_scenes

EXPERIMENTS = list(YAML(typ="safe").load(ROOT / "params.yaml")["experiments"])


def state(checkout):
    """What git sees of it, ignored files too, but caches and DVC's locks."""
    lines = run_in(checkout, "git", "status", "--porcelain", "--ignored").stdout.splitlines()
    return [line for line in lines if "cache" not in line and ".dvc/tmp" not in line]


@pytest.mark.skipif(not EXPERIMENTS, reason="params.yaml has no experiment yet")
@pytest.mark.long
def test_every_experiment_can_be_tried_and_leaves_nothing_behind(shapes, tmp_path):
    checkout, temporary = tmp_path / "checkout", tmp_path / "temporary"
    copy_checkout(checkout)
    for name in ("params.yaml", "dvc.yaml"):  # a project's own experiments, not the demonstration's
        shutil.copy(ROOT / name, checkout)
    edit_params(checkout, lambda p: [each["train"].update(tracker="mlflow") for each in p["experiments"].values()])
    temporary.mkdir()
    before, environment = state(checkout), {"TMPDIR": str(temporary), "DVC_ROOT": str(temporary / "elsewhere")}
    environment["MLFLOW_TRACKING_URI"] = (checkout / "mlruns").as_uri()
    command = ["python", "-m", "Models.experiment", "try", *EXPERIMENTS, "--curated", shapes]
    done = succeeded(run_in(checkout, *command, timeout=900, **environment))
    assert done.stderr.count("epoch 1/1") >= len(EXPERIMENTS)
    for experiment in EXPERIMENTS:
        assert f"{experiment} trains, evaluates and exports" in done.stdout
    if "e003" in EXPERIMENTS:
        assert "Datasets/pretrained/e001: not there yet; tried from random weights" in done.stderr
    assert state(checkout) == before and [p for p in temporary.iterdir() if "inductor" not in p.name] == []


def labels_first(split, number, record, files):
    """Most images, and the first, say nothing but which classes they show; the next have no boxes but crowds."""
    if number < 6:
        record["labels"], record["boxes"], record["mask"] = [box["name"] for box in record["boxes"]][:1], None, None
    elif number < 13:
        record["boxes"] = [each | {"crowd": True} for each in record["boxes"]]


@pytest.mark.parametrize("task", ["boxes", "mask", "labels", "counts"])
def test_what_the_model_learns_decides_on_the_few_images(tmp_path, task):
    written = write_scenes(tmp_path / "written", dict.fromkeys(SPLITS, 20), change=labels_first)
    write_few(Curated(written), tmp_path / "few", 6, task)
    assert len(Samples(Curated(tmp_path / "few"), "train", 48, task)) == 6


def test_a_stage_that_fails_is_told_by_its_own_line(tmp_path):
    for experiment in EXPERIMENTS[:1]:
        words = ["try", experiment, "--curated", tmp_path]
        refused(stage("Models.experiment", *words), "classes.json: not found")
    there = ", ".join(EXPERIMENTS) or "none"
    refused(stage("Models.experiment", "try", "e999"), f"has no experiment 'e999'; it has: {there}")
