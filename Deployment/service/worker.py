"""What a worker process does: load the model once, then answer one task after the other."""

import json
import signal
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

from Datasets.format.coco import predictions_to_coco
from Datasets.format.images import UnreadableImage, decode
from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import Artifact, Predictor, Runtime


@dataclass(frozen=True)
class Limits:
    """The limits of the service, beside those of an image: options of Deployment/serve.py, whose help explains them."""

    parallel: int
    waiting: int
    seconds: int
    max_bytes: int
    max_images: int
    max_memory: int


class Task(NamedTuple):
    """A request for predictions.

    files: names and bytes. threshold: None for the manifest's. batch: whether images that cannot be read are named in
    the answer, rather than refused. id: what an answer of the Open Inference Protocol repeats.
    """

    files: list[tuple[str, bytes]]
    threshold: float | None
    form: Literal["record", "coco", "inference"]
    batch: bool = False
    id: str = ""


@dataclass(frozen=True)
class Answer:
    """The JSON for a task, with what the metrics count; or an HTTP status and the reason.

    objects, scores: by class. seen: of a model with extras, for each image its prediction, or `error`, and how unsure
    the model is of it.
    """

    content: bytes = b""
    images: int = 0
    objects: dict[str, int] = field(default_factory=dict)
    scores: list[tuple[str, float]] = field(default_factory=list)
    seen: list[tuple[dict[str, Any], float | None]] = field(default_factory=list)
    status: int = 200
    error: str = ""


def tried(artifact: Artifact, runtime: Runtime, extras: bool) -> Predictor:
    """An export's model. Raises UserError if it cannot be loaded, or fails on the first sample."""
    predictor = Predictor(artifact, runtime, extras)
    name, (image, _) = next(iter(artifact.samples().items()))
    try:
        predictor.find(decode(image, value_range=artifact.value_range), artifact.threshold)  # the first one is slow
    except Exception as error:
        raise UserError(f"{artifact.directory}: the model fails on sample {name}: {one_line(error)}") from error
    return predictor


def answer(task: Task, predictor: Predictor) -> Answer:
    """The answer to a task; the error of status 500 is a traceback, for the log."""
    try:
        seen = [_see(data, task.threshold, predictor) for _, data in task.files]
        unsure = [each.pop("uncertainty", None) for each in seen]
        failed = [(number, each["error"]) for number, each in enumerate(seen) if "error" in each]
        if failed and not task.batch:
            number, reason = failed[0]
            return Answer(status=422, error=f"image {number}: {reason}" if task.form == "inference" else reason)
        content = _to_json(_content(task, seen, predictor.artifact))
    except Exception:
        return Answer(status=500, error=traceback.format_exc())
    objects, scores = Counter[str](), list[tuple[str, float]]()
    for each in seen:
        objects.update({counted["name"]: counted["count"] for counted in each.get("counts", ())})
        scores += each.get("scores", {}).items() or [(box["name"], box["score"]) for box in each.get("boxes", ())]
    kept = list(zip(seen, unsure, strict=True)) if predictor.extras else []
    return Answer(content.encode(), len(seen) - len(failed), dict(objects), scores, kept)


def _see(data: bytes, threshold: float | None, predictor: Predictor) -> dict[str, Any]:
    """The prediction for an image, or `error`."""
    try:
        prediction: Any = predictor(data, threshold)
    except UnreadableImage as error:
        return {"error": one_line(error)}
    except MemoryError:
        return {"error": "it takes too much memory to decode"}
    prediction.pop("features", None)
    return prediction


def _content(task: Task, seen: list[dict[str, Any]], artifact: Artifact) -> Any:
    rows = [{"image": name, **each} for (name, _), each in zip(task.files, seen, strict=True)]
    if task.form == "coco":
        return predictions_to_coco(rows, artifact.task, artifact.manifest["classes"])
    if task.form == "inference":
        texts = [_to_json(each) for each in seen]
        output = {"name": "predictions", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
        return {"model_name": artifact.manifest["experiment"], "id": task.id, "outputs": [output]}
    return {"answers": rows} if task.batch else seen[0]


def _to_json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def work(pipe: Connection, artifact: Artifact, runtime: Runtime, extras: bool) -> None:
    """The process: load the model, report why it failed or the device, and answer tasks until the service ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the service ends it
    warnings.simplefilter("ignore")  # Pillow's, about the images that are sent
    with suppress(EOFError, OSError):  # the service has ended
        try:
            predictor = tried(artifact, runtime, extras)
        except UserError as error:
            return pipe.send((str(error), None))
        pipe.send((None, predictor.device))
        while True:
            pipe.send(answer(pipe.recv(), predictor))
