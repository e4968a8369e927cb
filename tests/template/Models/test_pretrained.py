import json
import shutil

import pytest
import torch
from dvc.repo import Repo
from safetensors.torch import load_file, save_file

from Datasets.tools.errors import UserError
from Models import e001_center_detector as e001
from Models.learning.weights import read_initial, start_from
from tests.template.conftest import copy_checkout
from tests.template.Models.shape_scenes import refused, run_stage

SHORT = ["--size", "48", "--epochs", "3", "--batch", "8", "--threads", "1"]


def test_it_gets_further_in_as_many_epochs_than_from_nothing(outputs, shapes, tmp_path):
    common = ["--script", "e001_center_detector", "--curated", shapes, *SHORT]
    run_stage("train", *common, "--out", tmp_path / "new", "--", "--width", "16", home=tmp_path)
    init = ["--init", outputs / "export"]
    done = run_stage("train", *common, *init, "--out", tmp_path / "old", "--", "--width", "16", home=tmp_path)
    reached = [json.loads((tmp_path / name / "metrics.json").read_text())["val_mAP50"] for name in ("new", "old")]
    assert reached[1] > 0.5 > reached[0] + 0.1
    count = len(e001.build(classes=2, width=16).state_dict())
    assert f"init: {count} of {count} tensors from {outputs}/export\n" in done.stderr
    origin = json.loads((tmp_path / "old/run.json").read_text())["init"]
    manifest = json.loads((outputs / "export/manifest.json").read_text())
    assert origin["sha256"] == manifest["files"]["weights.safetensors"] and manifest["init"] is None


def test_it_says_which_tensors_did_not_fit_and_why(outputs, tmp_path):
    tensors = load_file(outputs / "export/weights.safetensors")
    tensors["extra.weight"] = tensors.pop("distances.bias")
    save_file(tensors, tmp_path / "some.safetensors")
    model = e001.build(classes=3, width=16)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    initial = read_initial(tmp_path / "some.safetensors")
    _, lines = start_from(model, initial, ["disc", "ring", "square"])
    total = len(before)
    assert lines == [
        f"init: {total - 3} of {total} tensors from {tmp_path}/some.safetensors",
        "init: 3 of the model begin anew: kind.weight 3x32x1x1, kind.bias 3, distances.bias 4",
        "init: 3 in it, but not used: extra.weight 4, kind.bias 2, kind.weight 2x32x1x1",
    ]
    for name, values in model.state_dict().items():
        same = name in ("kind.weight", "kind.bias", "distances.bias")
        assert torch.equal(values, before[name] if same else tensors[name]), name


@pytest.mark.parametrize("classes", [["disc", "ring"], ["square", "disc"]])
def test_other_classes_of_the_weights_are_reported(outputs, classes):
    *_, line = start_from(e001.build(classes=2, width=16), read_initial(outputs / "export"), classes)[1]
    assert f"its classes (disc, square) are not the data's ({', '.join(classes)})" in line


def test_weights_of_another_model_are_refused(tmp_path):
    tensors = {"elsewhere": torch.zeros(3), "kind.bias": torch.zeros(7)}
    tensors["backbone.body.stem.0.1.num_batches_tracked"] = torch.tensor(9)  # a number fits anywhere
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"none of its 3 tensors fits .* elsewhere, .* the model's backbone\.body"):
        start_from(e001.build(classes=2), read_initial(tmp_path / "other.safetensors"), ["disc", "square"])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda e: shutil.rmtree(e), "is neither an export nor a .safetensors file"),
        (lambda e: (e / "weights.safetensors").unlink(), "weights.safetensors: not found"),
        (lambda e: (e / "weights.safetensors").write_bytes(b"no weights"), "weights.safetensors: damaged"),
    ],
)
def test_damaged_weights_are_reported_and_nothing_is_written(outputs, shapes, tmp_path, change, part):
    export = shutil.copytree(outputs / "export", tmp_path / "e001")
    change(export)
    words = ["--script", "e001_center_detector", "--curated", shapes, "--init", export, "--out", tmp_path / "out"]
    assert part in refused("train", *words)
    assert not (tmp_path / "out").exists()


def test_an_export_to_start_from_is_a_dependency_of_the_stage(tmp_path):
    def start_another_from_it(params):
        params["experiments"]["e900"] = {**params["experiments"]["e001"], "init": "e001"}

    copy_checkout(tmp_path / "copy", start_another_from_it)
    with Repo(str(tmp_path / "copy")) as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
        before = {stage.name for stage in repo.index.graph.successors(stages["train@e900"])}
        assert "export@e001" in before
        assert "--init 'Datasets/pretrained/e001'" in stages["train@e900"].cmd
        assert "export@e001" not in {s.name for s in repo.index.graph.successors(stages["train@e001"])}
