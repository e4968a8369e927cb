"""What every request passes: the API key, headers that keep browsers in check, its id, the log and the metrics."""

import asyncio
import hmac
import logging
import re
import secrets
import time
import traceback
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from Deployment.service.endpoints import error_response
from Deployment.service.metrics import Metrics
from Deployment.service.workers import RETRY_SECONDS

log = logging.getLogger("fourfold")
OPEN = ("/", "/docs", "/openapi.json")  # without a key: pages that hold no data, and whatever lies below these:
OPEN_BELOW = ("/health/", "/docs/")
PROTECTED = ("/predict", "/predict/batch", "/sample", "/manifest", "/metrics")
OTHER = "other"  # the path of strangers' requests in metrics: their own would make a new series each
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
_ENCODED = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Front:
    """An ASGI application around another. key: what requests must bear as `Authorization: Bearer KEY`, or None."""

    def __init__(self, app: ASGIApp, metrics: Metrics, key: str | None) -> None:
        self._app, self._metrics = app, metrics
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        headers = dict(scope["headers"])
        identity = _identity(headers.get(b"x-request-id", b""))
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _completed(message.get("headers", []), identity)
            await send(message)

        failure: str | None = None
        try:
            await self._chosen(scope, headers)(_as_get(scope), receive, answer)
        except Exception:
            failure = traceback.format_exc()
        except asyncio.CancelledError:  # the service ends, and this has taken too long
            if status:
                raise
            ending = error_response(503, "the service is ending; try again", {"Retry-After": RETRY_SECONDS})
            await ending(scope, receive, answer)
        finally:
            self._note(scope, identity, status, time.perf_counter() - started, failure)

    def _chosen(self, scope: Scope, headers: dict[bytes, bytes]) -> ASGIApp:
        path = scope["path"]
        if self._key is None or path in OPEN or path.startswith(OPEN_BELOW):
            return self._app
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given, self._key):
            return self._app
        message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
        return error_response(401, message, {"WWW-Authenticate": "Bearer"})

    def _note(self, scope: Scope, identity: str, status: int, seconds: float, failure: str | None) -> None:
        path = scope["path"]
        known = path in OPEN or path in PROTECTED or path.startswith(OPEN_BELOW)
        self._metrics.count_request(path if known and status != 404 else OTHER, status, seconds)
        facts: dict[str, Any] = {
            "request_id": identity,
            "method": scope["method"],
            "path": path,
            "status": status,
            "ms": round(seconds * 1000, 2),
        }
        level = logging.ERROR if failure else logging.INFO
        log.log(level, "request", extra={"facts": facts | ({"exception": failure} if failure else {})})


def _as_get(scope: Scope) -> Scope:
    """HEAD, by which some look after a service, as GET: uvicorn leaves the body out (RFC 9110, 9.3.2)."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _identity(given: bytes) -> str:
    return given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _completed(headers: Any, identity: str) -> list[tuple[bytes, bytes]]:
    present = {name.lower() for name, _ in headers}
    added = [(name, value) for name, value in _ENCODED if name not in present]
    return [*headers, *added, (b"x-request-id", identity.encode())]
