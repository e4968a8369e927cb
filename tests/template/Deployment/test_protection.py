"""What the service does for those who run it: it lets in whom it may, refuses what is too much, tells what it did."""

import asyncio
import contextlib
import json
import re
import resource
import signal
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest
import uvicorn
from PIL import Image
from starlette.requests import Request

from Deployment.service.bodies import BodyReader
from Deployment.service.front import Front
from Deployment.service.metrics import Metrics
from Deployment.service.protocol import protocol_with
from Deployment.service.workers import Workers, busy
from tests.template.conftest import png_bomb, until
from tests.template.Deployment.hostile import many_strips, many_tags
from tests.template.Deployment.made_export import SAMPLES, encoded, graph, write_manifest
from tests.template.Deployment.running_service import Service, command, serving

IMAGE = encoded(SAMPLES["000.jpg"])
LARGE = encoded(Image.new("RGB", (7000, 7000)), "PNG")  # decoding it takes a good part of a second
FATAL = encoded(Image.new("L", (64, 64), 77), "PNG")
KEY = "not-a-secret-but-long"
BEARER = {"Authorization": f"Bearer {KEY}"}
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


def fails_on_77(export: Path) -> None:
    """Give an export a graph that fails when an image's brightest value is 77."""
    failing = graph("boxes").replace("boxes = GatherElements <axis = 1> (found, order4)", FAILING)
    onnx.save(onnx.parser.parse_model(failing), export / "model.onnx")
    write_manifest(export)


FAILING = """brightest = ReduceMax <keepdims = 0> (pixels)
  fatal = Constant <value = float {77}> ()
  wrong = Equal (brightest, fatal)
  offset = Cast <to = 7> (wrong)
  thousand = Constant <value = int64 {1000}> ()
  beyond = Mul (offset, thousand)
  index = Add (order4, beyond)
  boxes = GatherElements <axis = 1> (found, index)"""


@pytest.fixture(scope="module")
def guarded(pristine_export: Path) -> Iterator[Service]:
    with serving(pristine_export, FOURFOLD_API_KEY=KEY) as running:
        yield running


def lines(log: Path, number: int) -> list[dict[str, Any]]:
    """The log's lines, once there are so many: one is written just after its answer."""
    deadline = time.monotonic() + 5
    while log.read_text().count("\n") < number and time.monotonic() < deadline:
        time.sleep(0.01)
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Bearer {KEY[:-1]}"}, {"Authorization": KEY},
     {"Authorization": f"Basic {KEY}"},
     {"Authorization": "Bearer "}, {"Authorization": "Bearer \xe9"}, {"X-API-Key": KEY}],
)  # fmt: skip
def test_without_the_key_nothing_is_told(guarded: Service, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/predict"),
        ("POST", "/predict/batch"),
        ("GET", "/sample"),
        ("GET", "/manifest"),
        ("GET", "/metrics"),
    ):
        status, found, body = guarded.answer(method, path, b"x" * 1_000_000 if method == "POST" else None, headers)
        assert (status, found["www-authenticate"]) == (401, "Bearer")
        assert "FOURFOLD" not in body.decode() and "e900" not in body.decode()


def test_with_the_key_all_is_as_ever_and_health_needs_none(guarded: Service) -> None:
    assert guarded.request("POST", "/predict", IMAGE, BEARER)[0] == 200
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert guarded.request("GET", "/manifest", headers={"Authorization": f"{scheme} {KEY}"})[0] == 200
    for path in ("/health/live", "/health/ready", "/", "/docs", "/openapi.json"):
        assert guarded.request("GET", path)[0] == 200


@pytest.mark.parametrize("key", ["", "short", "fifteen-letters", "with a space in between"])
def test_a_key_that_protects_nothing_is_refused(pristine_export: Path, key: str) -> None:
    process = command("Deployment.serve", pristine_export, "--port", 0, FOURFOLD_API_KEY=key)
    assert process.returncode == 1
    assert process.stderr.startswith("error: FOURFOLD_API_KEY")
    assert process.stderr.count("\n") == 1


