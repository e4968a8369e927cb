"""The commands of Deployment and its service, as processes of their own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

from tests.template.conftest import ROOT, Result, run_in


def command(module: str, *arguments: object, cwd: Path = ROOT, **environment: str) -> Result:
    """Run one of the commands to its end, from the repository or from a bundle."""
    return run_in(cwd, "python", "-m", module, *map(str, arguments), timeout=60, **environment)


def is_one_line(process: Result) -> bool:
    """Whether a command failed as it should: exit code 1, and one line that says why."""
    return process.returncode == 1 and process.stderr.count("\n") == 1 and process.stderr.startswith("error: ")


@dataclass
class Service:
    """A running service and its address."""

    process: "subprocess.Popen[str]"
    host: str
    port: int

    def memory(self) -> int:
        """Resident bytes of all its processes; what they share counts for each."""
        process = psutil.Process(self.process.pid)
        return sum(each.memory_info().rss for each in (process, *process.children()))

    def answer(self, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, Any, bytes]:
        """Status, headers and body of the answer."""
        connection = HTTPConnection(self.host, self.port, timeout=20)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.headers, data

    def request(self, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, Any]:
        """Status and body of the answer, decoded if it is JSON."""
        status, found, data = self.answer(method, path, body, headers)
        return status, json.loads(data) if found["content-type"] == "application/json" else data.decode()

    def predict(self, image: bytes) -> tuple[int, Any]:
        """Send an image."""
        return self.request("POST", "/predict", image)


def form(*files: tuple[str, bytes], field: str = "files") -> tuple[bytes, dict[str, str]]:
    """A form with these files (name, bytes) as a browser sends it: body and headers."""
    parts = b"".join(
        f'--limit\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'.encode()
        + b"Content-Type: image/jpeg\r\n\r\n"
        + data
        + b"\r\n"
        for name, data in files
    )
    return parts + b"--limit--\r\n", {"Content-Type": "multipart/form-data; boundary=limit"}


@contextmanager
def serving(
    export: object,
    *options: object,
    python: object = sys.executable,
    cwd: Path = ROOT,
    log: Path | None = None,
    **environment: str,
) -> Iterator[Service]:
    """Start the service as a user would, and end it with the block. log: where its stderr goes.

    It has two workers unless `options` state another number: by default it starts one for each core.
    """
    line = [python, "-m", "Deployment.serve", export, "--port", "0", "--parallel", "2", *options]
    with Path(log or os.devnull).open("w") as err:
        process = subprocess.Popen(
            [*map(str, line)],
            cwd=cwd,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=err if log else None,
            text=True,
        )
    try:
        assert process.stdout
        address = re.search(r"http://(\S+):(\d+)$", process.stdout.readline())
        assert address, "the service did not start"
        yield Service(process, address[1], int(address[2]))
    finally:
        process.kill()
        process.wait()
