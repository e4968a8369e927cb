"""The service's endpoints around a loaded model, and what the OpenAPI document says of them."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from Datasets.images import FORMATS, UnreadableImage
from Datasets.predictions import Prediction
from Deployment import answers
from Deployment.artifact import Artifact
from Deployment.bodies import FORM, BodyReader, Sent, form_files, is_form, single_image
from Deployment.coco import batch_coco, to_coco
from Deployment.metrics import Metrics
from Deployment.pages import add_pages
from Deployment.predictor import Predictor
from Deployment.workers import Workers, busy

TYPE = "content-type"
_FILE = {"type": "string", "format": "binary"}
_AS_BODY = {"application/octet-stream": {"schema": _FILE}, "image/*": {"schema": _FILE}}


@dataclass(frozen=True)
class Limits:
    """What one request may cost, and how many are served at once.

    body: bytes; of a batch all together. pixels: of an image. images: of a batch. formats: of image files, Pillow's
    names. seconds: from the request's first line to its answer. parallel: images worked on at once. waiting: requests
    that may wait for that. memory: bytes of all bodies held at once.
    """

    body: int = 20_000_000
    pixels: int = 50_000_000
    images: int = 64
    formats: tuple[str, ...] = FORMATS
    seconds: int = 30
    parallel: int = 1
    waiting: int = 64
    memory: int = 400_000_000


class Format(StrEnum):
    """The forms of an answer: Fourfold's record, or COCO's annotations."""

    record = "record"
    coco = "coco"


FormatQuery = Annotated[Format, Query(description="`record`, or `coco` for COCO's form of annotations")]
ThresholdQuery = Annotated[
    float | None,
    Query(ge=0, le=1, description="the least score; by default the manifest's `score_threshold`; masks have no scores"),
]


def create_app(artifact: Artifact, predictor: Predictor, limits: Limits, key: bool = False) -> FastAPI:
    """The application. Every error is answered as {"error": "one line"}; `app.state.metrics` counts what it does.

    key: whether the documentation says that a key is asked for, as Front does.
    """
    app = FastAPI(
        title=f"Fourfold: experiment {artifact.manifest['experiment']}",
        version=str(artifact.manifest.get("git", {}).get("commit") or "unknown"),
        description=f"Finds {', '.join(artifact.manifest['classes'])}: {artifact.task}.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_wrong_query)
    app.add_exception_handler(UnreadableImage, _answer_unreadable)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_failure)
    workers = Workers(limits.parallel, limits.waiting)
    app.state.metrics = Metrics(artifact.manifest, workers)
    app.router.route_class = _Direct
    _add_predictions(app, artifact, predictor, workers, limits)  # first, as routes are tried in their order
    app.router.route_class = APIRoute
    add_pages(app)
    _add_facts(app, artifact)
    _document_key(app, key)
    return app


class _Direct(APIRoute):
    """A route whose function is called at once where a request has no query: FastAPI takes 0.1 ms to find nothing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        with_query = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await (with_query if request.scope["query_string"] else self.endpoint)(request)

        return handle


def _document_key(app: FastAPI, key: bool) -> None:
    """Have the OpenAPI document say of every endpoint that may answer 401 that it asks for the key, or not say 401."""
    schema = app.openapi()
    for operation in (operation for path in schema["paths"].values() for operation in path.values()):
        if "401" in operation["responses"] and key:
            operation["security"] = [{"key": []}]
        elif not key:
            operation["responses"].pop("401", None)
    if key:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}


def _add_facts(app: FastAPI, artifact: Artifact) -> None:
    metrics: Metrics = app.state.metrics

    @app.get("/health/live", summary="Whether the process answers", responses=errors())
    @app.get("/health/ready", summary="Whether it takes images: the port opens only once it does", responses=errors())
    async def health() -> answers.Health:
        return answers.Health()

    @app.get(
        "/manifest",
        summary="Commit, data, parameters and metrics behind the answers",
        response_model=dict[str, Any],
        responses=errors(401),
    )
    async def manifest() -> Response:
        return JSONResponse(artifact.manifest)

    content = {"text/plain": {"schema": {"type": "string"}}}
    good: dict[int | str, Any] = {200: {"description": "Prometheus' text form", "content": content}}

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=good | errors(401))
    async def figures() -> Response:
        return Response(metrics.text(), media_type=metrics.TYPE)


