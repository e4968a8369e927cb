"""Stage verify: starts a bundle in an empty directory, as a user would, and checks its answers.

    python -m Deployment.verify --bundle Deployment/bundles/ID --export Datasets/pretrained/ID \\
        --curated Datasets/curated --out Deployment/bundles/ID.verification.json

In: a bundle; the export that it was made from, which has the predictions that evaluation kept; the dataset with the
test images. Out: metrics: how far the served answers lie from the samples' expected ones and from those that evaluation
kept, latency, requests a second, seconds from start to ready. An answer beyond the tolerance is an error that names the
worst image. The service is stopped with this process, also on Ctrl-C and SIGTERM.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from Datasets.format.curated import Curated
from Datasets.format.images import FORMATS, MAX_PIXELS
from Datasets.format.predictions import TOLERANCE, Prediction, largest_difference
from Datasets.format.records import read_predictions
from Datasets.tools.atomic import write_text
from Datasets.tools.command import run
from Datasets.tools.errors import UserError
from Deployment.service.artifact import Artifact, load

UNSET = ("PYTHONPATH", "FOURFOLD_API_KEY")  # environment variables that the service does not inherit
STOP_SECONDS = 10
ANSWER_SECONDS = 120  # a large model may take seconds, and several requests wait for it at once
MAX_BYTES = 2_000_000_000  # of an image file: evaluation read it, so the service must
PREDICTIONS = "predictions.parquet"  # in an export: evaluation's predictions for the test images


class Comparison(NamedTuple):
    """How the served answer for an image differs from the expected one; difference: by the names in TOLERANCE[task]."""

    image: str
    difference: dict[str, float]
    excess: float  # the largest difference as a multiple of its tolerance; above 1 the answer is wrong
    reason: str


def _summary(prediction: Any) -> str:
    counts = Counter(box["name"] for box in prediction.get("boxes", ()))
    found = [f"{count} {name}" for name, count in sorted(counts.items())] or prediction["labels"]
    return f"{', '.join(found) or 'nothing'} in {prediction['width']} x {prediction['height']} pixels"


def compare(artifact: Artifact, image: str, served: Any, expected: Any) -> Comparison:
    """Compare two answers at the manifest's score threshold."""
    difference = largest_difference(artifact.task, expected, served, artifact.threshold)
    if (served["width"], served["height"]) != (expected["width"], expected["height"]):
        difference = dict.fromkeys(difference, float("inf"))
    excess = max(difference[what] / tolerance for what, tolerance in TOLERANCE[artifact.task].items())
    reason = "the answer differs from the expected one "
    reason += ", ".join(f"in {what} by {value:.4g}" for what, value in difference.items())
    if excess == float("inf"):
        reason = f"the service answers {_summary(served)}; expected: {_summary(expected)}"
    return Comparison(image, difference, excess, f"{image}: {reason}")


def ask_all(
    port: int, read: Callable[[str], bytes], connections: int, names: Sequence[str]
) -> Iterator[tuple[str, Any, float]]:
    """Each image's name, the served answer and the seconds it took, in order, over so many connections at once.

    read: gives an image's file by its name. Raises UserError for an image that the service refuses, OSError or
    HTTPException for no answer.
    """
    own, reading = threading.local(), threading.Lock()

    def connect() -> None:
        own.connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)

    def ask(name: str) -> tuple[str, Any, float]:
        with reading:
            image = read(name)
        asked = time.perf_counter()
        own.connection.request("POST", "/predict", image)
        answer = own.connection.getresponse()
        data = answer.read()
        seconds = time.perf_counter() - asked
        if answer.status != 200:
            raise UserError(f"{name}: POST /predict: {answer.status} {data[:200].decode(errors='replace')}")
        return name, json.loads(data), seconds

    threads = ThreadPoolExecutor(connections, initializer=connect)
    try:
        yield from threads.map(ask, names)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # those that run end once the service does


def compare_all(
    artifact: Artifact, answers: Iterable[tuple[str, Any, float]], expected: Mapping[str, Prediction]
) -> dict[str, Any]:
    """Compare the served answers with the expected ones; metrics: the largest differences.

    Raises UserError naming the worst image if a difference is beyond its tolerance.
    """
    compared = [compare(artifact, name, served, expected[name]) for name, served, _ in answers]
    worst = max(compared, key=lambda one: one.excess)
    if worst.excess > 1:
        wrong = sum(one.excess > 1 for one in compared)
        raise UserError(f"{worst.reason}; {wrong} of {len(compared)} images differ, this one most")
    difference = {what: max(one.difference[what] for one in compared) for what in TOLERANCE[artifact.task]}
    return {"images": len(compared), "difference": difference, "worst_image": worst.image}


