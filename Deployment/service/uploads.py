"""Request bodies and the image files in them, read within the limits of size, number, time and memory."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from Deployment.service.worker import Limits
from Deployment.service.workers import Unavailable

FORM = "multipart/form-data"
JSON = "application/json"
Files = list[tuple[str, bytes]]  # names and contents


class InMemoryParser(MultiPartParser):
    """Starlette's parser of forms, without temporary files: the file system may be read-only."""

    spool_max_size = 2**40


class Uploads:
    """Reads request bodies; together they hold at most `limits.max_memory` bytes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def files(self, request: Request, most: int, deadline: float) -> AsyncIterator[Files]:
        """The files of a form, or the body as one file, counted as held until the block ends.

        deadline: by the event loop's clock. Raises HTTPException 400 for a damaged form, and for one without a file or
        with more than `most`, 408 after the deadline, 413 for too large a body; Unavailable if memory is short.
        """
        if "upgrade" in request.headers:  # for which uvicorn drops the body
            raise HTTPException(400, "the client offers another protocol; let it use HTTP/1.1 (Java: Version.HTTP_1_1)")
        held = 0

        async def chunks() -> AsyncGenerator[bytes, None]:
            nonlocal held
            async for chunk in request.stream():
                held += len(chunk)
                self._held += len(chunk)
                if held > self._limits.max_bytes:
                    raise HTTPException(413, f"the body is larger than the limit of {self._limits.max_bytes} bytes")
                if self._held > max(self._limits.max_memory, self._limits.max_bytes):
                    raise Unavailable("the requests of this moment take too much memory; try again")
                yield chunk

        try:
            try:
                async with asyncio.timeout_at(deadline):
                    if kind_of(request) == FORM:
                        files = await _form_files(request, chunks(), most)
                    else:
                        files = [("", b"".join([chunk async for chunk in chunks()]))]
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time", {"Connection": "close"}) from None
            yield files
        finally:
            self._held -= held


def kind_of(request: Request) -> str:
    """The media type of a request's body."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class Encoded(msgspec.Struct, forbid_unknown_fields=True):
    """Images in JSON, as base64."""

    file: str | None = None
    files: list[str] = []


def json_files(body: bytes, most: int) -> Files:
    """The files in a body of JSON, named by their number. Raises HTTPException 400 if there are none, or too many."""
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
        return [(str(number), _content(file)) for number, file in enumerate(files)]
    except ValueError as error:
        raise HTTPException(400, f"a file is not base64: {error}") from error


def _content(file: str | bytes) -> bytes:
    if isinstance(file, bytes):
        return file
    return base64.b64decode(file.partition(",")[2] if file.startswith("data:") else file, validate=True)


async def _form_files(request: Request, chunks: AsyncGenerator[bytes, None], most: int) -> Files:
    """The files of a form, whatever the names of their fields."""
    parser = InMemoryParser(request.headers, chunks, max_files=most)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form is damaged or too large: {error.message}") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise HTTPException(400, "the form has no file")
    return [(file.filename or "", await file.read()) for file in files]
