"""uvicorn's HTTP/1.1 by httptools, with limits to what comes before a body, and to how long an answer may lie unread.

uvicorn closes connections that idle after an answer, but waits without end for the first request and for one that has
begun: whoever opens connections and sends a byte now and then would keep them all. So would whoever does not read the
answers, which it keeps in memory, too. Nor does it limit headers.
"""

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 65_536  # of a request's line and headers, of trailers, and of what a chunk says of itself
_OFFER = (b"connection", b"upgrade", b"http2-settings")


def protocol_with(header_seconds: float, answer_seconds: float) -> type[HttpToolsProtocol]:
    """A protocol that closes a connection on which no whole request line and headers came within `header_seconds`.

    So it does after HEAD_BYTES without a byte of a body. It resets a connection whose client does not take a large
    answer within `answer_seconds`, or the rest of a small one within `header_seconds` after closing. An offer to go on
    by another protocol (as Java's client makes for HTTP/2) is passed over: httptools would take the body for that
    protocol's.
    """
    limits = {"header_seconds": header_seconds, "answer_seconds": answer_seconds}
    return type("Limited", (_Limited,), limits)


class _Limited(HttpToolsProtocol):
    header_seconds: float
    answer_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
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

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._forget_unread()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._forget_unread()
        super().connection_lost(exc)

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self._close)

    def _close(self) -> None:
        self.transport.close()  # which waits until all that was written is read
        self._timer = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
