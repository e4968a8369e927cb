"""Other people's networks: a detector of transformers and a classifier of timm, from their weights to a bundle."""

import csv
import json
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from Datasets.format.curated import Curated
from Datasets.tools.errors import UserError
from Models import pretrained
from Models.exporting.graphs import onnx_detector
from Models.learning import scripts
from Models.learning.data_loading import Samples
from Models.learning.scripts import load_script
from Models.learning.weights import read_trained
from tests.template.conftest import ROOT, run_in, succeeded
from tests.template.Models.shape_scenes import refused, run_stage, write_scenes

DETECTOR, CLASSIFIER = "e901_transformers_detector", "e902_timm_classifier"


def loaded(name):
    """A model script; the test is skipped where what it requires is not installed, or does not import."""
    try:
        return load_script(name)
    except (
        UserError,
        ImportError,
        RuntimeError,
    ) as error:  # timm's import fails beside a torchvision for another torch
        pytest.skip(f"{name}: {error}")


def run_stages(script, out, init, train, build):
    """Train on scenes of shapes, evaluate and export; the lines that training reported."""
    curated = write_scenes(out / "curated", {"train": 24, "val": 4, "test": 4})
    common = ["--size", "64", "--batch", "8", "--threads", "1", "--zoom", "0", "--validate-every", "20"]
    words = ["--script", script, "--curated", curated, "--init", init, "--out", out / "train"]
    lines = run_stage("train", *words, *common, *train, "--", *build, home=out).stderr
    trained = ["--curated", curated, "--trained", out / "train"]
    run_stage("evaluate", *trained, home=out)
    run_stage("export", "--experiment", script[:4], *trained, "--out", out / script[:4], home=out)
    return lines


