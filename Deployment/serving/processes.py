"""A worker as a process: how it starts, learns its job, and ends."""

import contextlib
import socket
import subprocess
import sys

from Datasets.errors import UserError
from Deployment.serving.messages import Job, packed, receive

START_SECONDS = 120  # a large model takes its time; what hangs longer is ended


class Process:
    """Deployment/serving/worker.py as it starts. connection: the service's end of the socket to it."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            paths = ["-I"] if sys.flags.isolated else ["-P"] if sys.flags.safe_path else []
            command = [sys.executable, *paths, "-m", "Deployment.serving.worker", str(theirs.fileno())]
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

    def end(self) -> int:
        """End it, whatever it does; its exit code."""
        self._process.kill()
        return self._process.wait()
