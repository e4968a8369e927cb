"""The whole chain, run by DVC in a project of its own, the way a user runs it."""

import json
import shutil
from pathlib import Path

import pytest

from Datasets.format.predictions import TOLERANCE
from tests.template.conftest import edit_params, run_in, succeeded


def failed(directory: Path, *parts: str) -> None:
    """`dvc repro` fails without a traceback, and says `parts`."""
    result = run_in(directory, "dvc", "repro")
    assert result.returncode != 0
    text = result.stdout + result.stderr
    assert "Traceback" not in text
    for part in parts:
        assert part in text, text


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
        (lambda p: p["clean"]["keep"].append("giraffe"), ["'giraffe'", "classes that occur"]),
    ],
)
def test_a_wrong_parameter_is_named(project, tmp_path, edit, parts):
    copy = Path(shutil.copytree(project, tmp_path / "copy", symlinks=True))
    edit_params(copy, edit)
    failed(copy, *parts)
