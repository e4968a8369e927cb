"""Requests a second of the service against LitServe and BentoML, which serve the same model.

    python -m tests.benchmarks.bench_servers EXPORT [--litserve PYTHON] [--bentoml PYTHON] [--seconds 4] [--rounds 5]

In `python -m tests.benchmarks servers` the environment variables LITSERVE_PYTHON and BENTOML_PYTHON take their place.
PYTHON: the interpreter of an environment of its own, for both bring packages that this project does not need:

    python -m venv /tmp/lit && /tmp/lit/bin/pip install litserve python-multipart PACKAGES
    python -m venv /tmp/ben && /tmp/ben/bin/pip install bentoml PACKAGES

PACKAGES: onnxruntime numpy pillow pycocotools msgspec. All three get the same form with an image, decode it, run the
same onnxruntime session with one thread and answer with the same JSON, by the same code; the others with one process or
one for each core, the faster of which counts. All run on this machine with the client, in turns; only the ratio means
anything.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from tests.benchmarks.bench_serve import processor
from tests.benchmarks.load import load_on
from tests.benchmarks.measuring import ROOT, Figure, exports
from tests.template.s3_server import free_port

CORES = os.cpu_count() or 1
LITSERVE = """
import os
from pathlib import Path
import litserve
from Deployment.service.artifact import Predictor, load

class Api(litserve.LitAPI):
    def setup(self, device):
        self.predictor = Predictor(load(Path(os.environ["EXPORT"])))

    def decode_request(self, request):
        return request["file"].file.read()

    def predict(self, image):
        return self.predictor(image)

    def encode_response(self, answer):
        return answer

if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=int(os.environ["PROCESSES"]))
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error", generate_client_file=False)
"""
BENTOML = """
import os
from pathlib import Path
from typing import Any
import bentoml
from Deployment.service.artifact import Predictor, load

@bentoml.service(workers=int(os.environ["PROCESSES"]))
class Api:
    def __init__(self) -> None:
        self.predictor = Predictor(load(Path(os.environ["EXPORT"])))

    @bentoml.api(route="/predict")
    def predict(self, file: Path) -> dict[str, Any]:
        return self.predictor(file.read_bytes())
"""
Server = tuple[int, int]  # the id of its process, and its port
KINDS = ("LitServe", "BentoML")
SECONDS, CONNECTIONS = 4, 16
LIMIT = 120  # seconds for starting


def form(image: bytes) -> tuple[bytes, dict[str, str]]:
    """The body and the headers that a browser would send."""
    head = (
        b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    return head + image + b"\r\n--limit--\r\n", {"Content-Type": "multipart/form-data; boundary=limit"}


@contextmanager
def running(command: Sequence[str], directory: Path, port: int, **environment: str) -> Iterator[int]:
    """A server at a port, with all processes that it starts; they end with the block. Yields the first one's id."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BENTOML_DO_NOT_TRACK": "True", **environment}
    log = directory / f"{port}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + LIMIT
        while not answers(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    """Whether a server answers at a port."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status > 0
    except OSError:
        return False
    finally:
        connection.close()


def start(stack: ExitStack, export: Path, pythons: Mapping[str, str], directory: Path) -> dict[str, Server]:
    """All servers, by their names."""
    (directory / "lit.py").write_text(LITSERVE)
    (directory / "ben.py").write_text(BENTOML)
    ports = {name: free_port() for name in ("ours", *(f"{n} {k}" for n in pythons for k in (1, CORES)))}
    servers: dict[str, Server] = {}
    for name, port in ports.items():
        kind, _, processes = name.partition(" ")
        address = ["--port", port, "--host", "127.0.0.1"]
        command = {
            "ours": [sys.executable, "-m", "Deployment.serve", export, "--log-level", "error", *address],
            "LitServe": [pythons.get(kind), "lit.py"],
            "BentoML": [pythons.get(kind), "-m", "bentoml", "serve", "ben:Api", "-q", *address],
        }[kind]
        environment = {"EXPORT": str(export), "PORT": str(port), "PROCESSES": processes or "1"}
        process = stack.enter_context(running([*map(str, command)], directory, port, **environment))
        servers[name] = (process, port)
    return servers


def measure(
    export: Path, pythons: Mapping[str, str], seconds: float, rounds: int, connections: int
) -> Iterator[Figure]:
    """A figure for each of the other servers that there is an interpreter for."""
    body, headers = form(next((export / "sample").glob("*.jpg")).read_bytes())
    paces: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        servers = start(stack, export.resolve(), pythons, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        for _, port in servers.values():
            load_on(port, body, 1, connections, headers)
        for _ in range(rounds):
            for name, (process, port) in servers.items():
                before = processor(process)
                rate, _, _ = load_on(port, body, seconds, connections, headers)
                paces.setdefault(name, []).append((rate, rate * seconds / (processor(process) - before)))
            print("   ".join(f"{name}: {found[-1][0]:.0f}/s, {found[-1][1]:.0f}/core" for name, found in paces.items()))
    for kind in pythons:
        best = max(
            (name for name in paces if name.startswith(kind)),
            key=lambda name: statistics.median(rate for rate, _ in paces[name]),
        )
        yield compare(paces["ours"], paces[best], best, f"{rounds} rounds, {connections} connections, {CORES} cores")


def compare(
    ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]], other: str, details: str
) -> Figure:
    """The medians of both ratios: answers a second, and answers for a second of a core."""
    clock, core = (
        statistics.median(mine[i] / other[i] for mine, other in zip(ours, theirs, strict=True)) for i in (0, 1)
    )
    costs = [1000 / statistics.median(core for _, core in each) for each in (ours, theirs)]
    return Figure(
        "answers of the service for a second of a core",
        f"{other.replace(' ', ' with ')} process{'' if other.endswith(' 1') else 'es'}",
        f"{core:.2f} times as many; {clock:.2f} times by the clock",
        "1.5",
        f"{costs[0]:.2f} against {costs[1]:.2f} ms of a core each; {details}",
    )


def figures(rounds: int = 5) -> Iterator[Figure]:
    """Of the checkout's first export, against those whose interpreters LITSERVE_PYTHON and BENTOML_PYTHON name."""
    pythons = {kind: python for kind in KINDS if (python := os.environ.get(f"{kind.upper()}_PYTHON"))}
    if not pythons:
        return print("LITSERVE_PYTHON, BENTOML_PYTHON: not set, so not compared with these servers", file=sys.stderr)
    for export in exports()[:1]:
        yield from measure(export, pythons, SECONDS, rounds, CONNECTIONS)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure the service against LitServe and BentoML.")
    parser.add_argument("export", type=Path)
    for kind in KINDS:
        parser.add_argument(f"--{kind.lower()}", dest=kind)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a KeyboardInterrupt, so that the servers are ended
    pythons = {kind: python for kind in KINDS if (python := getattr(options, kind))}
    for figure in measure(options.export, pythons, options.seconds, options.rounds, options.connections):
        print(figure)


if __name__ == "__main__":
    main()
