"""Request bodies and the image files in them, read within the limits of size, number, time and memory."""

import asyncio
import base64
from collections.abc import Sequence

import msgspec
from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from Deployment.service.worker import Limits

FORM = "multipart/form-data"
JSON = "application/json"
Files = list[tuple[str, bytes]]  # names and contents
MultiPartParser.spool_max_size = 2**40  # no temporary files: the file system may be read-only


class BodyLimits:
    """ASGI middleware: request bodies within the limits of size and time, and together of memory.

    Reading one that is beyond them raises HTTPException: 408, 413, or 503 if memory is short. The scope has the
    request's `deadline`, by the event loop's clock.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._held = 0  # bytes of all bodies whose answers have not begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        scope["deadline"] = asyncio.get_running_loop().time() + self._limits.seconds
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            self._held += size - held
            held = size

        async def limited() -> Message:
            if any(name == b"upgrade" for name, _ in scope["headers"]):  # for which uvicorn drops the body
                remedy = "let it use HTTP/1.1 (Java: Version.HTTP_1_1)"
                raise HTTPException(400, f"the client offers another protocol; {remedy}")
            try:
                async with asyncio.timeout_at(scope["deadline"]):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time", {"Connection": "close"}) from None
            if message["type"] == "http.disconnect":
                raise HTTPException(400, "the client left before it had sent its image")
            hold(held + len(message.get("body", b"")))
            if held > self._limits.max_bytes:
                raise HTTPException(413, f"the body is larger than the limit of {self._limits.max_bytes} bytes")
            if self._held > max(self._limits.max_memory, self._limits.max_bytes):
                raise HTTPException(503, "the requests of this moment take too much memory; try again")
            return message

        async def answer(message: Message) -> None:
            hold(0)
            await send(message)

        try:
            await self._app(scope, limited, answer)
        finally:
            hold(0)


def kind_of(request: Request) -> str:
    """The media type of a request's body."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_files(request: Request, most: int) -> Files:
    """The files of a form, whatever its fields' names, or in JSON; or the body as one file.

    Raises HTTPException 400 for what is damaged, and for a form or JSON without a file or with more than `most`.
    """
    kind = kind_of(request)
    if kind == FORM:
        async with request.form(max_files=most) as form:
            sent = [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
            if not sent:
                raise HTTPException(400, "the form has no file")
            return [(file.filename or "", await file.read()) for file in sent]
    body = await read_body(request)
    return _json_files(body, most) if kind == JSON else [("", body)]


async def read_body(request: Request) -> bytes:
    """The whole body, which the request, unlike by its own method, does not keep."""
    return b"".join([chunk async for chunk in request.stream()])


class Encoded(msgspec.Struct, forbid_unknown_fields=True):
    """Images in JSON, as base64."""

    file: str | None = None
    files: list[str] = []


def _json_files(body: bytes, most: int) -> Files:
    try:
        sent = msgspec.json.decode(body, type=Encoded)
    except ValueError as error:
        raise HTTPException(400, f'{error}; send {{"file": "BASE64"}}, or "files" of a batch') from error
    texts = [*sent.files, *([] if sent.file is None else [sent.file])]
    if not 0 < len(texts) <= most:
        raise HTTPException(400, f"{len(texts)} files; send 1 to {most}")
    return named(texts)


def named(files: Sequence[str | bytes]) -> Files:
    """Files by their number. A text is base64, or a data: address of it, as browsers make them.

    Raises HTTPException 400 for a text that is neither.
    """
    try:
        contents = [
            file if isinstance(file, bytes) else base64.b64decode(file.rpartition(",")[2], validate=True)
            for file in files
        ]
    except ValueError as error:
        raise HTTPException(400, f"a file is not base64: {error}") from error
    return [(str(number), content) for number, content in enumerate(contents)]
