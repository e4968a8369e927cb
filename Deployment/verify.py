"""Starts a bundle as a user would, in an empty directory, and checks that it answers what the export promises.

    python -m Deployment.verify --bundle Deployment/bundles/ID --curated Datasets/curated \\
        --out Deployment/bundles/ID.verification.json

In: a bundle, and the dataset whose test images it is asked about. Out: metrics: the largest differences to the samples'
expected answers, the average precision of the answers for the test images, latency, requests a second, seconds from
start to ready. The average precision must be evaluation's, which the manifest has. The service is ended with this
process, whether that succeeds, fails, or gets Ctrl-C or SIGTERM; it stays in the same process group, so that a signal
to the group ends both.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from Datasets.atomic import replacing
from Datasets.command import run
from Datasets.errors import UserError
from Datasets.predictions import TOLERANCE, Detection, Prediction, counts_in, largest_difference
from Deployment.artifact import load
from Deployment.average_precision import MIN_SCORE, average_precision

if TYPE_CHECKING:
    from Datasets.curated import Curated

MAP_TOLERANCE = 1e-3
UNSET = ("PYTHONPATH", "FOURFOLD_API_KEY")  # of this process's environment, in the service's
CHUNK = 256  # test images held in memory at once
START_SECONDS = 60
STOP_SECONDS = 10
ANSWER_SECONDS = 30


class Client:
    """One connection to a service on this machine, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer's body. Raises UserError for a status other than 200, OSError or HTTPException for no answer."""
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise UserError(f"{method} {path}: {answer.status} {data[:200].decode(errors='replace')}")
        return data

    def predict(self, image: bytes, query: str = "") -> Any:
        """The answer for an image file."""
        return json.loads(self.request("POST", f"/predict{query}", image))


@contextmanager
def running(bundle: Path) -> Iterator[tuple[int, float]]:
    """Start a copy of `bundle` in an empty directory; yield its port and the seconds from its start until it was ready.

    It ends with the block, however that ends. Raises UserError with the service's last words if it does not become
    ready, or does not answer within the block.
    """
    with tempfile.TemporaryDirectory(prefix="fourfold-") as empty:
        out, err = Path(empty, "stdout"), Path(empty, "stderr")
        directory = shutil.copytree(bundle, Path(empty, "bundle"))
        started = time.perf_counter()
        process = _start(directory, out, err)
        try:
            port = _wait_until_ready(process, out)
            yield port, time.perf_counter() - started
        except (OSError, HTTPException) as error:
            lines = err.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [str(error)]
            raise UserError(f"{bundle}: the service failed: {lines[-1].removeprefix('error: ')}") from error
        finally:
            _stop(process)


