"""The whole chain, run by DVC in a project of its own, the way a user runs it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from Datasets.format.predictions import TOLERANCE
from tests.template.conftest import copy_checkout, edit_params, run_in, succeeded, until

BEFORE = ("report", "review@e001")  # with all that comes before them
AFTER = ("Datasets/pretrained", "Deployment")  # test_isolation.py has these made again, with the same bytes


def locked(directory: Path) -> dict[str, str]:
    """The hash of every output that dvc.lock has."""
    lock = YAML(typ="safe").load(directory / "dvc.lock")
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def failed(directory: Path, *parts: str) -> None:
    """`dvc repro` fails without a traceback, and says `parts`."""
    result = run_in(directory, "dvc", "repro")
    assert result.returncode != 0
    text = result.stdout + result.stderr
    assert "Traceback" not in text
    for part in parts:
        assert part in text, text


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A fresh small project in which nothing ran yet."""
    copy_checkout(tmp_path / "checkout")
    return tmp_path / "checkout"


def test_the_service_was_verified(project):
    report = json.loads((project / "Deployment/bundles/e001.verification.json").read_text())
    evaluated = json.loads((project / "Models/outputs/e001/evaluate/metrics.json").read_text())
    assert report["test"]["images"] == evaluated["images"]
    assert report["samples"] == len(list((project / "Datasets/pretrained/e001/sample").glob("0*")))
    assert set(report["difference"]) == set(TOLERANCE["boxes"])
    for difference in (report["difference"], report["test"]["difference"]):
        assert all(difference[name] <= allowed for name, allowed in TOLERANCE["boxes"].items())
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]


def test_dvc_reads_metrics_and_plots(project, tmp_path):
    metrics = succeeded(run_in(project, "dvc", "metrics", "show", "--json")).stdout
    assert "mAP50" in metrics
    assert '"imported"' in metrics
    plots = succeeded(run_in(project, "dvc", "plots", "show", "-o", tmp_path / "plots"))
    assert (tmp_path / "plots/index.html").is_file()
    assert "failed" not in plots.stderr.lower()


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (lambda p: p["clean"].update(keeep=["one"]), ["--keeep"]),
        (lambda p: p["digits"].update(scenes="many"), ["--scenes", "many"]),
        (lambda p: p["sources"]["digits"].pop("path"), ["item.path"]),
        (lambda p: p["sources"]["digits"].update(path="Datasets/raw/nowhere"), ["Datasets/raw/nowhere"]),
        (lambda p: p["clean"]["keep"].append("giraffe"), ["'giraffe'", "classes that occur"]),
        (lambda p: p["clean"].update(max_rejected=0.0), ["clean.max_rejected", "rejected.csv"]),
    ],
)
def test_a_wrong_parameter_is_named(project, tmp_path, edit, parts):
    copy = Path(shutil.copytree(project, tmp_path / "copy", symlinks=True))
    edit_params(copy, edit)
    failed(copy, *parts)


def test_killed_at_random_moments_and_run_again_it_ends_with_the_same_bytes(project, checkout):
    kills = (os.killpg, os.kill) if sys.platform == "linux" else (os.killpg,)  # elsewhere a stage outlives its DVC
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for kill in kills:  # all processes, or DVC's alone, which takes its stage along
        delay = random.uniform(2, 9)
        print(f"{kill.__name__} after {delay:.3f} s")  # pytest shows it if the test fails
        process = subprocess.Popen(["dvc", "repro", *BEFORE], cwd=checkout, env=environment, start_new_session=True)
        time.sleep(delay)
        until(psutil.Process(process.pid).children)  # a stage runs; DVC itself is not safe while it writes dvc.lock
        kill(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: working_in(checkout) == [])
    succeeded(run_in(checkout, "dvc", "repro", *BEFORE, timeout=600))
    ours, theirs = locked(checkout), locked(project)
    assert {path: md5 for path, md5 in theirs.items() if not path.startswith(AFTER)} == ours
    assert list(checkout.rglob(".*.partial")) == []


def working_in(directory: Path) -> list[psutil.Process]:
    """The processes whose working directory it is."""
    return [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(directory)]
