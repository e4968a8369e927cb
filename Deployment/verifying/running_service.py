"""A bundle's service as a process of its own, started in an empty directory, and a client for it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from Datasets.format.images import FORMATS, MAX_PIXELS
from Datasets.tools.errors import UserError

UNSET = ("PYTHONPATH", "FOURFOLD_API_KEY")  # environment variables that the service does not inherit
STOP_SECONDS = 10
ANSWER_SECONDS = 120  # a large model may take seconds, and several requests wait for it at once
MAX_BYTES = 2_000_000_000  # of an image file: evaluation read it, so the service must


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

    def predict(self, image: bytes) -> Any:
        """The answer for an image file."""
        return json.loads(self.request("POST", "/predict", image))


@contextmanager
def running(bundle: Path) -> Iterator[tuple[int, float]]:
    """Start a copy of `bundle` in an empty directory; yield its port and the seconds from start to ready.

    It takes images of any format and size, as evaluation does, and is stopped at the end of the block. Raises UserError
    with the last line of its log if it does not become ready, or does not answer within the block.
    """
    with tempfile.TemporaryDirectory(prefix="fourfold-") as empty:
        directory, log = shutil.copytree(bundle, Path(empty, "bundle")), Path(empty, "log")
        started = time.perf_counter()
        process = _start(directory, log)
        try:
            port = _wait_until_ready(process)
            yield port, time.perf_counter() - started
        except (OSError, HTTPException) as error:
            raise UserError(f"{bundle}: the service failed: {_reason(process, log) or error}") from error
        finally:
            _stop(process)


def _start(directory: Path, log: Path) -> subprocess.Popen[str]:
    limits = ["--max-bytes", MAX_BYTES, "--max-pixels", MAX_PIXELS, "--seconds", ANSWER_SECONDS]
    options = ["--port", 0, "--formats", ",".join(FORMATS), *limits]
    command = [sys.executable, "-m", "Deployment.serve", ".", *map(str, options)]
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    with log.open("wb") as stderr:
        return subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        )


def _wait_until_ready(process: subprocess.Popen[str]) -> int:
    """The port, which the service prints once it is ready; nothing if it fails to start."""
    assert process.stdout
    address = re.search(r":(\d+)$", process.stdout.readline())
    if not address:
        raise ConnectionError
    port = int(address[1])
    Client(port).request("GET", "/health/ready")
    return port


def _reason(process: subprocess.Popen[str], log: Path) -> str:
    """The last line of the log that is not a request's, which are JSON; else the exit code, if the process ended."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if messages := [line for line in lines if line.strip() and not line.startswith("{")]:
        return messages[-1].removeprefix("error: ")
    with suppress(subprocess.TimeoutExpired):  # of a killed process, connections close first
        return f"exit code {process.wait(1)}"
    return ""


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
