"""What the service and its workers tell each other: pickles over a socket, each after its length.

A worker is told its Job, and answers with an error's line, or with "" once it is ready; then with an Answer to each
Task.
"""

import io
import pickle
import socket
import struct
from typing import Any, NamedTuple

from Deployment.artifact import Artifact
from Deployment.limits import Limits

LENGTH = struct.Struct("!Q")


class Job(NamedTuple):
    """The model that a worker answers with. threads, runtime: as Deployment.predictor.Predictor takes them."""

    artifact: Artifact
    threads: int
    runtime: str
    limits: Limits
    log_level: str


class Task(NamedTuple):
    """A request to work on.

    batch: whether its body is a form with several images. threshold: the least score, None for the manifest's. coco:
    whether to answer in COCO's form.
    """

    body: bytes
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


def packed(message: Any) -> memoryview:
    """A message as the bytes to send."""
    buffer = io.BytesIO()
    buffer.write(bytes(LENGTH.size))
    pickle.dump(message, buffer, pickle.HIGHEST_PROTOCOL)
    view = buffer.getbuffer()
    LENGTH.pack_into(view, 0, len(view) - LENGTH.size)
    return view


def receive(connection: socket.socket) -> Any:
    """The next message. Raises EOFError if the other side has ended."""
    (size,) = LENGTH.unpack(_read(connection, LENGTH.size))
    return pickle.loads(_read(connection, size))


def _read(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        read = connection.recv_into(rest)
        if not read:
            raise EOFError
        rest = rest[read:]
    return data