def _add_predictions(app: FastAPI, artifact: Artifact, predictor: Predictor, workers: Workers, limits: Limits) -> None:
    metrics: Metrics = app.state.metrics
    bodies = BodyReader(limits.body, limits.memory, busy)
    work = Work(predictor, limits, metrics, artifact)
    coco = answers.coco_of(artifact.task)

    async def run(request: Request, function: Callable[..., Response], *options: Any) -> Response:
        end = asyncio.get_running_loop().time() + limits.seconds
        async with bodies.reading(request, end) as body:
            return await workers.run(end, function, body, request.headers.get(TYPE, ""), *options)

    @app.post(
        "/predict",
        summary="What is in an image: an image file as the body, or as the file of a form",
        response_model=answers.RECORDS[artifact.task] | coco,
        responses=errors(400, 401, 408, 413, 422, 503),
        openapi_extra=_body({**_AS_BODY, **_form("file", _FILE)}),
    )
    async def predict(
        request: Request, format: FormatQuery = Format.record, threshold: ThresholdQuery = None
    ) -> Response:
        return await run(request, work.predict, threshold, format)

    @app.post(
        "/predict/batch",
        summary=f"What is in each of up to {limits.images} images, the files of a form",
        response_model=answers.batch_of(artifact.task) | coco,
        responses=errors(400, 401, 408, 413, 415, 422, 503),
        openapi_extra=_body(_form("files", {"type": "array", "items": _FILE, "minItems": 1})),
    )
    async def predict_batch(
        request: Request, format: FormatQuery = Format.record, threshold: ThresholdQuery = None
    ) -> Response:
        if not is_form(request.headers.get(TYPE, "")):
            raise HTTPException(415, f"a batch is a form with files, of type {FORM}")
        return await run(request, work.predict_batch, threshold, format)


class Work:
    """What the threads do with a request's body, up to the answer: to write out a large mask takes its time too."""

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics, artifact: Artifact) -> None:
        self._predictor, self._limits, self._metrics = predictor, limits, metrics
        self._task, self._classes = artifact.task, artifact.manifest["classes"]

    def predict(self, body: bytes, content_type: str, threshold: float | None, format: Format) -> Response:
        """What is in one image. Raises UnreadableImage, and HTTPException for a wrong form."""
        found = self._predict(single_image(body, content_type), threshold)
        return JSONResponse(to_coco([("", found)], self._task, self._classes) if format is Format.coco else found)

    def predict_batch(self, body: bytes, content_type: str, threshold: float | None, format: Format) -> Response:
        """What is in each image of a form, or why it cannot be read. Raises TimeoutError after the limit of seconds."""
        end = time.monotonic() + self._limits.seconds
        found = []
        for sent in form_files(body, content_type, self._limits.images):
            if time.monotonic() > end:
                raise TimeoutError
            found.append(self._named(sent, threshold))
        coco = format is Format.coco
        return JSONResponse(batch_coco(found, self._task, self._classes) if coco else {"answers": found})

    def _named(self, sent: Sent, threshold: float | None) -> dict[str, Any]:
        try:
            return {"image": sent.name, **self._predict(sent.data, threshold)}
        except UnreadableImage as error:
            return {"image": sent.name, "error": one_line(str(error))}

    def _predict(self, data: bytes, threshold: float | None) -> Prediction:
        answer = self._predictor(data, self._limits.pixels, threshold, self._limits.formats)
        self._metrics.count_prediction(answer)
        return answer


def errors(*statuses: int) -> dict[int | str, Any]:
    """The documentation of an endpoint's errors. Any may be refused with 500."""
    reasons = {
        400: "the form is damaged, or has too few or too many files",
        401: "the API key is missing or wrong",
        408: "the body did not arrive in time",
        413: "the body is too large",
        415: "the body is no form",
        422: "no image, a damaged one, one with too many pixels; or a wrong parameter",
        500: "a fault of the service; its log has the reason under the answer's request id",
        503: "too many requests are waiting, or this one took too long: try again after Retry-After seconds",
    }
    return {status: {"model": answers.Error, "description": reasons[status]} for status in (*statuses, 500)}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {FORM: {"schema": {"type": "object", "properties": {field: schema}, "required": [field]}}}


async def _answer_http_error(request: Request, error: Any) -> Response:
    return error_response(error.status_code, str(error.detail), error.headers)


async def _answer_wrong_query(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    return error_response(422, f"{first['loc'][-1]}: {first['msg']}")


async def _answer_unreadable(request: Request, error: Exception) -> Response:
    return error_response(422, str(error))


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client left before it had sent its image


async def _answer_failure(request: Request, error: Exception) -> Response:
    return error_response(500, "the service failed on this request; its log says why")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as every endpoint answers it."""
    return JSONResponse({"error": one_line(message)}, status, headers)


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())
