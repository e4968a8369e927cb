"""uvicorn's HTTP/1.1, with a limit to the time that a request's headers may take to arrive.

uvicorn closes connections that idle after an answer, but waits without end for the first request and for one that has
begun: whoever opens connections and sends a byte now and then would keep them all.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol_with(header_seconds: float) -> type[H11Protocol]:
    """A protocol that closes a connection on which no whole request line and headers came within these seconds."""

    class TimedHeaders(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.conn.their_state is not h11.IDLE:
                self._stop()
            elif self._timer is None and not self.transport.is_closing():
                self._timer = self.loop.call_later(header_seconds, self.transport.close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return TimedHeaders
