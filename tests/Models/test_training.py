import json
import os
import subprocess
import sys

import pytest
import torch
from shape_scenes import ROOT, refused, run_stage, stage, write_scenes

from Datasets.curated import Curated
from Models import e001_center_detector as e001
from Models.data_loading import Samples
from Models.evaluation import coco_detections, coco_scores, coco_truth, predict
from Models.training import Options, train

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import Models.train as stage
import Models.e001_center_detector
from Datasets.command import run

def start():
    child = os.fork()
    if not child:
        run(stage.main)
        os._exit(0)
    return child

def changed():
    return [path.stat().st_mtime_ns for path in Path(os.environ["DVC_ROOT"]).rglob("*.pt")]

random.seed(0)
for kill in range(3):  # the first before there is a checkpoint, the others some steps after a new one
    before, child, deadline = changed(), start(), time.monotonic() + 60
    while kill and changed() == before and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
assert os.waitpid(start(), 0)[1] == 0
"""
LONG = ["--size=48", "--epochs=12", "--batch=4", "--threads=2", "--zoom=0.2", "--flip", "--", "--width=8"]


def test_it_learns_a_handful_of_images_by_heart(tmp_path):
    samples = Samples(Curated(write_scenes(tmp_path / "c", {"train": 12, "val": 0, "test": 0})), "train", 64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = e001.build(classes=2, width=16)
    options = Options(64, 60, 6, 6e-3, 0.01, False, 0.0, 0, 1, "cpu")
    rows = train(model, samples, options, lambda _: {}, tmp_path / "checkpoint.pt", lambda _: None)
    scores = coco_scores(coco_truth(samples), coco_detections(predict(model, samples, 6), samples.classes))
    assert scores.mAP50 > 0.95 and scores.mAP > 0.7
    assert [row["epoch"] for row in rows] == list(range(1, 61)) and rows[-1]["loss"] < rows[0]["loss"] / 4


def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_bytes(shapes, tmp_path):
    common = ["--script", "e001_center_detector", "--curated", str(shapes)]
    run_stage("train", *common, "--out", tmp_path / "whole", *LONG, home=tmp_path / "home1")
    command = [sys.executable, "-c", KILLED, *common, "--out", str(tmp_path / "killed"), *LONG]
    environment = {**os.environ, "DVC_ROOT": str(tmp_path / "home2")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resumed at step") == 2
    for name in ("weights.safetensors", "history.tsv", "metrics.json", "run.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    assert not list((tmp_path / "home2").rglob("*.pt")), "a complete training leaves no checkpoint behind"


def test_what_training_writes(outputs):
    train_out = outputs / "train"
    assert sorted(path.name for path in train_out.iterdir()) == [
        "history.tsv",
        "metrics.json",
        "run.json",
        "weights.safetensors",
    ]
    header, *rows = (train_out / "history.tsv").read_text().splitlines()
    assert header.split("\t")[:4] == ["step", "epoch", "learning_rate", "loss"] and len(rows) == 12
    assert json.loads((train_out / "metrics.json").read_text())["epoch"] == 12
    assert json.loads((train_out / "run.json").read_text())["build"] == {"width": 16}


def test_a_loss_that_is_no_number_stops_in_one_line_and_leaves_no_weights(shapes, tmp_path):
    common = ["--script", "e001_center_detector", "--curated", shapes, "--out", tmp_path / "out"]
    done = stage("train", *common, "--size", "48", "--learning-rate", "1e30", home=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "learning_rate (now 1e+30)" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--", "--depth", "3"], "build() takes no '--depth'; it takes --width, --detections"),
        (["--", "--width", "wide"], "--width: 'wide' is no int"),
        (["--", "--width"], "--width needs a value"),
        (["--", "--classes", "3"], "build() takes no '--classes'"),
        (["--", "--width", "0"], "width (0)"),
        (["--epochs", "many"], "--epochs"),
        (["--epoch", "3"], "--epoch"),
        (["--device", "abacus"], "device: 'abacus'"),
        (["--script", "e999_nothing"], "there is no Models/e999_nothing.py; the scripts are: e001_center_detector"),
        (["--script", "../train"], "there is no Models/../train.py"),
        (["--script", "training"], "Models/training.py: has no TASK"),
        (["--curated", "nowhere"], "nowhere/classes.json: not found"),
    ],
)
def test_a_mistake_is_told_in_one_line(shapes, tmp_path, words, message):
    common = ["--script", "e001_center_detector", "--curated", shapes, "--out", tmp_path / "out"]
    line = refused("train", *common, *words)
    assert message in line
    assert not (tmp_path / "out").exists()