def test_every_answer_has_the_headers_and_an_id(guarded: Service) -> None:
    for method, path, status in (
        ("GET", "/", 200),
        ("GET", "/no", 401),
        ("PUT", "/docs", 405),
        ("GET", "/health/no", 404),
    ):
        found, headers, _ = guarded.answer(method, path)
        assert found == status
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert "unsafe" not in headers["content-security-policy"] or path == "/docs"
        assert len(headers["x-request-id"]) == 16
        assert headers["server"] is None


def test_the_log_has_a_line_of_json_for_each_request_with_its_id(pristine_export: Path, tmp_path: Path) -> None:
    with serving(pristine_export, log=tmp_path / "log") as service:
        _, headers, _ = service.answer("POST", "/predict", IMAGE, {"X-Request-ID": "mine-1"})
        assert headers["x-request-id"] == "mine-1"
        _, headers, _ = service.answer("POST", "/predict?secret=1", b"none", {"X-Request-ID": 'bad"\t id'})
        made = headers["x-request-id"]
        first, second = lines(tmp_path / "log", 2)
        for image in (png_bomb(10_000), many_tags(3000)):  # Pillow warns of them
            service.predict(image)
        assert [line["event"] for line in lines(tmp_path / "log", 4)] == ["request"] * 4
        service.request("GET", "/%C2%9B31m")  # which some terminals take for a colour
        assert lines(tmp_path / "log", 5)[4]["path"] == "/\x9b31m"
        assert (tmp_path / "log").read_text().isascii()
    assert (first["request_id"], first["path"], first["status"], first["level"]) == ("mine-1", "/predict", 200, "info")
    assert (second["request_id"], second["status"]) == (made, 422)
    assert re.fullmatch("[0-9a-f]{16}", made), "one that a log would have to escape is replaced"
    assert first["ms"] > 0 and "time" in first


def test_a_fault_of_the_service_is_told_in_its_log_only(export: Path, tmp_path: Path) -> None:
    fails_on_77(export)
    with serving(export, log=tmp_path / "log") as service:
        status, headers, body = service.answer("POST", "/predict", FATAL)
        assert service.predict(IMAGE)[0] == 200
        failed, fine = lines(tmp_path / "log", 2)
    assert status == 500
    assert json.loads(body) == {"error": "the service failed on this request; its log says why"}
    assert headers["x-content-type-options"] == "nosniff"
    assert (failed["level"], failed["request_id"]) == ("error", headers["x-request-id"])
    assert "GatherElements" in str(failed["exception"])
    assert fine["status"] == 200


def test_beyond_those_that_may_wait_a_request_is_told_to_come_back(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 1, "--waiting", 1) as service, ThreadPoolExecutor(10) as clients:
        answers = [clients.submit(service.answer, "POST", "/predict", LARGE) for _ in range(10)]
        time.sleep(0.3)
        started = time.monotonic()
        assert service.request("GET", "/health/ready")[0] == 200
        assert time.monotonic() - started < 5
        found = [answer.result() for answer in answers]
    statuses = [status for status, _, _ in found]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 2
    for status, headers, body in found:
        if status == 503:
            assert int(headers["retry-after"]) >= 1
            assert "waiting" in json.loads(body)["error"]


def test_a_request_takes_no_longer_than_it_may(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 1, "--seconds", 1) as service, ThreadPoolExecutor(8) as clients:
        started = time.monotonic()
        found = list(clients.map(lambda _: service.answer("POST", "/predict", LARGE), range(8)))
        assert time.monotonic() - started < 15
        late = [(headers["retry-after"], json.loads(body)["error"]) for status, headers, body in found if status == 503]
        assert late
        assert all(retry and "longer" in error for retry, error in late)
        time.sleep(2)
        assert service.predict(IMAGE)[0] == 200


def dawdle(service: Service, size: int, sent: int) -> socket.socket:
    """A client that announces a body of `size` bytes, sends some and then nothing."""
    client = socket.create_connection((service.host, service.port))
    client.sendall(f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * sent)
    return client


def test_a_body_that_does_not_arrive_is_not_waited_for(pristine_export: Path) -> None:
    with serving(pristine_export, "--seconds", 1) as service, dawdle(service, 1000, 10) as client:
        client.settimeout(15)
        started = time.monotonic()
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert 0.5 < time.monotonic() - started < 9


