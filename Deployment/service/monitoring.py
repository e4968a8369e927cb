"""What is known of each request: its id, a line in the log, and the metrics for Prometheus."""

import asyncio
import atexit
import json
import logging
import os
import queue
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from threading import Thread
from typing import Any

from fastapi.responses import JSONResponse
from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from Datasets.tools.errors import one_line

log = logging.getLogger("fourfold")
RETRY_SECONDS = "1"
LOG_LINES, LOG_SECONDS = 1000, 1  # that wait to be written; at the end, for how long
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds
TENTHS = tuple(number / 10 for number in range(1, 11))
REQUESTS = Counter("fourfold_requests", "Answered requests", ["path", "status"])
SECONDS = Histogram("fourfold_request_seconds", "From request to answer", ["path"], buckets=BUCKETS)
IMAGES = Counter("fourfold_images", "Images with a prediction")
OBJECTS = Counter("fourfold_objects", "Objects found in them", ["name"])
SCORES = Histogram("fourfold_score", "Scores of objects, or of classes in an image", ["name"], buckets=TENTHS)
MODEL = Gauge("fourfold_model", "The model that answers", ["experiment", "commit"])
RUNNING = Gauge("fourfold_requests_running", "Requests that a worker processes")
WAITING = Gauge("fourfold_requests_waiting", "Requests that wait for a worker")
WORKERS = Gauge("fourfold_workers", "Worker processes that accept requests")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON, with the fields of its `extra={"fields": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_as_json(level: str) -> None:
    """Log everything in this process to stderr, as lines of JSON; a pipe that nobody reads holds nothing up."""
    logging.raiseExceptions = False  # of lines that are dropped, as too many wait
    waiting: queue.Queue[Any] = queue.Queue(LOG_LINES)
    handler, written = QueueHandler(waiting), logging.StreamHandler()
    handler.setFormatter(JsonFormatter())

    def write() -> None:
        while record := waiting.get():
            written.handle(record)

    def end() -> None:
        with suppress(queue.Full):
            waiting.put_nowait(None)
        thread.join(LOG_SECONDS)
        if thread.is_alive():  # Python would wait for it
            os._exit(0)

    thread = Thread(target=write, daemon=True)
    thread.start()
    atexit.register(end)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


class Monitoring:
    """ASGI middleware: request ids, security headers, the log, metrics, and the answer to a request that fails."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        started = time.perf_counter()
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8).encode()
        method, status, failure = scope["method"], 0, None
        if method == "HEAD":  # a GET whose body uvicorn leaves out
            scope = {**scope, "method": "GET"}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                added = [header for header in HEADERS if header[0] not in present]
                message["headers"] = [*message["headers"], *added, (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            if status:
                raise
            await error_response(503, "the service is shutting down; try again")(scope, receive, answer)
        except Exception as error:
            failure = error
            if status:
                raise
            await error_response(500, "the service failed on this request; see its log")(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            path = getattr(scope.get("route"), "path", "other")  # strangers' paths would make a series each
            REQUESTS.labels(path, status).inc()
            SECONDS.labels(path).observe(seconds)
            fields = {"request_id": request_id.decode(), "method": method, "path": scope["path"], "status": status}
            fields["ms"] = round(seconds * 1000, 2)
            log.log(logging.ERROR if failure else logging.INFO, "request", exc_info=failure, extra={"fields": fields})


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as every endpoint answers it."""
    retry = {"Retry-After": RETRY_SECONDS} if status == 503 else {}
    return JSONResponse({"error": one_line(message)}, status, {**retry, **(headers or {})})
