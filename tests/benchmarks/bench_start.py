"""From a clone to the first result: seconds and megabytes, for data work only, for training, for serving only.

python -m tests.benchmarks.bench_start [--bundle Deployment/bundles/e001]

Each gets a clone and a virtual environment of its own, by pip with constraints.txt, from the package index that pip is
set up for, or from pip's cache. Serving starts from a bundle, made by `dvc repro` before; without one it is left out.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.measuring import ROOT, Figure

BUNDLE = ROOT / "Deployment/bundles/e001"


def execute(directory: Path, *command: object) -> None:
    """Run a command in silence; its output is shown if it fails, which raises CalledProcessError."""
    done = subprocess.run([*map(str, command)], cwd=directory, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        done.check_returncode()


def install(directory: Path, *packages: str) -> Path:
    """Make an environment with these packages; returns its Python."""
    python = directory / ".venv/bin/python"
    execute(directory, sys.executable, "-m", "venv", ".venv")
    execute(directory, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return python


def megabytes(directory: Path) -> float:
    """Of all files of an environment, pip's own included."""
    return sum(path.lstat().st_size for path in (directory / ".venv").rglob("*") if path.is_file()) / 1e6


def pipeline(directory: Path, extras: str, targets: Sequence[str]) -> Iterator[float]:
    """Clone, install, reproduce: the time after each."""
    execute(directory.parent, "git", "clone", "--quiet", ROOT, directory)
    python = install(directory, "--constraint", "constraints.txt", f".{extras}")
    yield time.perf_counter()
    path = f"PATH={python.parent}:/usr/bin:/bin"
    execute(directory, "env", path, python, "-m", "dvc", "repro", *targets)
    yield time.perf_counter()


def service(directory: Path, bundle: Path) -> Iterator[float]:
    """Copy the bundle, install, start it, and compare its answer to a sample with the export's: the time after each."""
    execute(directory.parent, "cp", "-r", bundle, directory)
    python = install(directory, "--requirement", "requirements.txt")
    yield time.perf_counter()
    command = [str(python), "-m", "Deployment.serve", ".", "--port", "0"]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = re.search(r"http://\S+", process.stdout.readline())[0]  # type: ignore[index]
            compare(f"{address}/predict", directory / "export/sample")
        finally:
            process.terminate()
    yield time.perf_counter()


def compare(url: str, samples: Path) -> None:
    """Raises AssertionError if the answer to the first sample is not the expected one, within 0.01 pixel."""
    expected = json.loads((samples / "expected.json").read_text())["000.jpg"]
    with urllib.request.urlopen(url, (samples / "000.jpg").read_bytes()) as answer:
        boxes = json.load(answer)["boxes"]
    sure = [box for box in expected["boxes"] if box["score"] >= boxes[-1]["score"] - 1e-4]
    assert [box["name"] for box in boxes] == [box["name"] for box in sure]
    sides = [[[box[side] for side in ("x1", "y1", "x2", "y2")] for box in each] for each in (boxes, sure)]
    assert np.abs(np.subtract(*sides)).max() < 0.01


def figures(images: int = 0, bundle: Path = BUNDLE) -> Iterator[Figure]:
    """Measure all three, once each."""
    kinds = {
        "data work only, to the report": lambda place: pipeline(place, "", ["report"]),
        "serving only, from a bundle to its first right answer": lambda place: service(place, bundle),
        "training, to the verified service": lambda place: pipeline(place, "[train,serve]", []),
    }
    for what, measured in kinds.items():
        if "serving" in what and not bundle.is_dir():
            continue
        with tempfile.TemporaryDirectory() as temporary:
            place, started = Path(temporary, "project"), time.perf_counter()
            installed, done = (moment - started for moment in measured(place))
            details = f"{installed:.0f} s to clone and install, {done - installed:.0f} s to run"
            yield Figure(what, "", f"{done:.0f} s, {megabytes(place):,.0f} MB installed", "", details)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure starting.")
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    for figure in figures(bundle=parser.parse_args().bundle):
        print(figure)


if __name__ == "__main__":
    main()