@pytest.mark.parametrize(
    "begun", [b"", b"POST /predict HTTP/1.1\r\nHo", b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\nGET /"]
)
def test_headers_that_do_not_arrive_are_not_waited_for(pristine_export: Path, begun: bytes) -> None:
    with serving(pristine_export, "--seconds", 1) as service:
        with socket.create_connection((service.host, service.port), timeout=5) as client:
            client.sendall(begun)
            started = time.monotonic()
            with contextlib.suppress(ConnectionError):
                for letter in (b"" if begun else b"GET /") + b"a" * 90:  # a byte now and then does not help
                    client.settimeout(0.1)
                    with contextlib.suppress(TimeoutError):
                        if not client.recv(10_000):
                            break
                    client.sendall(bytes([letter]))
            assert 0.5 < time.monotonic() - started < 8
        connection = HTTPConnection(service.host, service.port, timeout=5)
        for _ in range(3):  # whoever is in time keeps the connection
            connection.request("POST", "/predict", IMAGE)
            assert connection.getresponse().read()
            time.sleep(0.4)
        assert service.process.poll() is None


@contextlib.contextmanager
def answering() -> Iterator[tuple[uvicorn.Server, int]]:
    """A server with the service's protocol and little room in the kernel; GET /N is answered with N bytes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        size = scope["path"][1:].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]})
        await send({"type": "http.response.body", "body": b"x" * int(size)})

    kind = protocol_with(header_seconds=0.5, answer_seconds=1)
    server = uvicorn.Server(uvicorn.Config(app, http=kind, ws="none", lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield server, opened.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def asking(port: int, size: int, end: bytes) -> socket.socket:
    """A client that asks for so many bytes, and does not read them."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET /%d HTTP/1.1\r\nHost: here\r\n" % size + end)
    return client


def test_who_does_not_read_the_answer_is_not_waited_for() -> None:
    with answering() as (server, port), contextlib.ExitStack() as clients:
        late = []
        for size in (40_000, 400_000):  # below and above what makes uvicorn wait
            for end in (b"\r\n", b"Connection: close\r\n\r\n", b"\r\nGET"):
                clients.enter_context(asking(port, size, end))
            late.append((size, clients.enter_context(asking(port, size, b"Connection: close\r\n\r\n"))))
        until(lambda: len(server.server_state.connections) == 8)
        for size, client in late:
            assert len(client.makefile("rb").read()) > size
        until(lambda: not server.server_state.connections, 9)


def told(service: Service, *sent: bytes) -> bytes:
    """What the service answers to these bytes, sent one after the other, until it closes or says nothing more."""
    found = b""
    with socket.create_connection((service.host, service.port), timeout=1) as client, contextlib.suppress(OSError):
        for part in sent:
            client.sendall(part)
            time.sleep(0.02)
        while more := client.recv(100_000):
            found += more
    return found


POST = f"POST /predict HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {KEY}\r\nConnection: ".encode()
CHUNKED = b"close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(IMAGE), IMAGE)


@pytest.mark.parametrize("begun", [b"", POST, POST + CHUNKED])
def test_headers_and_trailers_without_end_are_refused(guarded: Service, begun: bytes) -> None:
    for endless in (b"a" * 1_000_000, b"a: b\r\n" * 200_000):
        assert told(guarded, begun, endless)[:13] in (b"HTTP/1.1 400 ", b"")  # reset while it still sends
    assert guarded.request("GET", "/health/live")[0] == 200


