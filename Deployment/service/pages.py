"""The pages for people: / to try the model, /docs for the API. Both work offline.

Swagger UI's files come from the package fastapi-offline: FastAPI's own page would load them from a public server.
"""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

PAGE = Path(__file__).with_name("page.html")
_POLICY = "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "


def add_pages(app: FastAPI) -> None:
    """Add the pages and their files to the application. Addresses are relative, so that a proxy may add a path."""
    page = PAGE.read_text(encoding="utf-8")
    page_headers = {"Content-Security-Policy": policy(page, _hashes("style", page))}
    docs = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
    )
    docs.headers["Content-Security-Policy"] = policy(bytes(docs.body).decode(), "'self' 'unsafe-inline'")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers=page_headers)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return docs

    app.mount("/docs", StaticFiles(packages=[("fastapi_offline", "static")]))


def policy(html: str, styles: str) -> str:
    """A content security policy under which a page runs the scripts in it and our own files, and nothing else."""
    return f"{_POLICY}frame-ancestors 'none'; script-src 'self' {_hashes('script', html)}; style-src {styles}"


def _hashes(tag: str, html: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
    return " ".join(f"'sha256-{digest}'" for digest in digests)
