"""A worker as the service sees it: its process as it starts and learns its job; then, in the event loop, its calls."""

import asyncio
import contextlib
import hashlib
import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from Datasets.tools.errors import UserError
from Deployment.service.messages import LENGTH, Answer, Job, Task, packed, receive

if TYPE_CHECKING:
    from Deployment.service.workers import Workers

AHEAD_BYTES = 262_144  # bodies up to this size are sent while their worker is at another, which spares it a pause
LOOK_SECONDS = 0.02  # from one look to the next for what was sent ahead to a worker that takes long over another
START_SECONDS = 120  # a large model takes its time; what hangs longer is ended
PROJECT = Path(__file__).parents[2]


def code() -> dict[Path, str]:
    """What a worker may import of this project, as it is now: the sha256 of each file, without editors' hidden ones."""
    folders = (PROJECT / "Datasets", PROJECT / "Deployment", PROJECT / "Deployment/service")
    files = (file for folder in folders for file in folder.glob("[!.]*.py"))
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class Process:
    """Deployment/service/worker.py as it starts. connection: the service's end of the socket to it."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            paths = ["-I"] if sys.flags.isolated else ["-P"] if sys.flags.safe_path else []
            command = [sys.executable, *paths, "-m", "Deployment.service.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(  # in a group of its own, so that Ctrl-C is the service's only
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
            )

    def learn(self, job: Job) -> None:
        """Tell it its job."""
        with contextlib.suppress(ConnectionError):  # it has ended, as wait() will say
            self.connection.sendall(packed(job))

    def wait(self) -> None:
        """Wait until it is ready. Raises UserError if it cannot do its job."""
        self.connection.settimeout(START_SECONDS)
        try:
            error = receive(self.connection)
        except TimeoutError:
            error = f"a worker's process was not ready after {START_SECONDS} s"
        except (EOFError, OSError):
            error = f"a worker's process ended with exit code {self._process.wait()} before it was ready"
        if error:
            raise UserError(error)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def usage(self) -> tuple[float, int]:
        """Its processor seconds and resident bytes, by Linux' proc_pid_stat(5); none once it has ended."""
        with contextlib.suppress(OSError):
            if self.runs:
                fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
                seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                return seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        return 0, 0

    def end(self) -> int:
        """End it, whatever it does; its exit code."""
        self._process.kill()
        return self._process.wait()


@dataclass(eq=False)
class Call:
    """A task that is worked on, or that waits for it. worker: whom it was sent to last."""

    task: Task
    body: bytearray
    answer: asyncio.Future[Answer]
    worker: "Worker | None" = None

    @property
    def begun(self) -> bool:
        """Whether a worker is at it."""
        return self.worker is not None and self.worker.current is self

    @property
    def small(self) -> bool:
        """Whether it may be sent ahead, and others behind it."""
        return len(self.body) <= AHEAD_BYTES


class Worker(asyncio.Protocol):
    """A worker that is ready, in the event loop.

    calls: what it is at since `since`, by the event loop's clock, and what was sent ahead. seen: what it was at when it
    was last looked at. quick: whether its last answer came before it would have been. pause: seconds to wait, should it
    end, before another is started; none once it has answered.
    """

    def __init__(self, process: Process, workers: "Workers", pause: int) -> None:
        self.process, self._workers, self.pause = process, workers, pause
        self.calls: deque[Call] = deque()
        self.since = 0.0
        self.seen: Call | None = None
        self.quick = False
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()

    @property
    def current(self) -> Call | None:
        """What it is at."""
        return self.calls[0] if self.calls else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the first call."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._workers.is_ready(self)

    def takes(self, call: Call) -> bool:
        """Whether to send it a call: while it is at nothing; ahead only where it would not soon be sent to another."""
        if not self.calls:
            return self.process.runs
        return self.quick and len(self.calls) == 1 and call.small and self.calls[0].small

    def begin(self, call: Call) -> None:
        """Send a call."""
        call.worker = self
        if not self.calls:
            self.since = self._loop.time()
        self.calls.append(call)
        if call.small:
            self._transport.write(packed(call.task) + call.body)
        else:
            self._transport.write(packed(call.task))
            self._transport.write(call.body)

    def data_received(self, data: bytes) -> None:
        """Answer the calls whose answers are whole."""
        self._received += data
        while len(self._received) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._received)[0]
            if len(self._received) < end:
                return
            answer = pickle.loads(self._received[LENGTH.size : end])
            del self._received[:end]
            call = self.calls.popleft()
            self.pause, now = 0, self._loop.time()
            self.quick, self.since = now < self.since + LOOK_SECONDS, now
            if not call.answer.done():
                call.answer.set_result(answer)
            self._workers.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Its process has ended."""
        self._workers.has_ended(self)
