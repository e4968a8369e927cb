"""Every experiment of params.yaml trains, evaluates and exports, and trying it leaves nothing behind."""

from ruamel.yaml import YAML

from tests.conftest import ROOT, copy_checkout, refused, run_in, stage, succeeded

EXPERIMENTS = list(YAML(typ="safe").load(ROOT / "params.yaml")["experiments"])


def state():
    """What git sees of the checkout, ignored files too, but caches and DVC's locks."""
    lines = run_in(ROOT, "git", "status", "--porcelain", "--ignored").stdout.splitlines()
    return [line for line in lines if "cache" not in line and ".dvc/tmp" not in line]


def test_every_experiment_can_be_tried_and_leaves_nothing_behind(shapes, tmp_path):
    before = state()
    environment = {"TMPDIR": str(tmp_path), "DVC_ROOT": str(tmp_path / "elsewhere")}
    done = run_in(
        ROOT, "python", "-m", "Models.experiment", "try", *EXPERIMENTS, "--curated", shapes, timeout=900, **environment
    )
    succeeded(done)
    assert done.stderr.count("epoch 1/1") >= len(EXPERIMENTS)
    for experiment in EXPERIMENTS:
        assert f"{experiment} trains, evaluates and exports" in done.stdout
    assert state() == before and [p for p in tmp_path.iterdir() if "inductor" not in p.name] == []


def test_a_stage_that_fails_is_told_by_its_own_line(tmp_path):
    for experiment in EXPERIMENTS[:1]:
        words = ["try", experiment, "--curated", tmp_path]
        refused(stage("Models.experiment", *words), "classes.json: not found")
    there = ", ".join(EXPERIMENTS) or "none"
    refused(stage("Models.experiment", "try", "e999"), f"has no experiment 'e999'; it has: {there}")


def test_what_an_experiment_starts_from_need_not_be_there_yet(shapes, tmp_path):
    copy_checkout(tmp_path, lambda params: None)
    done = succeeded(stage("Models.experiment", "try", "e003", "--curated", shapes, cwd=tmp_path))
    assert "Datasets/pretrained/e001: not there yet; tried from random weights" in done.stderr
    assert run_in(tmp_path, "git", "status", "--porcelain").stdout == ""
