"""What `experiment compare` shows, with real git and DVC around stages that take no time."""

import re
import shutil

import pytest

from tests.template.conftest import AUTHOR, copy_code, refused, run_in, stage, succeeded

LOG = "# Experiments\n\n## e001 First\n\nState: open, begun 2026-01-01\n\n1. [ ] width 48\n2. [ ] width 64\n"
PARAMS = """experiments:
  e001: {train: {epochs: 3, flip: false}, model: {width: 32}}
  e002: {train: {epochs: 3, flip: true}, model: {width: 32}}
"""
DVC = """stages:
  train:
    foreach: ${experiments}
    do:
      cmd: python learn.py --script one --out 'Models/outputs/${key}/train' ${item.train} -- ${item.model}
      deps: [learn.py, Datasets/curated]
      outs: ["Models/outputs/${key}/train/weights.safetensors"]
  evaluate:
    foreach: ${experiments}
    do:
      cmd: python measure.py Models/outputs/${key}
      deps: ["Models/outputs/${key}/train/weights.safetensors", Datasets/curated]
      metrics: ["Models/outputs/${key}/evaluate/metrics.json"]
"""
LEARN = """
import pathlib, sys
out = pathlib.Path(sys.argv[4], "weights.safetensors")
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(sys.argv[-1] + "0" * ("--flip" in sys.argv))
"""
MEASURE = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
width = int((out / "train/weights.safetensors").read_text())
(out / "evaluate").mkdir(exist_ok=True)
figures = {"mAP50": width / 100, "mAP": width / 200, "F1": 0.5, "AP": {"a": 1}}
(out / "evaluate/metrics.json").write_text(json.dumps(figures))
"""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two experiments, evaluated and committed."""
    tmp_path = tmp_path_factory.mktemp("evaluated")
    copy_code(tmp_path, "Datasets", "Datasets/format", "Datasets/tools", "Models", "Models/experimenting")
    files = {"EXPERIMENTS.md": LOG, "params.yaml": PARAMS, "dvc.yaml": DVC, "learn.py": LEARN, "measure.py": MEASURE}
    files |= {".gitignore": "__pycache__/\n/Models/outputs\n.home\n", "Datasets/curated/a": "a"}
    (tmp_path / "Datasets/curated").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "parsing.bool", "boolean_optional"]):
        succeeded(run_in(tmp_path, *words))
    succeeded(run_in(tmp_path, "dvc", "repro", "-q"))
    commit(tmp_path, "Start")
    return tmp_path


@pytest.fixture
def repository(evaluated, tmp_path):
    """A copy of it."""
    return shutil.copytree(evaluated, tmp_path / "a copy")


def commit(repository, subject):
    succeeded(run_in(repository, "git", "add", "-A", **AUTHOR))
    succeeded(run_in(repository, "git", "commit", "-qm", subject, **AUTHOR))


def compare(repository, *words):
    return stage("Models.experiment", "compare", *words, cwd=repository)


def rows(repository, *words):
    """The words of each printed line, by the names that it begins with."""
    lines = succeeded(compare(repository, *words)).stdout.splitlines()
    return {re.match(r"(\S+, )*\S+", line)[0]: line.split() for line in lines if line}


def test_experiments_steps_and_runs_are_in_one_table_with_what_differs(repository):
    run = ["python", "-m", "Models.experiment", "run", "e001.1", "-S", "experiments.e001.model.width=48"]
    succeeded(run_in(repository, *run, **AUTHOR))
    tried = ["-S", "experiments.e001.model.width=64", "-n", "wide", "evaluate@e001"]
    succeeded(run_in(repository, "dvc", "exp", "run", "-q", *tried, **AUTHOR))
    found = rows(repository)
    assert found["boxes"] == ["boxes", "commit", "flip", "width", "mAP50", "mAP", "F1"]
    assert found["e001, e001@wide"][-5:] == ["no", "64", "0.640", "0.320", "0.500"]
    assert found["e001.1, e001@HEAD"][-5:] == ["no", "48", "0.480", "0.240", "0.500"]
    assert found["e002"][1:] == ["yes", "32", "3.200", "1.600", "0.500"], "as in the run, so of one row"
    assert len(found) == 4
    assert list(rows(repository, "e001.1", "e001@wide")) == ["boxes", "e001.1", "e001@wide"]


def test_figures_belong_to_the_settings_beside_them(repository):
    (repository / "params.yaml").write_text(PARAMS.replace("width: 32", "width: 40", 1))
    found = rows(repository)
    assert found["e001*"][1:4] == ["no", "0.320", "0.160"], "what was trained, not what params.yaml wants"
    assert "`dvc repro evaluate@e001`" in compare(repository).stdout and "e002" in found
    succeeded(run_in(repository, "dvc", "repro", "-q", "train@e001"))
    assert "not evaluated yet, or not in DVC's cache (`dvc pull --all-commits`): e001\n" in compare(repository).stdout


def test_what_is_not_there_is_said_in_one_line(repository):
    refused(compare(repository, "e001@nothing"), "'nothing' is no commit, tag or branch, nor a run; the runs: none")
    refused(compare(repository, "e001.2"), "no result of step e001.2")
    refused(compare(repository, "e009.2"), "has no experiment 'e009'")
    refused(compare(repository, "wide"), "'wide' is no experiment")
    shutil.rmtree(repository / ".dvc/cache")
    assert "not in DVC's cache (`dvc pull --all-commits`): e001, e002\n" in compare(repository).stdout
