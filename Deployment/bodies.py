"""The images that a request carries: read within limits of size, time and memory, as its body or as files of a form."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from python_multipart.multipart import FormParser, parse_options_header
from starlette.exceptions import HTTPException

FORM = "multipart/form-data"
DRAINED = 4  # a body up to this many times too large is read and thrown away, so that its sender gets to the answer
NAME_LENGTH = 255  # of a file in a form; what is longer is cut


@dataclass(frozen=True)
class Sent:
    """An image file as it came, with the name that a form gave it, or none."""

    name: str
    data: bytes


class BodyReader:
    """Reads bodies of at most `limit` bytes, and holds at most `memory` bytes of all requests' bodies at once.

    busy: makes the exception for a request that memory is lacking for.
    """

    def __init__(self, limit: int, memory: int, busy: Callable[[], Exception]) -> None:
        self._limit, self._memory, self._busy = limit, memory, busy
        self._held = 0

    @asynccontextmanager
    async def reading(self, request: Request, deadline: float) -> AsyncIterator[bytes]:
        """The request's body, counted as held until the block ends. deadline: by the event loop's clock.

        Raises HTTPException 413 beyond the limit and 408 after the deadline.
        """
        parts: list[bytes] = []
        try:
            async with asyncio.timeout_at(deadline):
                await self._read(request, parts)
        except TimeoutError:
            raise HTTPException(408, "the body did not arrive in time", {"Connection": "close"}) from None
        else:
            parts[:] = [b"".join(parts)]  # in their place, as both would be twice what is counted
            yield parts[0]
        finally:
            self._held -= sum(map(len, parts))

    async def _read(self, request: Request, parts: list[bytes]) -> None:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > DRAINED * self._limit:
                break
            if size > self._limit:
                continue
            if self._held + len(chunk) > self._memory:
                raise self._busy()
            self._held += len(chunk)
            parts.append(chunk)
        if size > self._limit:
            raise HTTPException(413, f"the body is larger than the limit of {self._limit} bytes")


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a form that carries files."""
    return content_type.partition(";")[0].strip().lower() == FORM


def single_image(body: bytes, content_type: str) -> bytes:
    """The image file in a body of any type, or in a form's only file. Raises HTTPException 400."""
    if not is_form(content_type):
        return body
    files = form_files(body, content_type, 1)
    return files[0].data


def form_files(body: bytes, content_type: str, most: int) -> list[Sent]:
    """The files of a form, whatever its fields' names; other fields are passed over.

    Raises HTTPException 400 for a damaged form, for one without a file, and for one with more than `most`.
    """
    found: list[Sent] = []

    def add(file: Any) -> None:
        if len(found) == most:
            raise HTTPException(400, f"the form has more files than the limit of {most}")
        found.append(Sent(_name(file.file_name), file.file_object.getvalue()))  # read() would copy it

    _parse(body, content_type, add)
    if not found:
        raise HTTPException(400, "the form has no file")
    return found


def _parse(body: bytes, content_type: str, on_file: Callable[[Any], None]) -> None:
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise HTTPException(400, "the form's content type names no boundary")
    in_memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}  # never a temporary file: the file system may be read-only
    ended: list[bool] = []
    try:
        parser = FormParser(FORM, None, on_file, lambda: ended.append(True), boundary, config=in_memory)
        parser.write(body)
        parser.finalize()
    except HTTPException:
        raise
    except Exception as error:  # the parser's own errors, and others for hostile bytes
        raise HTTPException(400, "the form is damaged") from error
    if not ended:
        raise HTTPException(400, "the form is damaged: it was cut off")


def _name(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")[:NAME_LENGTH]
