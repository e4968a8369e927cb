"""A bundle's service as a process: started in an empty directory as a user would, asked, and ended in any case."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from Datasets.errors import UserError

UNSET = ("PYTHONPATH", "FOURFOLD_API_KEY")  # of this process's environment, in the service's
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
        process: subprocess.Popen[bytes] | None = None
        try:
            with _uninterrupted():
                process = _start(directory, out, err)
            port = _wait_until_ready(process, out)
            yield port, time.perf_counter() - started
        except (OSError, HTTPException) as error:
            lines = err.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [str(error)]
            raise UserError(f"{bundle}: the service failed: {lines[-1].removeprefix('error: ')}") from error
        finally:
            if process:
                _stop(process)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM to the end of the block: in the midst of starting a process, nobody would know it."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


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
