import importlib.util
from pathlib import Path

import pytest

from Datasets.tools.errors import UserError
from Models.display.trackers import Tracker, open_tracker, steady
from tests.template.conftest import AUTHOR, run_in, succeeded
from tests.template.Models.shape_scenes import refused

INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("dvclive", "mlflow")}
ROWS = [{"step": 10 * epoch, "epoch": epoch, "loss": 4.0 / epoch, "val_mAP": 0.1 * epoch} for epoch in (1, 2, 3)]


@pytest.mark.parametrize("name", INSTALLED)
def test_one_that_is_not_installed_is_told_in_one_line(tmp_path, name):
    if INSTALLED[name]:
        pytest.skip(f"{name} is installed here")
    line = refused("train", "--script=e001_center_detector", "--out", tmp_path / "out", "--tracker", name)
    assert line == f"error: tracker: {name} is not installed; `pip install '.[track]'`, or take none"


def track_and_resume(tracker, home):
    """Two epochs, a kill, and the third."""
    for told in ([ROWS[:0], ROWS[:1], ROWS[:2]], [ROWS[:1], ROWS[:2], ROWS]):
        report = open_tracker(tracker, {"epochs": 3, "width": 8}, "e001", home / ".checkpoints/abc/checkpoint.pt")
        for rows in told:
            report(rows)


@pytest.mark.skipif(not INSTALLED["dvclive"], reason="dvclive is not installed: pip install '.[track]'")
def test_dvclive_has_each_epoch_once_and_leaves_the_pipeline_alone(tmp_path, monkeypatch):
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", "commit", "-qm", "Start"]):
        succeeded(run_in(tmp_path, *command, **AUTHOR))
    monkeypatch.chdir(tmp_path)
    track_and_resume(Tracker.dvclive, tmp_path)
    (losses,) = Path(tmp_path, ".tracking").rglob("loss.tsv")
    assert [line.split("\t")[-1] for line in losses.read_text().splitlines()] == ["loss", "4.0", "2.0", str(4 / 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".dvc", ".dvcignore", ".git", ".tracking"]
    assert succeeded(run_in(tmp_path, "git", "for-each-ref", "refs/exps")).stdout == ""


@pytest.mark.skipif(not INSTALLED["mlflow"], reason="mlflow is not installed: pip install '.[track]'")
def test_mlflow_goes_on_in_the_run_that_was_begun(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track_and_resume(Tracker.mlflow, tmp_path)
    import mlflow

    client = mlflow.MlflowClient((tmp_path / ".tracking/mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("e001").experiment_id])
    assert run.data.params == {"epochs": "3", "width": "8"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((each.step, each.value) for each in history) == [(10, 4.0), (20, 2.0), (30, 4 / 3)]


def test_a_tracker_that_fails_for_a_while_gets_all_rows_and_ends_no_training(capsys):
    got = []

    def send(rows):
        if len(rows) == 2:
            raise ConnectionError("API request failed\nbecause of the network")
        got.extend(rows[len(got) :])

    report = steady(send)
    for count in (1, 2, 3):
        report(ROWS[:count])
    assert got == ROWS
    assert capsys.readouterr().err.splitlines() == [
        "tracker: API request failed because of the network; the training goes on, and sends this with the next epoch"
    ]


@pytest.mark.skipif(not INSTALLED["mlflow"], reason="mlflow is not installed: pip install '.[track]'")
def test_a_server_that_is_down_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="tracker: mlflow cannot be used: .*127.0.0.1") as told:
        open_tracker(Tracker.mlflow, {}, "e001", tmp_path / ".checkpoints/abc/checkpoint.pt")
    assert "\n" not in str(told.value)
