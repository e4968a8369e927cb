"""The room's commands and its service, as processes of their own."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def command(module: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run one of the room's commands to its end, from the repository."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)


def is_one_line(process: "subprocess.CompletedProcess[str]") -> bool:
    """Whether a command failed as it should: exit code 1, and one line that says why."""
    return process.returncode == 1 and process.stderr.count("\n") == 1 and process.stderr.startswith("error: ")


@dataclass
class Service:
    """A running service and its address."""

    process: "subprocess.Popen[str]"
    host: str
    port: int

    def request(self, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, Any]:
        """Status and body of the answer, decoded if it is JSON."""
        connection = HTTPConnection(self.host, self.port, timeout=20)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status, json.loads(data) if is_json else data.decode()

    def predict(self, image: bytes) -> tuple[int, Any]:
        """Send an image."""
        return self.request("POST", "/predict", image)


@contextmanager
def serving(export: object, *options: object, python: object = sys.executable, cwd: Path = ROOT) -> Iterator[Service]:
    """Start the service as a user would, and end it with the block."""
    line = [python, "-m", "Deployment.serve", export, "--port", "0", *options]
    process = subprocess.Popen([*map(str, line)], cwd=cwd, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = re.search(r"http://(\S+):(\d+)$", process.stdout.readline())
        assert address, "the service did not start"
        yield Service(process, address[1], int(address[2]))
    finally:
        process.kill()
        process.wait()
