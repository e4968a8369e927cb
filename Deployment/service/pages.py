"""The pages for people: / to try the model, /docs for the interface. Nothing of them comes from elsewhere.

Swagger UI's files come from the package fastapi-offline: FastAPI's own page would load them from a public server.
"""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html")
SWAGGER = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}
_POLICY = "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "


def add_pages(app: FastAPI) -> None:
    """Add the pages and their files to the application."""
    page = PAGE.read_text(encoding="utf-8")
    docs = bytes(
        get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon.png",
        ).body
    ).decode()
    page_headers = {"Content-Security-Policy": policy(page, _hashes("style", page))}
    docs_headers = {"Content-Security-Policy": policy(docs, "'self' 'unsafe-inline'")}  # Swagger UI sets style=

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers=page_headers)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return HTMLResponse(docs, headers=docs_headers)

    for name, kind in SWAGGER.items():
        app.get(f"/docs/{name}", include_in_schema=False)(_sender(name, kind))


def policy(html: str, styles: str) -> str:
    """A content security policy under which a page runs the scripts in it and our own files, and nothing else."""
    return f"{_POLICY}frame-ancestors 'none'; script-src 'self' {_hashes('script', html)}; style-src {styles}"


def _hashes(tag: str, html: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _sender(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(_swagger_file(name), media_type=kind, headers={"Cache-Control": "max-age=86400"})

    return send


@cache
def _swagger_file(name: str) -> bytes:
    return (files("fastapi_offline") / "static" / name).read_bytes()
