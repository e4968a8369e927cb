"""Starts a bundle as a user would, in an empty directory, and checks that it answers what the export promises.

    python -m Deployment.verify --bundle Deployment/bundles/ID --curated Datasets/curated \\
        --out Deployment/bundles/ID.verification.json

In: a bundle, and the dataset whose test images it is asked about. Out: metrics: the largest differences to the samples'
expected answers, how good the answers for the test images are (Deployment/verifying/figures.py), latency, requests a
second, seconds from start to ready. The answers must be as good as evaluation found them, which the manifest says. The
service is ended with this process, whether that succeeds, fails, or gets Ctrl-C or SIGTERM; it stays in the same
process group, so that a signal to the group ends both.
"""

import json
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from Datasets.format.predictions import TOLERANCE, Prediction, counts_in, largest_difference
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError
from Deployment.service.artifact import Artifact, load
from Deployment.verifying.figures import QUERY, figures
from Deployment.verifying.started import Client, running

if TYPE_CHECKING:
    from Datasets.format.curated import Curated

FIGURE_TOLERANCE = 1e-3
CHUNK = 64  # test images held in memory at once


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


def answers_for(
    port: int, images: Sequence[bytes], names: Mapping[int, str], query: str, connections: int
) -> list[Any]:
    """The answers for the images in the rows that have names, over several connections at once.

    They are new for each chunk: while one is read, the service may close those that are idle. Raises UserError naming
    an image that is not answered for.
    """
    found: list[Any] = []
    for first in range(0, len(names), CHUNK):
        chunk = [(name, images[row]) for row, name in islice(names.items(), first, first + CHUNK)]
        found += _chunk_answers(port, chunk, query, connections)
    return found


def _chunk_answers(port: int, images: Sequence[tuple[str, bytes]], query: str, connections: int) -> list[Any]:
    own = threading.local()  # a connection for each thread

    def ask(named: tuple[str, bytes]) -> Any:
        name, image = named
        if not hasattr(own, "client"):
            own.client = Client(port)
        try:
            return own.client.predict(image, query)
        except UserError as error:
            raise UserError(f"test image {name}: {error}") from error

    with ThreadPoolExecutor(connections) as clients:
        return list(clients.map(ask, images))


def measure_test(port: int, curated: "Curated", artifact: Artifact, connections: int) -> dict[str, Any]:
    """How good the answers for the test images are. Raises UserError if evaluation found something else."""
    task = artifact.task
    records = curated.records("test", masks=task == "mask")
    known = {row: record for row, record in enumerate(records) if record[task] is not None}  # type: ignore[literal-required]
    names = {row: record["image"] for row, record in known.items()}
    answers = answers_for(port, curated.images("test"), names, QUERY[task], connections)
    found = figures(task, list(known.values()), answers, artifact.manifest["classes"])
    evaluated = artifact.manifest.get("metrics", {})
    for name, value in found.items():
        if not abs(value - evaluated.get(name, float("inf"))) <= FIGURE_TOLERANCE:  # NaN is no figure
            raise UserError(
                f"{curated.directory}: {name} of the service's answers for {len(known)} test images is {value:.6f}, "
                f"evaluation found {evaluated.get(name)}; was it another dataset? evaluate, export and package again"
            )
    return {"images": len(known), **found}


def read_curated(directory: Path) -> "Curated":
    """The dataset. Importing what reads it takes longer than all else here."""
    from Datasets.format.curated import Curated

    return Curated(directory)


def verify(bundle: Path, curated: "Curated | None", requests: int, connections: int) -> dict[str, Any]:
    """The metrics of a bundle that answers as it should. Raises UserError for one that does not."""
    artifact = load(bundle)
    if curated and list(curated.classes) != artifact.manifest["classes"]:
        raise UserError(f"{curated.directory}: has other classes than the model was trained on; name its own dataset")
    samples = artifact.samples()
    images = [image for image, _ in samples.values()]
    with running(bundle) as (port, ready):
        client = Client(port)
        found = [
            check(artifact.task, name, answer, client.predict(image), artifact.threshold)
            for name, (image, answer) in samples.items()
        ]
        test = {"test": measure_test(port, curated, artifact, connections)} if curated else {}
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
    bundle: Annotated[Path, typer.Option(help="the bundle, Deployment/bundles/ID")],
    out: Annotated[Path, typer.Option(help="the metrics to write, as JSON")],
    curated: Annotated[
        Path | None, typer.Option(help="the curated dataset; without it only the samples are asked about")
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="how many predictions to time, over one and over many connections")
    ] = 300,
    connections: Annotated[
        int, typer.Option(min=1, max=64, help="how many connections at once, for the requests a second")
    ] = 16,
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
    if not test:
        return ""
    name, value = list(test.items())[1]
    return f"{name} of {test['images']} test images {value:.3f}, as evaluated; "


if __name__ == "__main__":
    run(main)
