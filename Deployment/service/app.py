"""The service's endpoints around a loaded model, what the OpenAPI document says of them, and the pages for people.

The pages work offline: Swagger UI's files come from the package fastapi-offline, as FastAPI's own page would load them
from a public server. All addresses are relative, so that a proxy may add a path.
"""

import hmac
from collections.abc import Awaitable, Callable, Sequence
from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from Datasets.format.predictions import Classification, Counting, Detection, Segmentation
from Deployment.service import monitoring
from Deployment.service.artifact import Artifact
from Deployment.service.keeping import Keeper
from Deployment.service.monitoring import error_response
from Deployment.service.open_inference import Answering, add_open_inference
from Deployment.service.uploads import FORM, JSON, BodyLimits, kind_of, read_files
from Deployment.service.worker import Limits, Task
from Deployment.service.workers import Workers

ERRORS = {
    400: "the form or JSON is damaged, or has too few or too many files",
    401: "the API key is missing or wrong",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is neither a form nor JSON",
    422: "no image, a damaged one, one with too many pixels; or a wrong parameter",
    500: "a fault of the service; its log has the reason under the answer's request id",
    503: "too many requests wait, this one took too long, or the service ends: try again after Retry-After seconds",
}
PAGES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js", "/docs": "docs.html", "/docs.js": "docs.js"}
POLICY = (  # our own files and nothing else
    "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; script-src 'self'; style-src 'self'"
)
_FILE = {"type": "string", "format": "binary"}
_IMAGE = {"schema": _FILE}
_BASE64 = {"type": "string", "format": "byte"}


class Error(TypedDict):
    """What went wrong, in one line."""

    error: str


class BatchError(Error):
    """An image of a batch that cannot be read, and why."""

    image: str


class Coco(TypedDict):
    """COCO's form of annotations (https://cocodataset.org/#format-data). errors: the images that cannot be read."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    errors: list[BatchError]


PREDICTIONS = {"boxes": Detection, "mask": Segmentation, "labels": Classification, "counts": Counting}
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
LEAST = "the least score; by default the manifest's `score_threshold`; masks have no scores"


class Number(BaseModel, extra="forbid"):
    """The query of /sample."""

    number: int = Field(0, ge=0, description="which one; after the last, the first")


class Wanted(BaseModel, extra="forbid"):
    """The query of a prediction."""

    format: Literal["record", "coco"] = Field("record", description="`record`, or `coco` for COCO's annotations")
    threshold: float | None = Field(None, ge=0, le=1, description=LEAST)


def create_app(
    artifact: Artifact, workers: Workers, limits: Limits, keeper: Keeper | None, keys: list[str], origins: Sequence[str]
) -> FastAPI:
    """The application, which answers every error as {"error": "one line"}.

    keys: requests must bear one of them, except those for health, the page and the documentation. origins: of other
    sites whose pages may use it, "*" for all.
    """
    commit = (artifact.manifest.get("git") or {}).get("commit")
    monitoring.MODEL.labels(artifact.manifest["experiment"], str(commit)).set(1)
    monitoring.RUNNING.set_function(lambda: workers.running)
    monitoring.WAITING.set_function(lambda: max(0, workers.pending - workers.running))
    monitoring.WORKERS.set_function(lambda: len(workers.ready))
    app = FastAPI(
        title=f"{artifact.manifest.get('project', 'Fourfold')}: experiment {artifact.manifest['experiment']}",
        version=commit or "unknown",
        description=f"Finds {', '.join(artifact.manifest['classes'])}: {artifact.task}.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": "."}],  # relative to the document, so that a proxy may add a path before it
    )
    if origins:
        shown = ["X-Request-ID", "Retry-After"]
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=shown
        )
    app.add_middleware(BodyLimits, limits=limits)
    app.add_middleware(monitoring.Monitoring)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_wrong_query)
    protected = APIRouter(dependencies=[Depends(_key_check(keys))], responses=_errors(401)) if keys else APIRouter()
    answer = _answering(workers, keeper)
    _add_predictions(protected, artifact.task, answer, limits.max_images)
    add_open_inference(protected, artifact.manifest["experiment"], workers, answer, limits.max_images)
    _add_facts(protected, artifact)
    app.include_router(protected)
    _add_health(app, workers)
    for path, name in PAGES.items():
        app.add_api_route(path, _page(name), include_in_schema=False)
    app.mount("/docs", StaticFiles(packages=[("fastapi_offline", "static")]))
    return app


def _key_check(keys: Sequence[str]) -> Any:
    """A dependency that refuses requests without `Authorization: Bearer KEY`."""

    async def check(given: Bearer) -> None:
        sent = given.credentials.encode() if given else b""
        if not sum(hmac.compare_digest(sent, key.encode()) for key in keys):  # all of them, whichever it is
            message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
            raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})

    return check


def _errors(*statuses: int) -> dict[int | str, Any]:
    """The documentation of an endpoint's errors; 500 is one of each."""
    return {status: {"model": Error, "description": ERRORS[status]} for status in (*statuses, 500)}