def test_trailers_change_nothing(guarded: Service) -> None:
    assert told(guarded, POST + CHUNKED, b"Content-Type: multipart/form-data\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "offer", [b"Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA", b"upgrade\r\nUpgrade: websocket"]
)
def test_an_offer_of_another_protocol_is_passed_over(guarded: Service, offer: bytes) -> None:
    head = POST + offer + b"\r\nContent-Length: %d\r\n\r\n" % len(IMAGE)
    for sent in ([head + IMAGE], [head[:-3], head[-3:] + IMAGE[:50], IMAGE[50:]]):
        answer = told(guarded, *sent, POST + CHUNKED + b"\r\n")  # the connection lives on
        assert answer.count(b"HTTP/1.1 200 ") == 2
    assert told(guarded, b"CONNECT there:443 HTTP/1.1\r\nHost: there\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_bodies_are_held_only_as_memory_allows(pristine_export: Path) -> None:
    limits = ("--max-bytes", 100_000, "--max-memory", 150_000)
    with serving(pristine_export, *limits) as service:
        with dawdle(service, 100_000, 99_000):
            until(lambda: not waited_for(service))
            assert service.predict(IMAGE)[0] == 200
        until(lambda: waited_for(service))


def waited_for(service: Service) -> bool:
    """Whether the rest of a large body is waited for; otherwise it is refused."""
    with dawdle(service, 100_000, 99_000) as client:
        client.settimeout(0.5)
        try:
            assert client.recv(1000).startswith(b"HTTP/1.1 503 ")
        except TimeoutError:
            return True
    return False


def test_a_body_is_held_once() -> None:
    chunks = [{"type": "http.request", "body": bytes(100_000), "more_body": more} for more in (*[True] * 49, False)]

    async def receive() -> Any:
        return chunks.pop(0)

    async def held() -> int:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        end = asyncio.get_running_loop().time() + 20
        async with BodyReader(10_000_000, 10_000_000, busy).reading(request, end) as body:
            assert body == bytes(5_000_000)
            return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        assert asyncio.run(held()) < 6e6
    finally:
        tracemalloc.stop()


def test_an_image_of_few_pixels_takes_no_great_memory(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 1, "--max-pixels", 1_000_000, "--max-bytes", 4_000_000) as service:
        (worker,) = psutil.Process(service.process.pid).children()
        status, answer = service.predict(many_strips(900_000))
        assert (status, answer["error"]) == (422, "it would take too much memory to decode")
        assert service.predict(IMAGE)[0] == 200
        assert worker.is_running()


def test_only_the_formats_allowed_are_decoded(pristine_export: Path) -> None:
    with serving(pristine_export, "--formats", "png,webp") as service:
        assert service.predict(encoded(SAMPLES["000.jpg"], "PNG"))[0] == 200
        status, answer = service.predict(IMAGE)
        assert (status, answer["error"]) == (422, "not an image file in one of the formats PNG, WEBP")


def test_sigterm_finishes_what_is_running(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 1) as service, ThreadPoolExecutor(3) as clients:
        image = encoded(Image.new("RGB", (4000, 4000)), "PNG")
        answers = [clients.submit(service.predict, image) for _ in range(3)]
        while b"fourfold_requests_waiting 2.0" not in service.answer("GET", "/metrics")[2]:
            assert not any(answer.done() for answer in answers)
        service.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert service.process.wait(10) == 0
        assert time.monotonic() - started < 10
        assert [answer.result()[0] for answer in answers] == [200, 200, 200]


def test_what_the_services_end_cuts_off_is_told_to_come_back() -> None:
    async def endless(*_: object) -> None:
        await asyncio.Event().wait()

    async def cut_off() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        front = Front(endless, Metrics({"experiment": "e900"}, Workers(0, 0)), None)
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        task = asyncio.create_task(front(scope, Request(scope).receive, send))
        await asyncio.sleep(0)
        task.cancel()  # as uvicorn does after SHUTDOWN_SECONDS
        await task
        return sent

    start, body = asyncio.run(cut_off())
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"1")
    assert json.loads(body["body"]) == {"error": "the service is ending; try again"}


def test_without_descriptors_it_says_so_now_and_then_and_goes_on_when_it_has_some(
    pristine_export: Path, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with serving(pristine_export, "--parallel", 1, log=tmp_path / "log") as service:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)[0] > 64
            resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (24, hard))
            with contextlib.ExitStack() as many:
                for _ in range(40):
                    many.enter_context(socket.create_connection((service.host, service.port)))
                time.sleep(1.2)
            assert service.predict(IMAGE)[0] == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    told = [line for line in (tmp_path / "log").read_text().splitlines() if "out of system resource" in line]
    assert 1 <= len(told) <= 4
