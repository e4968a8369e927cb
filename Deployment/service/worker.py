"""A process that works on images for the service: a request's body comes in, the answer's content goes out.

processes.py starts it as `python -m Deployment.service.worker DESCRIPTOR`, that of the socket between them. It ends
when the service has: signals are for the service, which lets running requests end.
"""

import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from Datasets.format.coco import predictions_to_coco
from Datasets.format.images import UnreadableImage
from Datasets.format.predictions import Prediction, counts_in
from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import Artifact
from Deployment.service.forms import Sent, WrongForm, form_files, single_image
from Deployment.service.json_log import log_as_json
from Deployment.service.messages import Answer, Job, Task, packed, read, receive
from Deployment.service.predictor import Predictor

PIXEL_BYTES = 40  # for each that an image may have; decoding takes 31 at most, of a JPEG 2000 file with transparency
BODY_COPIES = 4  # of a body: as received, whole, as files of a form, and read from one
SPARE_BYTES = 64_000_000
STATM, PAGE = Path("/proc/self/statm"), os.sysconf("SC_PAGE_SIZE")
LOOK_SECONDS = 0.1  # from one look at the memory to the next, while at an image
BEFORE_SECONDS = 1  # from one look before an image to the next; each takes 5 % of the time of a small one


def main() -> None:
    """Work until the service has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        connection = socket.socket(fileno=int(sys.argv[1]))
    except (IndexError, ValueError, OSError):
        sys.exit("error: the service starts this itself: python -m Deployment.serve --help")
    with connection, contextlib.suppress(EOFError, ConnectionError):  # the service has ended
        work(connection)


def work(connection: socket.socket) -> None:
    """Answer the tasks that come. Raises EOFError when no more will."""
    job: Job = receive(connection)
    log_as_json(job.log_level)  # what packages warn of
    try:
        worker = Worker(job)
    except Exception as error:
        return connection.sendall(packed(one_line(error) or repr(error)))
    warnings.simplefilter("ignore")  # Pillow's, of strangers' images: one may give cause for thousands
    connection.sendall(packed(""))
    while True:
        task: Task = receive(connection)
        connection.sendall(packed(worker.answer(task, read(connection, task.size))))


class MemoryLimit:
    """Raises MemoryError in a block that comes to hold `most` bytes more than at most a second before it, on Linux.

    Images of few pixels can: a TIFF file of a million strips, and a JPEG file of a million segments. By looking now and
    then, as what fails to get memory may hang; what decoders do in C is let end.
    """

    def __init__(self, most: int) -> None:
        self._most, self._before, self._looked = most, 0, -math.inf
        signal.signal(signal.SIGALRM, self._look)

    def __enter__(self) -> None:
        now = time.monotonic()
        if now > self._looked + BEFORE_SECONDS:
            self._before, self._looked = resident_bytes(), now
        signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _look(self, *_: object) -> None:
        if resident_bytes() > self._before + self._most:
            raise MemoryError


def resident_bytes() -> int:
    """What this process holds, by Linux' proc_pid_statm(5); elsewhere 0."""
    try:
        return int(STATM.read_bytes().split()[1]) * PAGE
    except OSError:
        return 0


def warmed_up(job: Job) -> Predictor:
    """A predictor that has answered for a sample: the first answer is slow, and shows whether there are any."""
    artifact = job.artifact
    predictor = Predictor(artifact, job.threads, job.runtime)
    name, (image, _) = next(iter(artifact.samples().items()))
    try:
        predictor(image)
    except Exception as error:
        raise UserError(f"{artifact.directory}: the model fails on sample {name}: {one_line(error)}") from error
    return predictor


class Worker:
    """A job's model, and what it has found since the last answer. Raises UserError for a model that fails."""

    def __init__(self, job: Job) -> None:
        self._predictor, self._limits = warmed_up(job), job.limits
        self._artifact: Artifact = job.artifact
        self._memory_limit = MemoryLimit(PIXEL_BYTES * job.limits.pixels + BODY_COPIES * job.limits.body + SPARE_BYTES)
        self._images, self._objects = 0, Counter[str]()

    def answer(self, task: Task, body: bytes) -> Answer:
        """The answer to a task, or why there is none."""
        self._images, self._objects = 0, Counter()
        try:
            found = self._batch(task, body) if task.batch else self._single(task, body)
            content = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except UnreadableImage as error:
            return Answer(422, error=str(error))
        except WrongForm as error:
            return Answer(400, error=str(error))
        except Exception:
            return Answer(500, error=traceback.format_exc())
        return Answer(200, content.encode(), "", self._images, tuple(self._objects.items()))

    def _single(self, task: Task, body: bytes) -> Any:
        found = self._predict(single_image(body, task.content_type), task.threshold)
        classes = self._artifact.manifest["classes"]
        return predictions_to_coco([{"image": "", **found}], self._artifact.task, classes) if task.coco else found

    def _batch(self, task: Task, body: bytes) -> Any:
        sent = form_files(body, task.content_type, self._limits.images)
        found = [self._named(each, task.threshold) for each in sent]
        classes = self._artifact.manifest["classes"]
        return predictions_to_coco(found, self._artifact.task, classes) if task.coco else {"answers": found}

    def _named(self, sent: Sent, threshold: float | None) -> dict[str, Any]:
        try:
            return {"image": sent.name, **self._predict(sent.data, threshold)}
        except UnreadableImage as error:
            return {"image": sent.name, "error": one_line(error)}

    def _predict(self, data: bytes, threshold: float | None) -> Prediction:
        try:
            with self._memory_limit:
                answer = self._predictor(data, self._limits.pixels, threshold, self._limits.formats)
        except MemoryError:
            raise UnreadableImage("it would take too much memory to decode") from None
        self._images += 1
        for each in counts_in(answer):
            self._objects[each["name"]] += each["count"]
        return answer


if __name__ == "__main__":
    main()
