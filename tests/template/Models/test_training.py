import contextlib
import csv
import itertools
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from Datasets.format.curated import Curated
from Datasets.tools.errors import UserError
from Models import e001_center_detector as e001
from Models.learning import data_loading, training
from Models.learning.data_loading import Samples, epoch_order
from Models.learning.metrics import validate
from Models.learning.scripts import build_model, evaluating
from Models.learning.training import Options, checkpoint_path, load_checkpoint, save, start, train, update
from Models.learning.weights import write_weights
from Models.learning.work import prepare
from tests.template.Models.shape_scenes import ROOT, refused, run_stage, stage, write_scenes
from tests.template.Models.shared_steps import without_batch_norm

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import faster_coco_eval, torch._dynamo  # once, instead of in each child
import Models.train as stage
import Models.e001_center_detector
from Datasets.tools.command import run
from tests.template.conftest import until

def start():
    child = os.fork()
    if not child:
        run(stage.main)
        os._exit(0)
    return child

def changed():
    return [path.stat().st_mtime_ns for path in Path(os.environ["DVC_ROOT"]).rglob("*.pt")]

random.seed(0)
for kill in range(2):  # the first before there is a checkpoint, the second some steps after one
    before, child = changed(), start()
    until(lambda: not kill or changed() != before)
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
assert os.waitpid(start(), 0)[1] == 0
"""


def tiny_options(**changes):
    """Settings for a training of a few seconds."""
    some = {"size": 48, "epochs": 12, "batch": 8, "learning_rate": 6e-3, "zoom": 0.0, "threads": 1}
    return Options(**{**some, "device": "cpu", "precision": "fp32", **changes})


BACKBONES = Path("Models/backbones")
VARIED = ["--zoom=0.2", "--crop=0.2", "--colour=0.3", "--flip"]
LONG = ["--size=48", "--epochs=7", "--batch=4", "--threads=1", *VARIED, "--", "--width=8"]


def test_what_a_script_puts_into_evaluation_mode_stays_in_it(shapes, tmp_path):
    model = e001.build(classes=2, width=8)
    model.backbone.body.eval()
    before = {name: values.clone() for name, values in model.state_dict().items() if "running" in name}
    samples = Samples(Curated(shapes), "val", 48)
    train(
        model, samples, tiny_options(epochs=2), lambda each: validate(each, samples, 8), tmp_path / "c", lambda _: None
    )
    moved = {name for name, values in before.items() if not torch.equal(values, model.state_dict()[name])}
    assert moved == {name for name in before if not name.startswith("backbone.body.")}


def test_weights_that_no_graph_has_room_for_are_refused_before_the_training():
    large = torch.nn.Linear(30_000, 20_000, device="meta")
    large.loss = lambda *_: {}
    with pytest.raises(UserError, match=r"its weights take 2\.4 GB, and an ONNX graph has room for 2"):
        build_model(SimpleNamespace(build=lambda classes: large, __name__="Models.e999"), 2, {})


def test_it_learns_a_handful_of_images_by_heart(tmp_path):
    samples = Samples(Curated(write_scenes(tmp_path / "c", {"train": 12, "val": 0, "test": 0})), "train", 64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = e001.build(classes=2, width=16)
    options = tiny_options(size=64, epochs=60, batch=6)
    rows = train(model, samples, options, lambda _: {}, tmp_path / "checkpoint.pt", lambda _: None).history
    figures = validate(model, samples, 6)
    assert figures["val_mAP50"] > 0.95 and figures["val_mAP"] > 0.7
    assert [row["epoch"] for row in rows] == list(range(1, 61)) and rows[-1]["loss"] < rows[0]["loss"] / 4


@pytest.mark.long
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_bytes(shapes, tmp_path):
    common = ["--script", "e001_center_detector", "--curated", str(shapes)]
    run_stage("train", *common, "--out", tmp_path / "whole", *LONG, home=tmp_path / "home1")
    command = [sys.executable, "-c", KILLED, *common, "--out", str(tmp_path / "killed"), *LONG]
    environment = {**os.environ, "DVC_ROOT": str(tmp_path / "home2")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resumed at step") == 1
    for name in ("weights.safetensors", "history.tsv", "metrics.json", "run.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    assert not list((tmp_path / "home2").rglob("*.pt")), "a complete training leaves no checkpoint behind"


@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "accumulate": 2, "validate_every": 2}])
def test_interrupted_at_any_step_and_started_again_it_ends_as_the_undisturbed(tmp_path, monkeypatch, more):
    torch.set_num_threads(1)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 1e9)  # after each step
    samples = Samples(Curated(write_scenes(tmp_path / "c", {"train": 12, "val": 0, "test": 0})), "train", 32)
    options = tiny_options(size=32, epochs=3, batch=4, zoom=0.2, **more)  # of 3 steps

    def learn(checkpoint, interrupted=0):
        """The history, the best and the last weights; a loss and a validation are a moment each."""
        moments = itertools.count(1)
        torch.manual_seed(0)
        model = e001.build(2, width=4)
        model.backbone.neck.append(torch.nn.Dropout(0.2))
        learn = model.loss

        def moment(value):
            if next(moments) == interrupted:
                raise KeyboardInterrupt
            return value

        def loss(images, targets):
            assert model.training, "after a validation, too"
            return moment(learn(images, targets))

        model.loss = loss

        def measure(model):
            with evaluating(model):
                return moment({"val_figure": float(model.heatmap.weight.detach().sum())})

        state = train(model, samples, options, measure, checkpoint, lambda _: None)
        return state.history, state.best.pop("model"), state.best, state.result.state_dict()

    history, best, figure, last = learn(tmp_path / "whole.pt")
    for interrupted in (1, 3, 4, 5, 8, 9, 12):  # in a loss or a validation, before, at and after the ends of epochs
        checkpoint = tmp_path / f"{interrupted}.pt"
        for moment in (interrupted, 4):  # the second time it is one that was resumed
            with contextlib.suppress(KeyboardInterrupt):
                learn(checkpoint, moment)
        again = learn(checkpoint)
        assert (again[0], again[2]) == (history, figure), interrupted
        for weights, expected in ((again[1], best), (again[3], last)):
            assert all(torch.equal(weights[name], expected[name]) for name in expected), interrupted


def test_all_that_the_result_depends_on_decides_which_checkpoint_is_met(shapes, tmp_path):
    write_weights(e001.build(2, width=8).state_dict(), tmp_path / "some.safetensors")
    other = write_scenes(tmp_path / "other", {"train": 4, "val": 2, "test": 0}, seed=1)
    usual = ("e001_center_detector", BACKBONES, ["--width=8"], shapes, Path("random"), tiny_options())

    def checkpoint(**changes):
        names = ("script", "helpers", "model", "curated", "init", "options")
        return prepare(**{**dict(zip(names, usual, strict=True)), **changes}).checkpoint

    changed = [
        checkpoint(model=["--width=9"]),
        checkpoint(script="e002_coarse_to_fine"),
        checkpoint(curated=other),
        checkpoint(init=tmp_path / "some.safetensors"),
        *(checkpoint(options=tiny_options(**{name: 2})) for name in ("seed", "threads", "epochs", "learning_rate")),
    ]
    assert checkpoint() == checkpoint() and len({checkpoint(), *changed}) == 1 + len(changed)


def test_each_step_of_each_seed_varies_its_images_anew(shapes):
    samples = Samples(Curated(shapes), "train", 48)
    batch = next(samples.batches([list(range(8))]))

    def loss(step, seed):
        options = tiny_options(zoom=0.5, seed=seed)
        torch.manual_seed(0)
        state = start(e001.build(2, width=4), options, 10)
        state.step = step
        update(state, batch, options)
        return state.sums["loss"]

    assert loss(0, 0) == loss(0, 0) and len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3


def test_it_stops_early_keeps_the_best_weights_and_resumes_to_the_same(shapes, tmp_path, capsys):
    samples = Samples(Curated(shapes), "train", 48)
    options = tiny_options(batch=10, epochs=9, patience=3)  # of 6 steps
    figures = [0.1, 0.5, 0.3, 0.5, 0.2]  # a figure as good as the best is no gain
    weights = []

    def validate(model):
        weights.append({name: values.clone() for name, values in model.state_dict().items()})
        figure = figures[len(weights) - 1]
        return {"val_figure": figure, "val_other": -figure}

    def learn():
        torch.manual_seed(0)
        return train(e001.build(2, width=8), samples, options, validate, tmp_path / "c.pt", lambda _: None)

    state = learn()
    assert [row["epoch"] for row in state.history] == [1, 2, 3, 4, 5]
    assert state.best["epoch"] == 2 and state.best["value"] == 0.5
    assert all(torch.equal(state.best["model"][name], values) for name, values in weights[1].items())
    assert "stopped: 3 epochs were no better than epoch 2 with 0.500" in capsys.readouterr().err
    save(state, tmp_path / "c.pt")
    again = learn()
    assert again.step == 30 and again.history == state.history, "stopped when resumed, too"
    assert all(torch.equal(again.best["model"][name], values) for name, values in weights[1].items())


def test_the_kept_weights_are_those_asked_for(shapes, tmp_path):
    common = ["--script=e001_center_detector", "--curated", shapes, "--size=48", "--learning-rate=0.05", "--batch=16"]
    for keep in ("last", "best"):
        words = [
            *common,
            "--epochs=4",
            "--keep",
            keep,
            "--no-deterministic",
            "--out",
            tmp_path / keep,
            "--",
            "--width=8",
        ]
        run_stage("train", *words, home=tmp_path)
        rows = list(csv.DictReader((tmp_path / keep / "history.tsv").open(), delimiter="\t"))
        best = max(rows, key=lambda row: float(row["val_mAP"]))
        epoch = json.loads((tmp_path / keep / "metrics.json").read_text())["epoch"]
        assert epoch == (4 if keep == "last" else int(best["epoch"]))
    assert json.loads((tmp_path / "best/run.json").read_text())["train"]["deterministic"] is False
    weights = [(tmp_path / keep / "weights.safetensors").read_bytes() for keep in ("last", "best")]
    assert (weights[0] == weights[1]) == (best["epoch"] == "4")


def test_a_step_in_parts_is_that_of_the_whole_and_the_average_follows(shapes):
    samples = Samples(Curated(shapes), "train", 48)
    batch = next(samples.batches([list(range(8))]))
    ends = []
    for parts in (1, 2):
        torch.manual_seed(0)
        state = start(without_batch_norm(e001.build(2, width=4)), tiny_options(accumulate=parts, ema=0.9), 10)
        state.loss = lambda images, targets, model=state.model: {"all": model(images)["boxes"].abs().mean()}
        update(state, batch, tiny_options(accumulate=parts), 8)
        ends.append(state.model.distances.weight.grad)
        update(state, batch, tiny_options(accumulate=parts), 8)
        assert not torch.equal(state.result.distances.weight, state.model.distances.weight)
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4 * float(ends[0].abs().max()))


def test_worker_processes_give_the_batches_that_threads_give(shapes, monkeypatch):
    monkeypatch.setattr(data_loading, "CACHE_BYTES", 0)
    samples = Samples(Curated(shapes), "train", 48)
    order = [[3, 1], [0, 2], [5, 4]]
    for one, other in zip(samples.batches(order), samples.batches(order, workers=2), strict=True):
        assert torch.equal(one.images, other.images) and one.indices == other.indices
        assert all(torch.equal(values, other.targets[name]) for name, values in one.targets.items())


def test_the_gradient_is_clipped(shapes):
    samples = Samples(Curated(shapes), "train", 48)
    batch = next(samples.batches([list(range(8))]))

    def norm(clip):
        torch.manual_seed(0)
        state = start(e001.build(2, width=8), tiny_options(clip=clip), 10)
        update(state, batch, tiny_options(clip=clip))
        return float(torch.stack([p.grad.norm() for p in state.model.parameters() if p.grad is not None]).norm())

    assert norm(0) == norm(1e6) > 1
    assert norm(0.5) == pytest.approx(0.5, abs=1e-4)


def test_a_training_of_few_steps_has_a_learning_rate_for_each():
    for steps in range(1, 12):
        state = start(e001.build(2, width=4), tiny_options(), steps)
        for _ in range(steps):
            assert 0 < state.schedule.get_last_lr()[0] <= 6e-3
            state.optimizer.step()
            state.schedule.step()


def test_the_code_that_runs_decides_which_checkpoint_is_met(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "parent"))
    for name, text in (("__init__", ""), ("train", "from Models import helper\n"), ("helper", "x = 1\n")):
        (tmp_path / "Models").mkdir(exist_ok=True)
        (tmp_path / f"Models/{name}.py").write_text(text)

    def checkpoint():
        return checkpoint_path({"width": 32}, [Path("Models/train.py")], tmp_path, "data")

    first = checkpoint()
    assert first.is_relative_to(tmp_path / "parent/.checkpoints")
    (tmp_path / "Models/other.py").write_text("y = 2\n")
    assert checkpoint() == first, "a file that is not imported does not count"
    (tmp_path / "Models/helper.py").write_text("x = 2\n")
    assert checkpoint() != first


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: b"", lambda data: data[:500] + b"\0" + data[501:]]
)
def test_a_damaged_checkpoint_counts_as_none(tmp_path, capsys, damage):
    path = tmp_path / "checkpoint.pt"
    save(start(e001.build(2, width=4), tiny_options(), 10), path)
    assert load_checkpoint(path)["step"] == 0
    path.write_bytes(damage(path.read_bytes()))
    assert load_checkpoint(path) is None
    assert "damaged" in capsys.readouterr().err


def test_weights_that_layers_share_are_written_and_read(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    write_weights(model.state_dict(), tmp_path / "weights.safetensors")
    read = load_file(tmp_path / "weights.safetensors")
    assert list(read) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert torch.equal(read["1.weight"], model[0].weight)


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


def test_a_loss_that_is_no_number_stops_with_its_step_and_images_and_keeps_the_checkpoint(
    shapes, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 1e9)  # after each step
    samples = Samples(Curated(shapes), "train", 48)
    torch.manual_seed(0)
    model, options, checkpoint = e001.build(classes=2, width=8), tiny_options(batch=4), tmp_path / "checkpoint.pt"
    learn, steps = model.loss, []

    def loss(images, targets):
        steps.append(len(steps) + 1)
        return {"all": sum(learn(images, targets).values()) * (float("nan") if len(steps) == 53 else 1)}

    model.loss = loss
    with pytest.raises(UserError) as refusal:
        train(model, samples, options, lambda _: {}, checkpoint, lambda _: None)
    order = epoch_order(len(samples), 4, 0, 3)[52 - 45]
    images = ", ".join(samples.records[index]["image"] for index in order)
    assert "the loss is nan at step 53: lower learning_rate (now 0.006)" in str(refusal.value)
    assert f"look at its images: {images}" in str(refusal.value)
    kept = load_checkpoint(checkpoint)
    assert kept["step"] == 52 and all(torch.isfinite(values).all() for values in kept["model"].values())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(shapes, tmp_path):
    samples = Samples(Curated(shapes), "train", 48)
    model = e001.build(classes=2, width=8)
    learn = model.loss
    # the square root of nothing: the loss is a number, and its gradient is not
    model.loss = lambda images, targets: {**learn(images, targets), "root": (model.heatmap.weight * 0).sum().sqrt()}
    with pytest.raises(UserError, match="the gradient is nan at step 1"):
        train(model, samples, tiny_options(), lambda _: {}, tmp_path / "checkpoint.pt", lambda _: None)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (lambda loss, step: loss, "must return a dict of scalar tensors"),
        (lambda loss, step: {}, "must return a dict of scalar tensors"),
        (lambda loss, step: {"a": loss, "b": loss[None]}, "must return a dict of scalar tensors"),
        (lambda loss, step: {"a": 0.5}, "must return a dict of scalar tensors"),
        (lambda loss, step: {"a": loss.detach()}, "at least one of which depends on the weights"),
        (lambda loss, step: {"a": loss, "b": loss} if step == 9 else {"a": loss}, "a, b, and before: a; give 0 where"),
    ],
)
def test_a_loss_that_cannot_be_learnt_from_is_reported(shapes, tmp_path, parts, told):
    samples, steps = Samples(Curated(shapes), "train", 48), itertools.count(1)  # 8 in an epoch
    model = e001.build(classes=2, width=8)
    learn = model.loss
    model.loss = lambda images, targets: parts(sum(learn(images, targets).values()), next(steps))
    with pytest.raises(UserError, match=re.escape(told)):
        train(model, samples, tiny_options(), lambda _: {}, tmp_path / "checkpoint.pt", lambda _: None)


def test_a_mistaken_learning_rate_stops_in_one_line_and_leaves_no_weights(shapes, tmp_path):
    common = ["--script", "e001_center_detector", "--curated", shapes, "--out", tmp_path / "out"]
    done = stage("train", *common, "--size", "48", "--learning-rate", "1e6", home=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "learning_rate (now 1e+06)" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_without_room_for_a_checkpoint_training_goes_on(shapes, tmp_path, capsys):
    samples = Samples(Curated(shapes), "train", 48)
    torch.manual_seed(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        options = tiny_options(batch=4, epochs=4)
        rows = train(e001.build(2, width=8), samples, options, lambda _: {}, tmp_path / "c.pt", lambda _: None).history
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert rows[-1]["step"] == 60
    assert f"step 1: {tmp_path}/c.pt cannot be written (File too large); training goes on" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_class_is_enough(tmp_path):
    def only_discs(split, number, record, files):
        record["boxes"] = [each for each in record["boxes"] if each["name"] == "disc"]

    curated = write_scenes(tmp_path / "c", {"train": 12, "val": 4, "test": 4}, change=only_discs)
    (curated / "classes.json").write_text('{"disc": 0}')
    common = ["--script", "e001_center_detector", "--curated", curated, "--size", "48", "--epochs", "2"]
    trained = tmp_path / "train"
    run_stage("train", *common, "--out", trained, "--", "--width", "8", home=tmp_path)
    assert json.loads((trained / "run.json").read_text())["classes"] == ["disc"]
    assert load_file(trained / "weights.safetensors")["kind.weight"].shape[0] == 1
    run_stage("evaluate", "--curated", curated, "--trained", trained, "--out", tmp_path / "evaluated", home=tmp_path)
    assert list(json.loads((tmp_path / "evaluated/metrics.json").read_text())["AP"]) == ["disc"]


@pytest.mark.parametrize("empty", ["train", "val"])
def test_a_split_without_images_is_reported(tmp_path, empty):
    curated = write_scenes(tmp_path / "c", {"train": 2, "val": 2, "test": 2, empty: 0})
    words = ["--script", "e001_center_detector", "--curated", curated, "--out", tmp_path / "out"]
    assert f"no image of the {empty} split has boxes" in refused("train", *words)
