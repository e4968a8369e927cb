"""The pages for people: / to try the model, /docs for the API. Both work offline.

Swagger UI's files come from the package fastapi-offline: FastAPI's own page would load them from a public server.
"""

from collections.abc import Awaitable, Callable
from mimetypes import guess_type
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.staticfiles import StaticFiles

FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js", "/docs": "docs.html", "/docs.js": "docs.js"}
POLICY = (  # our own files and nothing else
    "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; script-src 'self'; style-src 'self'"
)


def add_pages(app: FastAPI) -> None:
    """Add the pages and their files to the application. Addresses are relative, so that a proxy may add a path."""
    for path, name in FILES.items():
        app.add_api_route(path, _answer(name), include_in_schema=False)
    app.mount("/docs", StaticFiles(packages=[("fastapi_offline", "static")]))


def _answer(name: str) -> Callable[[], Awaitable[Response]]:
    content, kind = Path(__file__).with_name(name).read_bytes(), guess_type(name)[0]
    policy = f"{POLICY} 'unsafe-inline'" if name == "docs.html" else POLICY  # Swagger UI sets styles in its elements

    async def answer() -> Response:
        return Response(content, media_type=kind, headers={"Content-Security-Policy": policy})

    return answer