def _start(directory: Path, out: Path, err: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "Deployment.serve", ".", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    with out.open("wb") as stdout, err.open("wb") as stderr:
        return subprocess.Popen(command, cwd=directory, env=environment, stdout=stdout, stderr=stderr)


def _wait_until_ready(process: subprocess.Popen[bytes], out: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ConnectionError(f"it ended at once, with exit code {process.returncode}")
        address = re.search(r":(\d+)\n", out.read_text(encoding="utf-8"))
        if address:
            port = int(address[1])
            Client(port).request("GET", "/health/ready")
            return port
        time.sleep(0.01)
    raise TimeoutError(f"it was not ready after {START_SECONDS} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def check(task: str, sample: str, expected: Prediction, actual: Prediction, threshold: float) -> dict[str, float]:
    """How far an answer lies from the expected one. Raises UserError naming the sample and what differs too much."""
    for side in ("width", "height"):
        if actual[side] != expected[side]:
            raise UserError(f"sample {sample}: the answer's {side} is {actual[side]}, expected {expected[side]}")
    found = largest_difference(task, expected, actual, threshold)
    for what, tolerance in TOLERANCE[task].items():
        if found[what] == float("inf"):
            raise UserError(f"sample {sample}: the answer has {_shown(actual)}, expected {_shown(expected)}")
        if found[what] > tolerance:
            difference = f"{found[what]:.6g}, more than {tolerance:g}"
            raise UserError(f"sample {sample}: the answer's {what} differ from the expected ones by {difference}")
    return found


def _shown(prediction: Prediction) -> str:
    counts = [f"{count['count']} {count['name']}" for count in counts_in(prediction)]
    return ", ".join(counts or prediction["labels"]) or "nothing"


def latencies(port: int, images: Sequence[bytes], requests: int) -> list[float]:
    """Seconds that each of so many predictions took over one connection, the images in turn."""
    client, taken = Client(port), []
    for image in islice(cycle(images), requests):
        started = time.perf_counter()
        client.predict(image)
        taken.append(time.perf_counter() - started)
    return taken


def requests_per_second(port: int, images: Sequence[bytes], requests: int, connections: int) -> float:
    """Predictions a second over several connections at once."""
    each = -(-requests // connections)
    started = time.perf_counter()
    with ThreadPoolExecutor(connections) as clients:
        counts = [len(taken) for taken in clients.map(lambda _: latencies(port, images, each), range(connections))]
    return sum(counts) / (time.perf_counter() - started)


def answers_for(port: int, images: Sequence[bytes], rows: Sequence[int], connections: int) -> list[Detection]:
    """The answers for the images in these rows, over several connections at once, down to the lowest scores."""
    own = threading.local()  # a connection for each thread

    def ask(image: bytes) -> Detection:
        if not hasattr(own, "client"):
            own.client = Client(port)
        return own.client.predict(image, f"?threshold={MIN_SCORE}")

    found: list[Detection] = []
    with ThreadPoolExecutor(connections) as clients:
        for first in range(0, len(rows), CHUNK):
            found += clients.map(ask, [images[row] for row in rows[first : first + CHUNK]])
    return found


def measure_test(port: int, curated: "Curated", manifest: dict[str, Any], connections: int) -> dict[str, Any]:
    """How good the answers for the test images are. Raises UserError if evaluation found something else."""
    records = curated.records("test")
    rows = [row for row, record in enumerate(records) if record["boxes"] is not None]
    found = answers_for(port, curated.images("test"), rows, connections)
    figures = average_precision([records[row] for row in rows], found, manifest["classes"])
    evaluated = manifest.get("metrics", {})
    for name, value in figures.items():
        if abs(value - evaluated.get(name, float("inf"))) > MAP_TOLERANCE:
            raise UserError(
                f"{curated.directory}: {name} of the service's answers for {len(rows)} test images is {value:.6f}, "
                f"evaluation found {evaluated.get(name)}; was it another dataset? evaluate, export and package again"
            )
    return {"images": len(rows), **figures}


def read_curated(directory: Path) -> "Curated":
    """The dataset. Importing what reads it takes longer than all else here."""
    from Datasets.curated import Curated

    return Curated(directory)


def verify(bundle: Path, curated: "Curated | None", requests: int, connections: int) -> dict[str, Any]:
    """The metrics of a bundle that answers as it should. Raises UserError for one that does not."""
    artifact = load(bundle)
    samples = artifact.samples()
    images = [image for image, _ in samples.values()]
    with running(bundle) as (port, ready):
        client = Client(port)
        found = [
            check(artifact.task, name, answer, client.predict(image), artifact.threshold)
            for name, (image, answer) in samples.items()
        ]
        test = {"test": measure_test(port, curated, artifact.manifest, connections)} if curated else {}
        taken = np.array(latencies(port, images, requests)) * 1000
        rate = requests_per_second(port, images, requests, connections)
    return {
        "samples": len(samples),
        "difference": {what: max(difference[what] for difference in found) for what in TOLERANCE[artifact.task]},
        **test,
        "latency_ms": {"p50": round(np.percentile(taken, 50), 2), "p99": round(np.percentile(taken, 99), 2)},
        "requests_per_second": round(rate),
        "connections": connections,
        "start_to_ready_seconds": round(ready, 2),
    }


def main(
    bundle: Path = typer.Option(..., help="The bundle, Deployment/bundles/ID."),
    out: Path = typer.Option(..., help="The metrics to write, as JSON."),
    curated: Path | None = typer.Option(None, help="The curated dataset; without it only the samples are asked about."),
    requests: int = typer.Option(300, min=1, help="How many predictions to time, over one and over many connections."),
    connections: int = typer.Option(16, min=1, max=64, help="How many connections at once, for the requests a second."),
) -> None:
    """Start a bundle in an empty directory, compare its answers with the expected ones, and time it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a KeyboardInterrupt, so that the service is ended
    metrics = verify(bundle, read_curated(curated) if curated else None, requests, connections)
    with replacing(out) as partial:
        partial.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    latency = metrics["latency_ms"]
    print(
        f"{bundle}: {metrics['samples']} samples answered as expected; {_said(metrics.get('test'))}"
        f"p50 {latency['p50']} ms, p99 {latency['p99']} ms, {metrics['requests_per_second']} requests a second"
    )


def _said(test: dict[str, Any] | None) -> str:
    return f"mAP of {test['images']} test images {test['mAP']:.3f}, as evaluated; " if test else ""


if __name__ == "__main__":
    run(main)
