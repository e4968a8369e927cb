"""The service's endpoints around a loaded model, and what the OpenAPI document says of them."""

import asyncio
import mimetypes
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from Datasets.tools.errors import one_line
from Deployment.service import answers
from Deployment.service.artifact import Artifact
from Deployment.service.bodies import BodyReader
from Deployment.service.forms import FORM, is_form
from Deployment.service.limits import Limits
from Deployment.service.messages import Task
from Deployment.service.metrics import Metrics
from Deployment.service.pages import add_pages
from Deployment.service.workers import Workers, busy

TYPE = "content-type"
_FILE = {"type": "string", "format": "binary"}
_AS_BODY = {"application/octet-stream": {"schema": _FILE}, "image/*": {"schema": _FILE}}


class Format(StrEnum):
    """The forms of an answer: Fourfold's record, or COCO's annotations."""

    record = "record"
    coco = "coco"


FormatQuery = Annotated[Format, Query(description="`record`, or `coco` for COCO's form of annotations")]
ThresholdQuery = Annotated[
    float | None,
    Query(ge=0, le=1, description="the least score; by default the manifest's `score_threshold`; masks have no scores"),
]


def create_app(artifact: Artifact, workers: Workers, limits: Limits, key: bool = False) -> FastAPI:
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
        servers=[{"url": "."}],  # beside the document, also where a proxy has put it below a path
        lifespan=workers.at_work,
    )
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_wrong_query)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_failure)
    app.state.metrics = Metrics(artifact.manifest, workers)
    app.router.route_class = _Direct
    _add_predictions(app, artifact, workers, limits)  # first, as routes are tried in their order
    app.router.route_class = APIRoute
    add_pages(app)
    _add_facts(app, artifact, workers)
    _add_sample(app, artifact)
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


def _add_facts(app: FastAPI, artifact: Artifact, workers: Workers) -> None:
    metrics: Metrics = app.state.metrics

    @app.get("/health/live", summary="Whether the process answers", responses=errors())
    async def live() -> answers.Health:
        return answers.Health()

    @app.get("/health/ready", summary="Whether it takes images", responses=errors(503))
    async def ready() -> answers.Health:
        if not workers.alive:
            raise busy("no worker is ready; they start again")
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


def _add_sample(app: FastAPI, artifact: Artifact) -> None:
    samples = [(mimetypes.guess_type(name)[0], image) for name, (image, _) in artifact.samples().items()]
    shown: dict[int | str, Any] = {200: {"description": "An image file", "content": {"image/*": {"schema": _FILE}}}}

    @app.get(
        "/sample",
        summary="One of the test images that came with the model, to try it",
        response_class=Response,
        responses=shown | errors(401, 422),
    )
    async def sample(
        number: Annotated[int, Query(ge=0, description="which one; after the last, the first")] = 0,
    ) -> Response:
        kind, image = samples[number % len(samples)]
        return Response(image, media_type=kind)


def _add_predictions(app: FastAPI, artifact: Artifact, workers: Workers, limits: Limits) -> None:
    metrics: Metrics = app.state.metrics
    bodies = BodyReader(limits.body, limits.memory, busy)
    coco = answers.coco_of(artifact.task)

    async def run(request: Request, batch: bool, threshold: float | None, format: Format) -> Response:
        end = asyncio.get_running_loop().time() + limits.seconds
        async with bodies.reading(request, end) as body:
            task = Task(len(body), request.headers.get(TYPE, ""), batch, threshold, format is Format.coco)
            answer = await workers.run(task, body, end)
        metrics.count_predictions(answer.images, answer.objects)
        if answer.status == 500:
            raise RuntimeError(answer.error)
        if answer.error:
            return error_response(answer.status, answer.error)
        return Response(answer.content, media_type="application/json")

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
        return await run(request, False, threshold, format)

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
        return await run(request, True, threshold, format)


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
        503: "too many requests wait, this one took too long, or the service ends: try again after Retry-After seconds",
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


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client left before it had sent its image


async def _answer_failure(request: Request, error: Exception) -> Response:
    return error_response(500, "the service failed on this request; its log says why")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as every endpoint answers it."""
    return JSONResponse({"error": one_line(message)}, status, headers)
