"""What the service costs beside its model: requests a second against a bare handler with the same onnxruntime session.

    python -m tests.benchmarks.bench_serve EXPORT [--seconds 2] [--rounds 10] [--connections 16] [--half] [--soak 600]

The bare handler is FastAPI's, with the same decoding, session and answer, and none of the protection, logging and
counting. Both run on this machine with the client, in turns, so that a change of its speed meets both; only the ratio
means anything. Instead of that, of the service alone: --half: p99 against p50 at half the greatest load; --soak: so
many seconds of load, and its memory at the end against that after the first tenth.
"""

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.benchmarks.load import load_on
from tests.benchmarks.measuring import Figure, exports

SECONDS, CONNECTIONS = 2, 16

BARE = """
import sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from Deployment.service.artifact import Predictor, load
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


def half(service: list[str], image: bytes, seconds: float, rounds: int, connections: int) -> Figure:
    """How p99 compares with p50 at half the greatest load; requests come evenly over all connections."""
    ratios, told = [], ""
    with running(service) as (_, port):
        load_on(port, image, 1, connections)
        for _ in range(rounds):
            greatest, _, _ = load_on(port, image, seconds, connections)
            rate, p50, p99 = load_on(port, image, seconds, connections, rate=greatest / 2)
            ratios.append(p99 / p50)
            told = f"the last at {rate:.0f} of {greatest:.0f} requests a second: {p50:.1f} and {p99:.1f} ms"
            print(told)
    ratio = f"{statistics.median(ratios):.1f} times"
    return Figure(
        "p99 at half the greatest load", "p50", ratio, "", f"{rounds} rounds, {connections} connections; {told}"
    )


def soak(service: list[str], image: bytes, seconds: float, connections: int) -> Figure:
    """How the service bears a long load. Any answer but 200 or 503 is an error."""
    with running(service) as (process, port):
        memory, answers = [], 0.0
        for part in (seconds / 10, seconds * 9 / 10):
            rate, p50, p99 = load_on(port, image, part, connections)
            answers += rate * part
            memory.append(sum(each.memory_info().rss for each in processes(process.pid)) / 1e6)
    return Figure(
        f"memory after {seconds:.0f} s of load",
        "after a tenth of it",
        f"{memory[1]:.1f} MB against {memory[0]:.1f} MB",
        "",
        f"{answers:.0f} answers, p50 {p50:.0f} ms, p99 {p99:.0f} ms, {connections} connections",
    )


def against_bare(
    service: list[str], bare: list[str], image: bytes, seconds: float, rounds: int, connections: int
) -> Figure:
    """Requests a second, and processor time, against the bare handler."""
    with running(bare) as theirs, running(service) as ours:
        for _, port in (theirs, ours):
            load_on(port, image, 1, connections)
        rows = []
        for _ in range(rounds):
            rows.append([measured(each, image, seconds, connections) for each in (theirs, ours)])
            print("   ".join(f"{rate:.0f}/s, {cpu:.2f} ms of a core each" for rate, cpu in rows[-1]))
    speed = statistics.median(mine[0] / other[0] for other, mine in rows)
    cost = statistics.median(mine[1] / other[1] for other, mine in rows)
    other, mine = (statistics.median(row[i][1] for row in rows) for i in (0, 1))
    return Figure(
        "requests a second to the service",
        "a bare FastAPI handler with the same session",
        f"{speed:.2f} of its rate at {cost:.2f} of its processor time each",
        "0.9",
        f"{mine:.2f} against {other:.2f} ms of a core; {rounds} rounds, {connections} connections",
    )


def figures(rounds: int = 10) -> Iterator[Figure]:
    """Of the checkout's first export."""
    for export in exports()[:1]:
        bare, service, image = commands(export)
        yield against_bare(service, bare, image, SECONDS, rounds, CONNECTIONS)
        yield half(service, image, SECONDS, rounds, CONNECTIONS)


def commands(export: Path) -> tuple[list[str], list[str], bytes]:
    """What starts the bare handler and the service, and an image to send."""
    bare = [sys.executable, "-c", BARE, str(export)]
    service = [sys.executable, "-m", "Deployment.serve", str(export), "--port", "0"]
    return bare, service, next((export / "sample").glob("*.jpg")).read_bytes()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure the service against a bare handler.")
    parser.add_argument("export", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--soak", type=float, default=0)
    options = parser.parse_args()
    bare, service, image = commands(options.export)
    if options.half:
        print(half(service, image, options.seconds, options.rounds, options.connections))
    elif options.soak:
        print(soak(service, image, options.soak, options.connections))
    else:
        print(against_bare(service, bare, image, options.seconds, options.rounds, options.connections))


def measured(
    service: tuple["subprocess.Popen[str]", int], image: bytes, seconds: float, connections: int
) -> tuple[float, float]:
    """Requests a second, and milliseconds of a core for each."""
    before = processor(service[0].pid)
    rate, _, _ = load_on(service[1], image, seconds, connections)
    return rate, 1000 * (processor(service[0].pid) - before) / (rate * seconds)


def processes(pid: int) -> list[psutil.Process]:
    """A service's process, and those that it started."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def processor(pid: int) -> float:
    """Seconds of a core that a service has taken."""
    return sum(sum(each.cpu_times()[:2]) for each in processes(pid))


if __name__ == "__main__":
    main()
