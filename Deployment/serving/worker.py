"""A process that works on images for the service: a request's body comes in, the answer's content goes out.

processes.py starts it as `python -m Deployment.serving.worker DESCRIPTOR`, that of the socket between them. It ends
when the service has: signals are for the service, which lets running requests end.
"""

import contextlib
import json
import signal
import socket
import sys
import traceback
from collections import Counter
from typing import Any

from Datasets.errors import UserError, one_line
from Datasets.images import UnreadableImage
from Datasets.predictions import Prediction, counts_in
from Deployment.artifact import Artifact
from Deployment.coco import batch_coco, to_coco
from Deployment.predictor import Predictor
from Deployment.serving.forms import Sent, WrongForm, form_files, single_image
from Deployment.serving.json_log import log_as_json
from Deployment.serving.messages import Answer, Job, Task, packed, read, receive


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
    connection.sendall(packed(""))
    while True:
        task: Task = receive(connection)
        connection.sendall(packed(worker.answer(task, read(connection, task.size))))


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
        return to_coco([("", found)], self._artifact.task, self._artifact.manifest["classes"]) if task.coco else found

    def _batch(self, task: Task, body: bytes) -> Any:
        sent = form_files(body, task.content_type, self._limits.images)
        found = [self._named(each, task.threshold) for each in sent]
        classes = self._artifact.manifest["classes"]
        return batch_coco(found, self._artifact.task, classes) if task.coco else {"answers": found}

    def _named(self, sent: Sent, threshold: float | None) -> dict[str, Any]:
        try:
            return {"image": sent.name, **self._predict(sent.data, threshold)}
        except UnreadableImage as error:
            return {"image": sent.name, "error": one_line(error)}

    def _predict(self, data: bytes, threshold: float | None) -> Prediction:
        answer = self._predictor(data, self._limits.pixels, threshold, self._limits.formats)
        self._images += 1
        for each in counts_in(answer):
            self._objects[each["name"]] += each["count"]
        return answer


if __name__ == "__main__":
    main()
