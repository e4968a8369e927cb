"""uvicorn's HTTP/1.1 by httptools, with limits to what comes before a body, in time and in bytes.

uvicorn closes connections that idle after an answer, but waits without end for the first request and for one that has
begun: whoever opens connections and sends a byte now and then would keep them all. Nor does it limit headers, which it
keeps in memory.
"""

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 65_536  # of a request's line and headers, of trailers, and of what a chunk says of itself
_OFFER = (b"connection", b"upgrade", b"http2-settings")


def protocol_with(header_seconds: float) -> type[HttpToolsProtocol]:
    """A protocol that closes a connection on which no whole request line and headers came within these seconds.

    So it does after HEAD_BYTES without a byte of a body. An offer to go on by another protocol (as Java's client
    makes for HTTP/2) is passed over: httptools would take the body for that protocol's.
    """
    return type("LimitedHead", (_LimitedHead,), {"header_seconds": header_seconds})


class _LimitedHead(HttpToolsProtocol):
    header_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _without_body = 0  # bytes
    _in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._without_body += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._pass_over(data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        else:
            if self._without_body > HEAD_BYTES:
                self.send_400_response("The headers are too long.")
        self._watch()

    def _pass_over(self, rest: bytes) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            return self.send_400_response("This is no proxy.")
        kept = [name + b": " + value + b"\r\n" for name, value in self.headers if name not in _OFFER]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(kept)) + rest)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers would change what was asked
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._without_body = False, 0
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._without_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._without_body = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
