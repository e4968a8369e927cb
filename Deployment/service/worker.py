"""What a worker process does: load the model once, then answer one task after the other."""

import json
import signal
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from Datasets.format.coco import predictions_to_coco
from Datasets.format.images import UnreadableImage
from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import Artifact, Predictor, Runtime
from Deployment.service.keeping import Keeper, Keeping


@dataclass(frozen=True)
class Limits:
    """The service's limits: options of Deployment/serve.py, whose help explains them."""

    parallel: int = 1
    waiting: int = 64
    seconds: int = 30
    max_bytes: int = 20_000_000
    max_pixels: int = 30_000_000
    max_images: int = 64
    max_memory: int = 400_000_000
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP")  # Pillow's names


class Task(NamedTuple):
    """A request for predictions. files: names and bytes. threshold: None for the manifest's. coco: answer as COCO."""

    files: list[tuple[str, bytes]]
    batch: bool
    threshold: float | None
    coco: bool


@dataclass(frozen=True)
class Answer:
    """The JSON for a task, with what the metrics count; or an HTTP status and the reason.

    objects, scores: by class. warning: what the log should say, of images that could not be kept.
    """

    content: bytes = b""
    images: int = 0
    objects: dict[str, int] = field(default_factory=dict)
    scores: list[tuple[str, float]] = field(default_factory=list)
    warning: str = ""
    status: int = 200
    error: str = ""


@dataclass(frozen=True)
class Setup:
    """What a worker process begins with."""

    artifact: Artifact
    runtime: Runtime
    limits: Limits
    keeping: Keeping | None = None


class Model:
    """An export's model behind limits. Raises UserError if it cannot be loaded, or fails on the first sample."""

    def __init__(self, setup: Setup) -> None:
        self._artifact = artifact = setup.artifact
        self._limits = setup.limits
        self._keeper = Keeper(setup.keeping, artifact.manifest) if setup.keeping else None
        self._predictor = Predictor(artifact, setup.runtime, extras=bool(self._keeper))
        self.device = self._predictor.device
        name, (image, _) = next(iter(artifact.samples().items()))
        try:
            self._predictor(image)  # the first prediction is slow
        except Exception as error:
            raise UserError(f"{artifact.directory}: the model fails on sample {name}: {one_line(error)}") from error

    def answer(self, task: Task) -> Answer:
        """The answer to a task; the error of status 500 is a traceback, for the log."""
        try:
            rows = [self._row(name, data, task.threshold) for name, data in task.files]
            if not task.batch and "error" in rows[0]:
                return Answer(status=422, error=rows[0]["error"])
            content = json.dumps(self._content(rows, task), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except Exception:
            return Answer(status=500, error=traceback.format_exc())
        objects, scores = Counter[str](), list[tuple[str, float]]()
        for row in rows:
            objects.update({each["name"]: each["count"] for each in row.get("counts", ())})
            scores += row.get("scores", {}).items() or [(box["name"], box["score"]) for box in row.get("boxes", ())]
        read = sum("error" not in row for row in rows)
        return Answer(content.encode(), read, dict(objects), scores, self._keeper.failure() if self._keeper else "")

    def _row(self, name: str, data: bytes, threshold: float | None) -> dict[str, Any]:
        try:
            prediction: Any = self._predictor(data, self._limits.max_pixels, threshold, self._limits.formats)
        except UnreadableImage as error:
            return {"image": name, "error": one_line(error)}
        except MemoryError:
            return {"image": name, "error": "it takes too much memory to decode"}
        if self._keeper:
            prediction.pop("features")
            self._keeper.consider(data, prediction, prediction.pop("uncertainty"))
        return {"image": name, **prediction}

    def _content(self, rows: list[dict[str, Any]], task: Task) -> Any:
        if task.coco:
            return predictions_to_coco(rows, self._artifact.task, self._artifact.manifest["classes"])
        if task.batch:
            return {"answers": rows}
        return {name: value for name, value in rows[0].items() if name != "image"}


def work(pipe: Connection, setup: Setup) -> None:
    """The process: load the model, report why it failed or the device, and answer tasks until the service ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the service ends it
    warnings.simplefilter("ignore")  # Pillow's, about the images that are sent
    model, failure = None, None
    try:
        model = Model(setup)
    except UserError as error:
        failure = str(error)
    with suppress(EOFError, OSError):  # the service has ended
        pipe.send((failure, model and model.device))
        while model:
            pipe.send(model.answer(pipe.recv()))
