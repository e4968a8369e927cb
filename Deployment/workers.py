"""Threads that do the images' work: so many at once, so many waiting, and no longer than a request may take."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

RETRY_SECONDS = "1"
T = TypeVar("T")


def busy(message: str = "more requests are waiting than the service takes; try again") -> HTTPException:
    """The refusal of a request that would have to wait too long."""
    return HTTPException(503, message, {"Retry-After": RETRY_SECONDS})


class Workers:
    """`parallel` threads, before which at most `waiting` calls wait."""

    def __init__(self, parallel: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(parallel, "predict")
        self._parallel, self._places = parallel, parallel + waiting
        self._lock = threading.Lock()
        self._taken = 0

    async def run(self, deadline: float, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a call in one of the threads. deadline: by the event loop's clock.

        Raises HTTPException 503 if all places are taken, or at the deadline. A thread cannot be stopped: what has begun
        keeps its place until it ends, what has not gives it up.
        """
        if self._taken >= self._places:
            raise busy()
        with self._lock:
            self._taken += 1
        call = [function, *arguments]  # emptied at its end: the pool keeps what was given up until a thread is free,
        del arguments  # and with its future this frame
        future = self._pool.submit(lambda: call[0](*call[1:]))
        future.add_done_callback(lambda _: self._leave(call))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise busy("the answer took longer than a request may; try again, or send a smaller image") from None

    def _leave(self, call: list[Any]) -> None:
        call.clear()
        with self._lock:
            self._taken -= 1

    @property
    def running(self) -> int:
        """How many calls are worked on."""
        return min(self._taken, self._parallel)

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return max(0, self._taken - self._parallel)
