"""The full share of hostile input: at least 10,000 requests to one service, with good ones between them.

    python -m tests.benchmarks.bench_hostile [--requests 10000] [--seed 0]

Asserts that there is no 500, that the service never restarts, that every good image among them is answered rightly, and
that 1,000 connections at once are all answered; prints how many answers of each status there were, and its memory.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "Deployment"))

from hostile import READABLE, UNREADABLE, mutated
from made_export import SAMPLES, encoded, write_export
from running_service import Service, form, serving

GOOD = encoded(SAMPLES["000.jpg"])
FORM_BYTES = (b"--limit", b"--", b"\r\n", b"Content-Disposition: form-data; name=", b'"f"', b"; filename=", b":", GOOD)
CONNECTIONS = 1000


def one(service: Service, seed: int) -> str:
    """Send what a seed stands for; the kind of request and its status."""
    rng = Random(seed)
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
            body = GOOD
    status, answer = service.request("POST", path, body, headers)
    assert status < 500 or status == 503, (seed, kind, status, answer)
    if kind == "good":
        assert status == 503 or answer["labels"] == ["blue", "red"], (seed, status, answer)
    return f"{kind} {status}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Send hostile requests to a service.")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        export = Path(temporary, "e900")
        write_export(export)
        with serving(export, "--max-bytes", 2_000_000, log=Path(temporary, "log")) as service:
            process = psutil.Process(service.process.pid)
            started, begun = time.monotonic(), process.memory_info().rss
            seeds = range(options.seed, options.seed + options.requests)
            with ThreadPoolExecutor(8) as clients:
                found = Counter(clients.map(lambda seed: one(service, seed), seeds))
            seconds = time.monotonic() - started
            with ThreadPoolExecutor(CONNECTIONS) as clients:
                crowd = Counter(
                    status for status, _ in clients.map(lambda _: service.predict(GOOD), range(CONNECTIONS))
                )
            assert set(crowd) <= {200, 503}, crowd
            assert service.process.poll() is None
            after = process.memory_info().rss
            assert "Traceback" not in Path(temporary, "log").read_text()
    for what, number in sorted(found.items()):
        print(f"{number:6d} {what}")
    print(f"{options.requests} requests in {seconds:.0f} s; {CONNECTIONS} connections at once: {dict(crowd)}")
    print(f"memory {begun / 1e6:.0f} MB before, {after / 1e6:.0f} MB after")


if __name__ == "__main__":
    main()
