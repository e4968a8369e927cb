"""The service: an image comes in over HTTP, what the model finds in it goes out as JSON.

    python -m Deployment.serve EXPORT [--host 127.0.0.1] [--port 8000]

EXPORT: an export, or a bundle's export/. It is verified, loaded and tried on a sample before the port opens; then the
address is printed. It runs outside this repository, with onnxruntime, NumPy, Pillow, FastAPI and uvicorn: hence
argparse.
"""

import argparse
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from Datasets.errors import UserError
from Datasets.images import UnreadableImage
from Deployment.artifact import Artifact, load
from Deployment.predict import Predictor

PAGE = Path(__file__).with_name("page.html")
SHUTDOWN_SECONDS = 5  # how long running requests may take to end after SIGTERM
BACKLOG = 2048  # connections that may wait to be accepted
DRAINED = 4  # a body up to this many times too large is read and thrown away, so that its sender gets to the answer


@dataclass(frozen=True)
class Limits:
    """What one request may cost: the body's bytes, the image's pixels; and how many images are worked on at once."""

    body: int
    pixels: int
    parallel: int


def create_app(artifact: Artifact, predictor: Predictor, limits: Limits) -> FastAPI:
    """The application around a loaded model. Every error is answered as {"error": "one line"}."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = limits.parallel
        yield

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(UnreadableImage, _answer_unreadable)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_failure)
    _add_pages(app, artifact)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = await read_body(request, limits.body)
        return JSONResponse(await run_in_threadpool(predictor, body, limits.pixels))

    return app


def _add_pages(app: FastAPI, artifact: Artifact) -> None:
    page = PAGE.read_text(encoding="utf-8")

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page)

    @app.get("/manifest")
    async def manifest() -> Response:
        return JSONResponse(artifact.manifest)

    @app.get("/health/live")
    @app.get("/health/ready")  # the port opens only after the model has answered once, so alive means ready
    async def health() -> Response:
        return JSONResponse({"status": "ok"})


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body. Raises HTTPException 413 beyond `limit` bytes, of which no more are held in memory."""
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            body += chunk
        if size > DRAINED * limit:
            break
    if size > limit:
        raise HTTPException(413, f"the body is larger than the limit of {limit} bytes")
    return bytes(body)


async def _answer_http_error(request: Request, error: Any) -> Response:
    return _error(error.status_code, str(error.detail), error.headers)


async def _answer_unreadable(request: Request, error: Exception) -> Response:
    return _error(422, str(error))


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client left before it had sent its image


async def _answer_failure(request: Request, error: Exception) -> Response:
    return _error(500, "the service failed on this request; its log says why")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": " ".join(message.split())}, status, headers)


class Parser(argparse.ArgumentParser):
    """An argument parser that says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 1, as every other mistake does."""
        sys.exit(f"error: {message} (--help lists the options)")


def number(least: int, most: float = float("inf")) -> Callable[[str], int]:
    """A conversion of an option's text to a whole number in these bounds."""

    def convert(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return convert


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = Parser(prog="python -m Deployment.serve", description="Answers POST /predict with what the model finds.")

    def add(option: str, kind: Callable[[str], Any], default: Any, text: str) -> None:
        parser.add_argument(option, type=kind, default=default, help=f"{text} (default: %(default)s)")

    parser.add_argument("export", type=Path, help="an export, or a bundle's export/")
    add("--host", str, "127.0.0.1", "the address to listen at; 0.0.0.0 to be reached from elsewhere")
    add("--port", number(0, 65535), 8000, "0 takes any free one")
    add("--threads", number(1), 1, "threads for the operators of one image")
    add("--parallel", number(1), os.cpu_count() or 1, "images worked on at once")
    add("--max-bytes", number(1), 20_000_000, "the largest image file")
    add("--max-pixels", number(1), 50_000_000, "the most pixels of an image")
    return parser.parse_args()


def warmed_up(artifact: Artifact, threads: int) -> Predictor:
    """A predictor that has answered for a sample: the first answer is slow, and shows whether there are any."""
    predictor = Predictor(artifact, threads)
    name, (image, _) = next(iter(artifact.samples().items()))
    try:
        predictor(image)
    except Exception as error:
        raise UserError(
            f"{artifact.directory}: the model fails on sample {name}: {' '.join(str(error).split())}"
        ) from error
    return predictor


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `host` and `port`. Raises UserError if that cannot be.

    It names its protocol, as socket.create_server's does not: asyncio switches Nagle's algorithm off on such sockets
    only, and with it every answer takes 40 ms.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = found[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there: {error}; choose another") from error
    return opened


def serve(options: argparse.Namespace) -> None:
    """Run the service until SIGTERM or Ctrl-C. Raises UserError."""
    artifact = load(options.export)
    limits = Limits(options.max_bytes, options.max_pixels, options.parallel)
    app = create_app(artifact, warmed_up(artifact, options.threads), limits)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS, server_header=False
    )
    with listen(options.host, options.port) as opened:
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"{artifact.manifest['experiment']} answers at http://{host}:{opened.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run(sockets=[opened])


def main() -> None:
    """The command."""
    try:
        serve(parse())
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
