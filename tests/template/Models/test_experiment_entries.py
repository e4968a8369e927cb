"""An experiment is renamed without training again, and removed with all that its stages wrote."""

import re

import pytest
from ruamel.yaml import YAML

from Datasets.tools.params import with_other_name, without_entry
from tests.template.conftest import copy_with_results, refused, run_in, succeeded

TWO = """experiments: # mine
  e001:
    script: e001_a # first
    init: random
    train: {size: 64}
  # the second
  e002:
    script: e002_b
    init: e001

report:
  since: ""
"""


def test_an_experiment_is_renamed_without_training_and_then_removed(project, tmp_path):
    copy = copy_with_results(project, tmp_path / "copy")
    weights = (copy / "Models/outputs/e001/train/weights.safetensors").read_bytes()
    experiment = ["python", "-m", "Models.experiment"]
    succeeded(run_in(copy, *experiment, "rename", "e001", "e010"))
    due = succeeded(run_in(copy, "dvc", "repro", "--dry", "export@e010")).stdout
    assert re.findall(r"Running stage '(.*)':\n> .* --experiment '(.*?)'", due) == [("export@e010", "e010")]
    assert "train@" not in due.replace("Stage 'train@e010' didn't", "")
    assert (copy / "Models/outputs/e010/train/weights.safetensors").read_bytes() == weights
    assert "## e010" in (copy / "EXPERIMENTS.md").read_text()
    refused(run_in(copy, *experiment, "remove", "e001"), "has no experiment 'e001'; it has: e010")
    for other in ("", "..", "digits"):
        refused(run_in(copy, *experiment, "remove", other), f"has no experiment {other!r}; it has: e010")
    assert (copy / "Datasets/pretrained/random").exists() and (copy / "Models/outputs/e010").exists()
    with (copy / "dvc.lock").open("a") as lock:
        lock.write("  import@gone:\n    cmd: python\n")
    succeeded(run_in(copy, *experiment, "remove", "gone"))
    assert "gone" not in (copy / "dvc.lock").read_text()
    succeeded(run_in(copy, *experiment, "remove", "e010"))
    assert YAML(typ="safe").load(copy / "params.yaml")["experiments"] == {}
    assert not any(name.endswith("@e010") for name in YAML(typ="safe").load(copy / "dvc.lock")["stages"])
    assert list(copy.glob("Models/outputs/e0*")) + list(copy.glob("Datasets/pretrained/e0*")) == []


@pytest.mark.parametrize(("name", "left"), [("e001", "e002"), ("e002", "e001")])
def test_an_entry_is_removed_and_all_else_stays(tmp_path, name, left):
    path = tmp_path / "params.yaml"
    path.write_text(TWO)
    text = without_entry(path, "experiments", name)
    assert f"  {left}:\n    script: {left}" in text and name not in text.replace("init: e001", "")
    assert set(text.splitlines()) < set(TWO.splitlines())
    path.write_text(text)
    assert without_entry(path, "experiments", left).startswith("experiments: {}")


def test_a_new_name_reaches_what_starts_from_it(tmp_path):
    (tmp_path / "params.yaml").write_text(TWO)
    text = with_other_name(tmp_path / "params.yaml", "experiments", "e001", "e010")
    assert text == TWO.replace("  e001:", "  e010:").replace("init: e001", "init: e010")
