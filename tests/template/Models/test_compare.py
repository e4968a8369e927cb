"""What `experiment compare` shows, with real git and DVC around stages that take no time."""

import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.template.conftest import AUTHOR, copy_code, copy_with_results, refused, run_in, stage, succeeded

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
    folders = ("Datasets/format", "Datasets/tools", "Datasets/pages")
    folders += ("Models/experimenting", "Models/learning", "Models/reviewing")
    copy_code(tmp_path, "Datasets", "Models", *folders)
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
    found_step = ["e001.1", *found["e001.1, e001@HEAD"][2:3], "0.480", "0.240", "0.500"]
    assert rows(repository, "e001.1") == {"boxes": ["boxes", "commit", "mAP50", "mAP", "F1"], "e001.1": found_step}


def test_figures_belong_to_the_settings_beside_them(repository):
    (repository / "params.yaml").write_text(PARAMS.replace("width: 32", "width: 40", 1))
    found = rows(repository)
    assert found["e001*"][1:4] == ["no", "0.320", "0.160"], "what was trained, not what params.yaml wants"
    assert "`dvc repro evaluate@e001`" in compare(repository).stdout and "e002" in found
    succeeded(run_in(repository, "dvc", "repro", "-q", "train@e001"))
    assert "e001: was trained again, but not evaluated; `dvc repro evaluate@e001`\n" in compare(repository).stdout


def test_a_step_whose_commit_is_gone_is_left_out(repository):
    with (repository / "EXPERIMENTS.md").open("a") as log:
        log.write("\n## e003 More\n\nState: open\n\n1. [x] wider (1a2b3c4)\n2. [ ] all images (1200000)\n")
    done = succeeded(compare(repository))
    assert "e001" in done.stdout and "e002" in done.stdout
    assert done.stderr == (
        "e003.1: git ls-tree: Not a valid object name 1a2b3c4; was it rebased away, or is the clone shallow?\n"
    )


def test_what_is_not_there_is_said_in_one_line(repository):
    refused(compare(repository, "e001@nothing"), "'nothing' is no commit, tag or branch, nor a run; the runs: none")
    refused(compare(repository, "e001.2"), "no result of step e001.2")
    refused(compare(repository, "e009.2"), "has no experiment 'e009'")
    refused(compare(repository, "wide"), "'wide' is no experiment")
    shutil.rmtree(repository / ".dvc/cache")
    said = "evaluate/metrics.json is not in DVC's cache; `dvc pull --all-commits`"
    assert compare(repository).stdout.count(said) == 2
    refused(compare(repository, "e001", "e002"), said)


def test_what_cannot_be_compared_is_refused(repository):
    refused(compare(repository, "e001", "e003"), "no trained experiment e003 there; it has: e001, e002")
    metrics = repository / "Models/outputs/e002/evaluate/metrics.json"
    metrics.unlink()
    metrics.write_text('{"mIoU": 0.5, "pixel_accuracy": 0.6}')
    succeeded(run_in(repository, "dvc", "commit", "-f", "-q", "evaluate@e002"))
    refused(compare(repository, "e001", "e002"), "they learn different things: e001 boxes, e002 mask")
    (repository / "dvc.lock").unlink()
    refused(compare(repository, "e001", "e002"), "e001: has no Models/", "metrics.json; `dvc repro evaluate@e001`")
    assert not (repository / "Models/outputs/compare.html").exists()


def changed_table(file, change):
    """Write answers anew without the first, their boxes changed by a function of row and boxes."""
    table = pq.read_table(file)
    rows = [{**each, "boxes": change(row, each["boxes"])} for row, each in enumerate(table.to_pylist())]
    file.unlink()  # perhaps a link into the cache
    pq.write_table(pa.Table.from_pylist(rows[1:], table.schema), file)
    return len(table)


def test_a_page_sets_two_results_side_by_side_with_an_interval(project, tmp_path):
    copy = copy_with_results(project, tmp_path / "two")
    (copy / "EXPERIMENTS.md").write_text(LOG)
    alike = succeeded(compare(copy, "e001", "e001@HEAD")).stdout
    assert "mAP50: e001@HEAD differs from e001 by +0.000, 95 % interval +0.000 to +0.000" in alike
    page = (copy / "Models/outputs/compare.html").read_text()
    assert "may be as good as" in page and "Nowhere: their answers to all test images are the same" in page

    answers = copy / "Models/outputs/e001/evaluate/predictions.parquet"
    images = changed_table(answers, lambda row, boxes: [] if row % 8 else boxes)
    succeeded(run_in(copy, "dvc", "commit", "-f", "-q", "evaluate@e001"))
    out = succeeded(compare(copy, "e001@HEAD", "e001", "--out", tmp_path / "page.html")).stdout
    by, low, high = map(float, re.search(r"by (\S+), 95 % interval (\S+) to (\S+)\n", out).groups())
    assert low <= by <= high <= 0 and low < 0 and f"page.html: {images - 1} of {images} test images" in out
    page = (tmp_path / "page.html").read_text()
    for part in ("AP50 of each class", "size of model.onnx, MB", "AP_small", "latency"):
        assert part in page
    assert page.count("data:image/jpeg") == 3 * page.count(">annotated<") > 0

    run = copy / "Models/outputs/e001/train/run.json"
    told = run.read_text()
    run.unlink()
    run.write_text(told.replace('"zero"', '"naught"'))
    succeeded(run_in(copy, "dvc", "commit", "-f", "-q", "train@e001"))
    refused(compare(copy, "e001@HEAD", "e001"), "e001: learned other classes than Datasets/curated has: naught, one")
