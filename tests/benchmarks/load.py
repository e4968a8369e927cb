"""A client that sends one request over and over, on many connections at once, and costs the machine little itself.

Client and server share the machine's cores: what the client takes, the server lacks. This one takes less than half the
time that threads with http.client do, since it looks for nothing in an answer but its status and its end.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from types import MappingProxyType

LIMIT = 60  # seconds that the last answers may take beyond the end
_END, _LENGTH = b"\r\n\r\n", b"content-length:"


class Connection(asyncio.Protocol):
    """Sends a request, waits for its answer, and so on until `end`, by time.perf_counter.

    pause: seconds from one request to the next, however long the answer takes, and from which its seconds count; 0 to
    ask as soon as the last was answered. taken: seconds that each answer took; refusals (503) are left out.
    """

    def __init__(self, request: bytes, end: float, pause: float, taken: list[float]) -> None:
        self._request, self._end, self._pause, self._taken = request, end, pause, taken
        self._loop = asyncio.get_running_loop()
        self._answer = b""
        self._due = time.perf_counter() + random.random() * pause
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._send_when_due()

    def data_received(self, data: bytes) -> None:
        """Go on once the answer is whole."""
        self._answer += data
        head, end, body = self._answer.partition(_END)
        if not end or len(body) < int(head.lower().partition(_LENGTH)[2].split(b"\r\n", 1)[0]):
            return
        self._answer = b""
        status, now = head.split(b" ", 2)[1], time.perf_counter()
        if status == b"200":
            self._taken.append(now - self._due)
        elif status != b"503":
            return self.connection_lost(AssertionError(f"answered with {status.decode()}"))
        self._due = self._due + self._pause if self._pause else now
        self._send_when_due()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whether the server closed it early or all is done."""
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionError("the server closed the connection"))

    def _send_when_due(self) -> None:
        if self._due >= self._end:
            self.ended.set_result(None)
            self._transport.close()
        elif (wait := self._due - time.perf_counter()) > 0:
            self._loop.call_later(wait, self._transport.write, self._request)
        else:
            self._transport.write(self._request)


async def _load(port: int, request: bytes, seconds: float, connections: int, pause: float) -> list[float]:
    loop, end, taken = asyncio.get_running_loop(), time.perf_counter() + seconds, list[float]()
    opened = [
        (await loop.create_connection(lambda: Connection(request, end, pause, taken), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + LIMIT):
        await asyncio.gather(*(connection.ended for connection in opened))
    return sorted(taken)


def load_on(
    port: int,
    body: bytes,
    seconds: float,
    connections: int,
    headers: Mapping[str, str] = MappingProxyType({}),
    rate: float = 0,
) -> tuple[float, float, float]:
    """Answers a second to POST /predict, and p50 and p99 in milliseconds.

    rate: requests a second to send; 0 for as many as can be. Raises if an answer has a status other than 200 or 503.
    """
    stated = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in stated.items())
    request = f"POST /predict HTTP/1.1\r\n{head}\r\n".encode() + body
    taken = asyncio.run(_load(port, request, seconds, connections, connections / rate if rate else 0))
    return len(taken) / seconds, 1000 * taken[len(taken) // 2], 1000 * taken[len(taken) * 99 // 100]
