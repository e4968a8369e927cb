"""Sending a training's rows to DVCLive or MLflow as well, where someone wants to watch it there; neither is needed.

Both are optional (`pip install '.[track]'`), and imported only where chosen. A training that is resumed goes on in what
it had begun.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from Datasets.tools.errors import UserError, one_line

KEY_TAG = "fourfold.checkpoint"
Rows = Sequence[Mapping[str, float]]
Report = Callable[[Rows], None]


class Tracker(StrEnum):
    """Where the rows of a training go, beside history.tsv."""

    none = "none"
    dvclive = "dvclive"
    mlflow = "mlflow"


def check_tracker(tracker: Tracker) -> None:
    """Raise UserError if the tracker is not installed."""
    if tracker != Tracker.none and importlib.util.find_spec(tracker.value) is None:
        raise UserError(f"tracker: {tracker.value} is not installed; `pip install '.[track]'`, or take none")


def open_tracker(tracker: Tracker, parameters: Mapping[str, Any], script: str, checkpoint: Path) -> Report:
    """What takes all rows so far, again and again, and sends those that are new.

    parameters: of the training, flat. checkpoint: where its checkpoints lie; the folder's name identifies it. Raises
    UserError if the tracker cannot be begun with; what fails later, ends no training.
    """
    key, home = checkpoint.parent.name, checkpoint.parents[2]
    try:
        if tracker == Tracker.dvclive:
            return steady(_dvclive(parameters, home / ".tracking" / f"{script}-{key[:8]}"))
        if tracker == Tracker.mlflow:
            return steady(_mlflow(parameters, script, key, home / ".tracking" / "mlruns"))
    except Exception as error:  # each library, and what it calls the network by, has its own
        raise UserError(f"tracker: {tracker.value} cannot be used: {_said(error)}; mend it, or take none") from error
    return lambda rows: None


def steady(send: Report) -> Report:
    """`send`, but where it fails a line says so; the next call has the rows that it did not send, too."""

    def report(rows: Rows) -> None:
        try:
            send(rows)
        except Exception as error:  # as above
            again = "the training goes on, and sends this with the next epoch"
            print(f"tracker: {_said(error)}; {again}", file=sys.stderr)

    return report


def _said(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def _dvclive(parameters: Mapping[str, Any], directory: Path) -> Report:
    """Into files of `directory`, begun anew each time: all rows are there. dvc.yaml and experiments are left alone."""
    from dvclive import Live

    live = Live(str(directory), save_dvc_exp=False, dvcyaml=None, monitor_system=False)
    live.log_params(dict(parameters))

    def report(rows: Rows) -> None:
        for row in rows[live.step :]:
            for name, value in row.items():
                live.log_metric(name, value)
            live.next_step()

    return report


def _begun(client: Any, place: str, key: str, parameters: Mapping[str, Any]) -> Any:
    """A new run of MLflow, with the training's parameters; named as DVC's experiment, if it is one."""
    run = client.create_run(place, tags={KEY_TAG: key}, run_name=os.environ.get("DVC_EXP_NAME"))
    for name, value in parameters.items():
        client.log_param(run.info.run_id, name, value)
    return run


def _mlflow(parameters: Mapping[str, Any], script: str, key: str, files: Path) -> Report:
    """To the server of MLFLOW_TRACKING_URI, else into `files`; in the run that has the training's key as a tag."""
    import mlflow
    from mlflow.entities import Metric

    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or files.resolve().as_uri())
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", script)
    experiment = client.get_experiment_by_name(name)
    place = experiment.experiment_id if experiment else client.create_experiment(name)
    found = client.search_runs([place], f"tags.`{KEY_TAG}` = '{key}'")
    run = found[0] if found else _begun(client, place, key, parameters)
    sent = [len(client.get_metric_history(run.info.run_id, "epoch"))]

    def report(rows: Rows) -> None:
        for row in rows[sent[0] :]:
            values = [
                Metric(name, float(value), int(time.time() * 1000), int(row["step"])) for name, value in row.items()
            ]
            client.log_batch(run.info.run_id, values)
            sent[0] += 1

    return report