def _body(name: str, many: bool) -> dict[str, Any]:
    """The documentation of a body: `name` of a form or, as base64, of JSON; a single image also as it is."""
    content: dict[str, Any] = {} if many else {"application/octet-stream": _IMAGE, "image/*": _IMAGE}
    for kind, file in ((FORM, _FILE), (JSON, _BASE64)):
        value = {"type": "array", "items": file, "minItems": 1} if many else file
        content[kind] = {"schema": {"type": "object", "properties": {name: value}, "required": [name]}}
    return {"requestBody": {"required": True, "content": content}}


def _add_health(app: FastAPI, workers: Workers) -> None:
    @app.get("/health/live", summary="Whether the process answers", responses=_errors())
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/health/ready", summary="Whether it accepts images", responses=_errors(503))
    async def ready() -> dict[str, str]:
        workers.check()
        return {"status": "ok"}

    @app.get("/v2/health/live", include_in_schema=False)
    async def protocol_live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", include_in_schema=False)
    async def protocol_ready() -> dict[str, bool]:
        workers.check()
        return {"ready": True}


def _add_facts(router: APIRouter, artifact: Artifact) -> None:
    known = artifact.truth()
    samples = [(guess_type(name)[0], image, known.get(name, {})) for name, (image, _) in artifact.samples().items()]

    @router.get(
        "/sample",
        summary="One of the test images that came with the model, to try it",
        response_class=Response,
        responses={200: {"content": {"image/*": _IMAGE}}, **_errors(422)},
    )
    async def sample(wanted: Annotated[Number, Query()]) -> Response:
        kind, image, _ = samples[wanted.number % len(samples)]
        return Response(image, media_type=kind)

    @router.get("/sample/truth", summary="Its annotations, as an answer; {} if unknown", responses=_errors(422))
    async def truth(wanted: Annotated[Number, Query()]) -> dict[str, Any]:
        return samples[wanted.number % len(samples)][2]

    @router.get("/manifest", summary="Commit, data, parameters and metrics behind the answers", responses=_errors())
    async def manifest() -> dict[str, Any]:
        return artifact.manifest

    @router.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_errors()},
    )
    async def figures() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _answering(workers: Workers, keeper: Keeper | None) -> Answering:
    """What answers a request by its task, counts what is in the answer, and has some of the images kept."""

    async def answer(request: Request, task: Task) -> Response:
        found = await workers.answer(task, request.scope["deadline"])
        monitoring.IMAGES.inc(found.images)
        for name, number in found.objects.items():
            monitoring.OBJECTS.labels(name).inc(number)
        for name, score in found.scores:
            monitoring.SCORES.labels(name).observe(score)
        for (_, image), (prediction, uncertainty) in zip(task.files, found.seen, strict=False):
            if keeper and uncertainty is not None:
                keeper.consider(image, prediction, uncertainty)
        if found.status == 500:
            raise RuntimeError(found.error)
        if found.error:
            raise HTTPException(found.status, found.error)
        return Response(found.content, media_type=JSON)

    return answer


def _add_predictions(router: APIRouter, task: str, answer: Answering, most: int) -> None:
    prediction: Any = PREDICTIONS[task]
    fields = {"image": str, **get_type_hints(prediction)}  # image: the file name that its sender gave it
    named: Any = TypedDict(f"Named{prediction.__name__}", fields)  # type: ignore[misc]
    batch: Any = TypedDict("Batch", {"answers": list[named | BatchError]})  # type: ignore[name-match]

    @router.post(
        "/predict",
        summary="What is in an image: an image file as the body, or as the file of a form",
        response_model=prediction | Coco,
        responses=_errors(400, 408, 413, 422, 503),
        openapi_extra=_body("file", many=False),
    )
    async def predict(request: Request, wanted: Annotated[Wanted, Query()]) -> Response:
        return await answer(request, Task(await read_files(request, 1), wanted.threshold, wanted.format))

    @router.post(
        "/predict/batch",
        summary=f"What is in each of up to {most} images, the files of a form",
        response_model=batch | Coco,
        responses=_errors(400, 408, 413, 415, 422, 503),
        openapi_extra=_body("files", many=True),
    )
    async def predict_batch(request: Request, wanted: Annotated[Wanted, Query()]) -> Response:
        if kind_of(request) not in (FORM, JSON):
            raise HTTPException(415, f"a batch is a form with files, of type {FORM}, or {JSON}")
        files = await read_files(request, most)
        return await answer(request, Task(files, wanted.threshold, wanted.format, batch=True))


def _page(name: str) -> Callable[[], Awaitable[Response]]:
    """An endpoint that answers with a file of this folder."""
    content, kind = Path(__file__).with_name(name).read_bytes(), guess_type(name)[0]
    policy = f"{POLICY} 'unsafe-inline'" if name == "docs.html" else POLICY  # Swagger UI sets styles in its elements

    async def page() -> Response:
        return Response(content, media_type=kind, headers={"Content-Security-Policy": policy})

    return page


async def _answer_http_error(request: Request, error: Any) -> Response:
    return error_response(error.status_code, str(error.detail), error.headers)


async def _answer_wrong_query(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    return error_response(422, f"{first['loc'][-1]}: {first['msg']}")