def losses(out):
    """The loss in each row of the history."""
    with (out / "train/history.tsv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file, delimiter="\t")]


def answers(out, script, sizes):
    """Outputs of the model and of its graph, for some of the scenes cut to batches of each size."""
    _, model, _ = read_trained(out / "train", out / "curated")
    graph = onnx_detector(out / script[:4] / "model.onnx", task := load_script(script).TASK)
    images = next(Samples(Curated(out / "curated"), "train", 96, task).batches([range(5)])).images
    for count, height, width in sizes:
        batch = images[:count, :, :height, :width].contiguous()
        with torch.no_grad():
            yield {name: values.numpy() for name, values in model(batch).items()}, graph(batch.numpy())


def ordered(outputs, row):
    """One image's boxes, as rows that begin with class and score, in an order that follows from their values."""
    rows = np.column_stack([outputs["classes"][row], outputs["scores"][row], outputs["boxes"][row]])
    return rows[np.lexsort(rows.round(3).T[::-1])]


@pytest.mark.long
def test_a_detector_of_transformers_goes_from_published_weights_to_a_bundle(tmp_path, monkeypatch):
    script = loaded(DETECTOR)
    torch.manual_seed(0)
    net = script.build(80, "tiny", queries=20).net
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # the library begins them near 0, and would learn nothing
            torch.nn.init.ones_(module.weight)
    net.save_pretrained(tmp_path / "saved")
    (tmp_path / "params.yaml").write_text("licenses: {allow: [Apache-2.0]}\npretrained: {}\n")
    (tmp_path / "Datasets/pretrained").mkdir(parents=True)
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    pretrained.add("rtdetr", "saved/model.safetensors", license="Apache-2.0", trained_on="COCO")

    options = ["--learning-rate", "0.005", "--epochs", "60"]
    build = ["--backbone", "tiny", "--queries", "20", "--denoising", "20"]
    lines = run_stages(DETECTOR, tmp_path, tmp_path / "Datasets/pretrained/rtdetr", options, build)
    assert "init: 435 of 446 tensors" in lines and "init: 11 of the model begin anew" in lines, "heads of 80 classes"
    assert "init: 7 in it, but not used: " in lines
    first, *_, last = losses(tmp_path)
    assert last < 0.8 * first
    for model, graph in answers(tmp_path, DETECTOR, [(1, 64, 64), (2, 64, 64), (5, 64, 64), (2, 96, 32), (2, 32, 96)]):
        for row in range(len(model["scores"])):
            np.testing.assert_allclose(ordered(model, row), ordered(graph, row), atol=1e-3)

    manifest = json.loads((tmp_path / "e901/manifest.json").read_text())
    assert manifest["pretrained"]["license"] == "Apache-2.0" and "transformers" in manifest["versions"]
    assert manifest["metrics"]["mAP50"] > 0.2, "scores that differ"
    assert "learning_rate" in manifest["hyperparameters"] and "weight_decay" not in manifest["hyperparameters"]
    package = ["Deployment.package", "--export", tmp_path / "e901", "--out", tmp_path / "bundle"]
    succeeded(run_in(ROOT, "python", "-m", *package))
    needed = (tmp_path / "bundle/requirements.txt").read_text()
    assert "onnxruntime==" in needed and not any(name in needed for name in ("transformers", "tokenizers", "torch"))
    carried = {file.suffix for file in (tmp_path / "bundle/export").rglob("*")}
    assert ".onnx" in carried and not carried & {".safetensors", ".py"}


def test_crowds_are_no_objects_and_images_without_any_are_background():
    script = loaded(DETECTOR)
    torch.manual_seed(0)
    model = script.build(2, "tiny", queries=20, denoising=0)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    boxes = torch.tensor([[[4, 4, 20, 24], [0, 0, 64, 64]], [[0, 0, 0, 0], [0, 0, 0, 0]]]).float()
    targets = {
        "boxes": boxes,
        "classes": torch.tensor([[1, 0], [-1, -1]]),
        "crowd": torch.zeros(2, 2, dtype=torch.bool),
    }
    targets["crowd"][0, 1] = True
    alone = {"boxes": boxes[:, :1], "classes": targets["classes"][:, :1], "crowd": targets["crowd"][:, :1]}
    found, wanted = model.loss(images, targets), model.loss(images, alone)
    assert found == wanted and found["box"] > 0
    nothing = model.loss(images, {**targets, "classes": torch.full((2, 2), -1)})
    assert nothing.keys() == found.keys() and nothing["box"] == nothing["giou"] == 0 and nothing["class"] > 0


def test_its_backbone_learns_at_a_tenth_of_the_rate():
    script = loaded(DETECTOR)
    model = script.build(2, "tiny", queries=20)
    groups = script.parameter_groups(model, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {round(group["lr"], 3) for group in groups} == {0.01, 0.1}
    assert all(parameter.dim() > 1 for group in groups if group["weight_decay"] for parameter in group["params"])


def test_more_queries_than_cells_are_refused_in_one_line(shapes, tmp_path):
    loaded(DETECTOR)
    words = ["--script", DETECTOR, "--curated", shapes, "--out", tmp_path / "out"]
    line = refused("train", *words, "--size=64", "--", "--backbone", "tiny")
    assert line == "error: model: images of 64 x 64 pixels have 84 cells, and queries is 300"
    assert "size: 50 must be 32 or more, and a multiple of 32" in refused(
        "train", *words, "--size=50", "--", "--backbone", "tiny"
    )


@pytest.mark.long
def test_a_classifier_of_timm_learns_from_published_weights_and_its_graph_agrees(tmp_path):
    script = loaded(CLASSIFIER)
    torch.manual_seed(0)
    save_file(script.build(10, "test_resnet").net.state_dict(), tmp_path / "timm.safetensors")
    options = ["--learning-rate", "0.01", "--epochs", "40"]
    lines = run_stages(CLASSIFIER, tmp_path, tmp_path / "timm.safetensors", options, ["--network", "test_resnet"])
    first, *_, last = losses(tmp_path)
    assert last < first and "as net.*" in lines
    for model, graph in answers(tmp_path, CLASSIFIER, [(1, 64, 64), (5, 64, 64), (2, 96, 32)]):
        np.testing.assert_allclose(model["scores"], graph["scores"], atol=1e-4)


@pytest.mark.parametrize(
    ("requires", "told"),
    [
        ("no-such-network==1.0", "and it is not installed: pip install 'no-such-network==1.0'"),
        ("torch==1.0", f"and {version('torch')} is installed: pip install 'torch==1.0'"),
    ],
)
def test_what_a_script_requires_is_checked_before_it_is_imported(shapes, tmp_path, monkeypatch, requires, told):
    (tmp_path / "Models").mkdir()
    (tmp_path / "Models/e999_requiring.py").write_text(f"REQUIRES = [{requires!r}]\nimport no_such_network\n")
    monkeypatch.setattr(scripts, "ROOT", tmp_path)
    line = refused("train", "--script", "e999_requiring", "--curated", shapes, "--out", tmp_path / "out")
    assert f"Models/e999_requiring.py: REQUIRES {requires}, {told}" in line