def evaluated(artifact: Artifact, export: Path, curated: Path) -> tuple[dict[str, Any], Callable[[str], bytes]]:
    """What evaluation predicted for the test images, with boxes from the manifest's score threshold on, and a function
    that gives an image's file by its name.

    Raises UserError if the bundle's artifact is not from this export, or the dataset lacks an image.
    """
    if load(export).manifest != artifact.manifest:
        raise UserError(f"{export}: is not the export that the bundle was made from; package again")
    kept: dict[str, Any] = dict(read_predictions(export / PREDICTIONS))
    for prediction in kept.values():
        if "boxes" in prediction:
            prediction["boxes"] = [box for box in prediction["boxes"] if box["score"] >= artifact.threshold]
    images = Curated(curated).files("test")
    if missing := [name for name in kept if name not in images]:
        raise UserError(f"{curated}: no test image {missing[0]}, which was evaluated; export and package again")
    return kept, lambda name: images[name]()


@contextmanager
def running(bundle: Path) -> Iterator[tuple[int, float]]:
    """Start a copy of `bundle` in an empty directory; yield its port and the seconds from start to ready.

    It takes images of any format and size, as evaluation does, and is stopped at the end of the block; its errors
    appear on stderr. Raises UserError if it does not start, or does not answer within the block.
    """
    limits = ["--max-bytes", MAX_BYTES, "--max-pixels", MAX_PIXELS, "--seconds", ANSWER_SECONDS]
    options = ["--port", 0, "--formats", ",".join(FORMATS), "--log-level", "error", *limits]
    command = [sys.executable, "-m", "Deployment.serve", ".", *map(str, options)]
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    with tempfile.TemporaryDirectory(prefix="fourfold-") as empty:
        directory = shutil.copytree(bundle, Path(empty, "bundle"))
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            address = re.search(r":(\d+)$", process.stdout.readline())  # printed once it is ready
            if not address:
                raise UserError(f"{bundle}: the service did not start, exit code {process.wait()}; see above")
            yield int(address[1]), time.perf_counter() - started
        except (OSError, HTTPException) as error:
            raise UserError(f"{bundle}: the service failed: {error}; see above") from error
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()
            process.wait()


def verify(bundle: Path, export: Path | None, curated: Path | None, requests: int, connections: int) -> dict[str, Any]:
    """The metrics of a bundle that answers as it should. Raises UserError for one that does not."""
    artifact = load(bundle)
    samples = artifact.samples()
    files = {name: file for name, (file, _) in samples.items()}
    expected = {name: answer for name, (_, answer) in samples.items()}
    kept, read = evaluated(artifact, export, curated) if export and curated else ({}, files.__getitem__)
    timed = list(islice(cycle(files), requests))
    with running(bundle) as (port, ready):
        ask = partial(ask_all, port, files.__getitem__)
        found = compare_all(artifact, ask(connections, list(files)), expected)
        test = {"test": compare_all(artifact, ask_all(port, read, connections, list(kept)), kept)} if kept else {}
        seconds = [took for _, _, took in ask(1, timed)]
        started = time.perf_counter()
        rate = sum(1 for _ in ask(connections, timed)) / (time.perf_counter() - started)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {
        "samples": found["images"],
        "difference": found["difference"],
        **test,
        "latency_ms": {"p50": round(p50, 2), "p99": round(p99, 2)},
        "requests_per_second": round(rate),
        "connections": connections,
        "start_to_ready_seconds": round(ready, 2),
    }


def main(
    bundle: Annotated[Path, typer.Option(help="bundle, Deployment/bundles/ID")],
    out: Annotated[Path, typer.Option(help="metrics to write, as JSON")],
    export: Annotated[Path | None, typer.Option(help="the bundle's export, with evaluation's predictions")] = None,
    curated: Annotated[Path | None, typer.Option(help="dataset; without both, only samples are compared")] = None,
    requests: Annotated[int, typer.Option(min=1, help="predictions to time, over one and over many connections")] = 300,
    connections: Annotated[int, typer.Option(min=1, max=64, help="connections at once")] = 16,
) -> None:
    """Start a bundle in an empty directory, compare its answers with the expected ones, and time it."""
    if (export is None) != (curated is None):
        raise UserError("--export and --curated: give both, to compare the answers for the test images, or neither")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a KeyboardInterrupt, so that the service is stopped
    metrics = verify(bundle, export, curated, requests, connections)
    write_text(out, json.dumps(metrics, indent=1) + "\n")
    test = f" and {metrics['test']['images']} test images" if "test" in metrics else ""
    latency = metrics["latency_ms"]
    print(
        f"{bundle}: {metrics['samples']} samples{test} answered as expected; "
        f"p50 {latency['p50']} ms, p99 {latency['p99']} ms, {metrics['requests_per_second']} requests a second"
    )


if __name__ == "__main__":
    run(main)
