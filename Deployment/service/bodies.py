"""Request bodies, read within limits of size, time and memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.exceptions import HTTPException

DRAINED = 4  # a body up to this many times too large is read and thrown away, so that its sender gets to the answer


class BodyReader:
    """Reads bodies of at most `limit` bytes, and holds at most `memory` bytes of all requests' bodies at once.

    busy: makes the exception for a request that memory is lacking for.
    """

    def __init__(self, limit: int, memory: int, busy: Callable[[], Exception]) -> None:
        self._limit, self._memory, self._busy = limit, memory, busy
        self._held = 0

    @asynccontextmanager
    async def reading(self, request: Request, deadline: float) -> AsyncIterator[bytearray]:
        """The request's body, counted as held until the block ends. deadline: by the event loop's clock.

        Raises HTTPException 413 beyond the limit and 408 after the deadline.
        """
        body = bytearray()
        try:
            async with asyncio.timeout_at(deadline):
                await self._read(request, body)
        except TimeoutError:
            raise HTTPException(408, "the body did not arrive in time", {"Connection": "close"}) from None
        else:
            yield body
        finally:
            self._held -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
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
            body += chunk
        if size > self._limit:
            raise HTTPException(413, f"the body is larger than the limit of {self._limit} bytes")
