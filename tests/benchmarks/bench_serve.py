"""What the service costs beside its model: requests a second against a bare handler with the same onnxruntime session.

    python -m tests.benchmarks.bench_serve EXPORT [--seconds 2] [--rounds 10] [--connections 16] [--half] [--soak 600]

The bare handler is FastAPI's, with the same decoding, session and answer, and none of the protection, logging and
counting. Both run on this machine with the client, in turns, so that a change of its speed meets both; only the ratio
means anything. Instead of that, of the service alone: --half: p99 against p50 at half the greatest load; --soak: so
many seconds of load, and its memory at the end against that after the first tenth.
"""

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import chain
from pathlib import Path
from types import MappingProxyType

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


def ask(port: int, body: bytes, end: float, headers: Mapping[str, str], pause: float) -> list[float]:
    """Seconds that each answer took over one connection, until `end`; refusals (503) are left out.

    pause: seconds from one request to the next, however long the answer takes, and from which its seconds count; 0 to
    ask as soon as the last was answered.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    taken = []
    due = time.perf_counter() + random.random() * pause
    while due < end:
        time.sleep(max(0, due - time.perf_counter()))
        connection.request("POST", "/predict", body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 503), answer.status
        if answer.status == 200:
            taken.append(time.perf_counter() - due)
        due = due + pause if pause else time.perf_counter()
    connection.close()
    return taken


def load_on(
    port: int,
    body: bytes,
    seconds: float,
    connections: int,
    headers: Mapping[str, str] = MappingProxyType({}),
    rate: float = 0,
) -> tuple[float, float, float]:
    """Answers a second, and p50 and p99 in milliseconds. rate: requests a second to send; 0 for as many as can be."""
    end = time.perf_counter() + seconds
    pause = connections / rate if rate else 0
    with ThreadPoolExecutor(connections) as clients:
        asked = clients.map(lambda _: ask(port, body, end, headers, pause), range(connections))
        taken = sorted(chain.from_iterable(asked))
    return len(taken) / seconds, 1000 * taken[len(taken) // 2], 1000 * taken[len(taken) * 99 // 100]


def half(service: list[str], image: bytes, seconds: float, rounds: int, connections: int) -> None:
    """Print how p99 compares with p50 at half the greatest load; requests come evenly over all connections."""
    ratios = []
    with running(service) as (_, port):
        load_on(port, image, 1, connections)
        for _ in range(rounds):
            greatest, _, _ = load_on(port, image, seconds, connections)
            rate, p50, p99 = load_on(port, image, seconds, connections, rate=greatest / 2)
            ratios.append(p99 / p50)
            print(f"{greatest:.0f}/s at most; at {rate:.0f}/s p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(f"at half the greatest load p99 is {statistics.median(ratios):.1f} times p50; {connections} connections")


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
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--soak", type=float, default=0)
    options = parser.parse_args()
    image = next((options.export / "sample").glob("*.jpg")).read_bytes()
    bare = [sys.executable, "-c", BARE, str(options.export)]
    service = [sys.executable, "-m", "Deployment.serve", str(options.export), "--port", "0"]
    if options.half:
        return half(service, image, options.seconds, options.rounds, options.connections)
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
