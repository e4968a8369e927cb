"""What the service costs beside its model: requests a second against a bare handler with the same onnxruntime session.

    python -m tests.benchmarks.bench_serve EXPORT [--seconds 2] [--rounds 10] [--connections 16] [--soak 600]

The bare handler is FastAPI's, with the same decoding, session and answer, and none of the protection, logging and
counting. Both run on this machine with the client, in turns, so that a change of its speed meets both; only the ratio
means anything. --soak: instead, so many seconds of the service alone, and its memory at the end against that after the
first tenth.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import psutil

BARE = """
import sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from Deployment.artifact import load
from Deployment.predictor import Predictor
from Deployment.serve import listen
from anyio.to_thread import current_default_thread_limiter
import os

predictor = Predictor(load(Path(sys.argv[1])))
app = FastAPI()

@app.post("/predict")
async def predict(request: Request):
    current_default_thread_limiter().total_tokens = os.cpu_count()
    return JSONResponse(await run_in_threadpool(predictor, await request.body()))

opened = listen("127.0.0.1", 0)
print(f"http://127.0.0.1:{opened.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[opened])
"""


@contextmanager
def running(command: list[str]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A service and its port; it ends with the block."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        found = re.search(r":(\d+)$", process.stdout.readline())
        assert found, "the service did not start"
        yield process, int(found[1])
    finally:
        process.terminate()
        process.wait()


def ask(port: int, image: bytes, end: float) -> list[float]:
    """Seconds that each answer took over one connection, until `end`."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    taken = []
    while (started := time.perf_counter()) < end:
        connection.request("POST", "/predict", image)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 503), answer.status
        taken.append(time.perf_counter() - started)
    connection.close()
    return taken


def load_on(port: int, image: bytes, seconds: float, connections: int) -> tuple[float, float, float]:
    """Requests a second, and p50 and p99 in milliseconds."""
    end = time.perf_counter() + seconds
    with ThreadPoolExecutor(connections) as clients:
        taken = sorted(t for part in clients.map(lambda _: ask(port, image, end), range(connections)) for t in part)
    return len(taken) / seconds, 1000 * taken[len(taken) // 2], 1000 * taken[len(taken) * 99 // 100]


def soak(service: list[str], image: bytes, seconds: float, connections: int) -> None:
    """Print how the service bears a long load. Any answer but 200 or 503 is an error."""
    with running(service) as (process, port):
        memory, answers = [], 0.0
        for part in (seconds / 10, seconds * 9 / 10):
            rate, p50, p99 = load_on(port, image, part, connections)
            answers += rate * part
            memory.append(psutil.Process(process.pid).memory_info().rss / 1e6)
    print(
        f"{answers:.0f} answers over {connections} connections in {seconds:.0f} s; p50 {p50:.0f} ms, p99 {p99:.0f} ms; "
        f"memory {memory[0]:.1f} MB after a tenth, {memory[1]:.1f} MB at the end"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure the service against a bare handler.")
    parser.add_argument("export", type=Path)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--soak", type=float, default=0)
    options = parser.parse_args()
    image = next((options.export / "sample").glob("*.jpg")).read_bytes()
    bare = [sys.executable, "-c", BARE, str(options.export)]
    service = [sys.executable, "-m", "Deployment.serve", str(options.export), "--port", "0"]
    if options.soak:
        return soak(service, image, options.soak, options.connections)
    with running(bare) as theirs, running(service) as ours:
        for _, port in (theirs, ours):
            load_on(port, image, 1, options.connections)
        rows = []
        for _ in range(options.rounds):
            found = [measured(each, image, options.seconds, options.connections) for each in (theirs, ours)]
            rows.append(found)
            print("   ".join(f"{rate:.0f}/s, {cpu:.2f} ms of a core each" for rate, cpu in found))
    speed = statistics.median(mine[0] / other[0] for other, mine in rows)
    cost = statistics.median(mine[1] / other[1] for other, mine in rows)
    where = f"{options.connections} connections, {os.cpu_count()} cores"
    print(f"{speed:.2f} of the bare handler's requests a second at {cost:.2f} of its processor time each; {where}")


def measured(
    service: tuple["subprocess.Popen[str]", int], image: bytes, seconds: float, connections: int
) -> tuple[float, float]:
    """Requests a second, and milliseconds of a core for each."""
    process = psutil.Process(service[0].pid)
    before = sum(process.cpu_times()[:2])
    rate, _, _ = load_on(service[1], image, seconds, connections)
    return rate, 1000 * (sum(process.cpu_times()[:2]) - before) / (rate * seconds)


if __name__ == "__main__":
    main()
