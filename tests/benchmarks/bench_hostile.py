"""The full share of hostile input: at least 10,000 requests to one service, with good ones between them.

    python -m tests.benchmarks.bench_hostile EXPORT... [--requests 10000] [--seed 0]

Asserts that there is no 500, that the service never restarts, that every good image among them, a sample of the export,
is answered as expected, and that 1,000 connections at once are all answered; prints how many answers of each status
there were, and its memory.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import psutil

from Datasets.format.predictions import TOLERANCE, Prediction, largest_difference
from Deployment.service.artifact import Artifact, load
from tests.benchmarks.measuring import Figure, exports
from tests.template.Deployment.hostile import READABLE, UNREADABLE, WHOLE, mutated
from tests.template.Deployment.running_service import Service, form, serving

FORM_BYTES = (
    b"--limit", b"--", b"\r\n", b"Content-Disposition: form-data; name=", b'"f"', b"; filename=", b":", WHOLE[0]
)  # fmt: skip
CONNECTIONS = 1000


def is_right(artifact: Artifact, expected: Prediction, answer: Prediction) -> bool:
    """Whether an answer is the one that the export expects."""
    found = largest_difference(artifact.task, expected, answer, artifact.threshold)
    return all(value <= TOLERANCE[artifact.task][name] for name, value in found.items())


def one(service: Service, artifact: Artifact, seed: int) -> str:
    """Send what a seed stands for; the kind of request and its status."""
    rng = Random(seed)
    good, expected = rng.choice(list(artifact.samples().values()))
    kind = rng.choice(("mutated", "mutated", "mutated", "random", "catalogue", "form", "batch", "good"))
    body, headers, path = b"", {}, "/predict"
    match kind:
        case "mutated":
            body = mutated(rng)
        case "random":
            body = rng.randbytes(rng.randrange(2000))
        case "catalogue":
            body = rng.choice([*READABLE.values(), *UNREADABLE.values()])
        case "form":
            body, headers = b"".join(rng.choices(FORM_BYTES, k=rng.randrange(12))), form()[1]
        case "batch":
            path, (body, headers) = "/predict/batch", form(*((str(i), mutated(rng)) for i in range(rng.randrange(6))))
        case "good":
            body = good
    status, answer = service.request("POST", path, body, headers)
    assert status < 500 or status == 503, (seed, kind, status, answer)
    if kind == "good":
        assert status == 503 or is_right(artifact, expected, answer), (seed, status, answer)
    return f"{kind} {status}"


def attack(export: Path, requests: int, seed: int = 0) -> Iterator[Figure]:
    """Send so many requests to one service, then many at once. Raises AssertionError for what must not be."""
    artifact = load(export)
    good = next(iter(artifact.samples().values()))[0]
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary, "log")
        with serving(export, "--max-bytes", 2_000_000, log=log) as service:
            started, begun = time.monotonic(), service.memory()
            workers = psutil.Process(service.process.pid).children()
            found = together(8, lambda number: one(service, artifact, number), range(seed, seed + requests))
            seconds = time.monotonic() - started
            crowd = together(CONNECTIONS, lambda _: str(service.predict(good)[0]), range(CONNECTIONS))
            assert set(crowd) <= {"200", "503"}, crowd
            assert service.process.poll() is None
            after = service.memory()
            assert psutil.Process(service.process.pid).children() == workers, "a worker was replaced"
        assert "Traceback" not in log.read_text()
    told = Counter[str]()
    for what, number in found.items():
        told[what.split()[1]] += number
    statuses = ", ".join(f"{number} times {status}" for status, number in sorted(told.items()))
    yield Figure(
        f"{artifact.task}: {requests:,} requests, most of them hostile, to one service",
        "",
        "no 500, no traceback, each good image answered rightly",
        "10,000 requests",
        f"{statuses}; {seconds:.0f} s; memory {begun / 1e6:.0f} MB before, {after / 1e6:.0f} MB after; "
        f"of {CONNECTIONS} at once {crowd['200']} answered, {crowd['503']} told to come back",
    )


def together(clients: int, send: Callable[[int], str], numbers: range) -> Counter[str]:
    """How often each answer came, with so many clients at once."""
    with ThreadPoolExecutor(clients) as threads:
        return Counter(threads.map(send, numbers))


def figures(requests: int = 10_000) -> Iterator[Figure]:
    """Of each of the checkout's exports."""
    for export in exports():
        yield from attack(export, requests)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Send hostile requests to services.")
    parser.add_argument("exports", type=Path, nargs="+", metavar="EXPORT")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for export in options.exports:
        for figure in attack(export, options.requests, options.seed):
            print(figure, flush=True)


if __name__ == "__main__":
    main()
