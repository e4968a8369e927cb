"""What the service and its workers tell each other: pickles over a socket, each after its length.

A worker is told its Job, and answers with an error's line, or with "" once it is ready; then with an Answer to each
Task. After a task comes the request's body, as it is.
"""

import pickle
import socket
import struct
from pathlib import Path
from typing import Any, NamedTuple

from Deployment.service.artifact import Artifact
from Deployment.service.limits import Limits

LENGTH = struct.Struct("!Q")
CHUNK = 1_048_576  # bytes that are read at once


class Job(NamedTuple):
    """The model that a worker answers with, and where it is.

    export: the directory that `artifact` was loaded from. threads, runtime: as
    Deployment.service.predictor.Predictor takes them.
    """

    export: Path
    artifact: Artifact
    threads: int
    runtime: str
    limits: Limits
    log_level: str


class Task(NamedTuple):
    """A request to work on.

    size: bytes of its body. batch: whether that is a form with several images. threshold: the least score, None for the
    manifest's. coco: whether to answer in COCO's form.
    """

    size: int
    content_type: str
    batch: bool
    threshold: float | None
    coco: bool


class Answer(NamedTuple):
    """The answer to a task: JSON, or why there is none, a traceback if the status is 500.

    objects: how many were found, by class, in so many images.
    """

    status: int
    content: bytes = b""
    error: str = ""
    images: int = 0
    objects: tuple[tuple[str, int], ...] = ()


def packed(message: Any) -> bytes:
    """A message as the bytes to send."""
    data = pickle.dumps(message)
    return LENGTH.pack(len(data)) + data


def receive(connection: socket.socket) -> Any:
    """The next message. Raises EOFError if the other side has ended."""
    (size,) = LENGTH.unpack(read(connection, LENGTH.size))
    return pickle.loads(read(connection, size))


def read(connection: socket.socket, size: int) -> bytes:
    """The next `size` bytes. Raises EOFError if the other side has ended."""
    chunks = []
    while size:
        chunk = connection.recv(min(size, CHUNK))
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)
