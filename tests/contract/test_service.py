"""The pipeline ran to its end on the made dataset, and its bundle answers as the trained model did."""

import json
import re
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from Datasets.format.predictions import TOLERANCE, largest_difference
from tests.contract.checkout import EXPERIMENTS, environment, run_in, succeeded


def test_a_second_run_does_nothing(project):
    done = succeeded(run_in(project, "dvc", "repro", "report", f"verify@{EXPERIMENTS[0]}"))
    assert "Data and pipelines are up to date." in done.stdout


@pytest.fixture
def service(project: Path, tmp_path: Path) -> Iterator[str]:
    """The address of the service, started from the packed bundle in an empty directory."""
    with tarfile.open(project / f"Deployment/bundles/{EXPERIMENTS[0]}.tar.gz") as bundle:
        bundle.extractall(tmp_path, filter="data")
    command = [sys.executable, "-m", "Deployment.serve", ".", "--port", "0"]
    place = tmp_path / EXPERIMENTS[0]
    with subprocess.Popen(command, cwd=place, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = re.search(r"http://\S+:\d+", process.stdout.readline())
            assert address, "the service did not start"
            yield address[0]
        finally:
            process.terminate()
            process.wait(30)


def test_the_bundle_answers_its_samples(project, service):
    export = project / "Datasets/pretrained" / EXPERIMENTS[0]
    manifest = json.loads((export / "manifest.json").read_text())
    expected = json.loads((export / "sample/expected.json").read_text())
    assert expected
    for name, answer in expected.items():
        request = urllib.request.Request(f"{service}/predict", (export / "sample" / name).read_bytes())
        with urllib.request.urlopen(request, timeout=60) as response:
            served = json.load(response)
        apart = largest_difference(manifest["task"], answer, served, manifest["score_threshold"])
        assert all(value <= TOLERANCE[manifest["task"]][what] for what, value in apart.items()), (name, apart)
