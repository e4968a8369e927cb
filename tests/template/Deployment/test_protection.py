"""The API key, limits, log and shutdown of the service."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image
from starlette.requests import Request

from Deployment.service.monitoring import Monitoring
from tests.template.conftest import ROOT, png_bomb, until
from tests.template.Deployment.made_export import SAMPLES, encoded, graph, write_manifest
from tests.template.Deployment.running_service import Service, command, serving

IMAGE = encoded(SAMPLES["000.jpg"])
LARGE = encoded(Image.new("RGB", (5400, 5400)), "PNG")  # decoding it takes a good part of a second
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
    """The log's lines after the first, of the start, once there are so many: one is written just after its answer."""
    deadline = time.monotonic() + 5
    while log.read_text().count("\n") <= number and time.monotonic() < deadline:
        time.sleep(0.01)
    return [json.loads(line) for line in log.read_text().splitlines()[1:]]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Bearer {KEY[:-1]}"}, {"Authorization": KEY},
     {"Authorization": f"Basic {KEY}"},
     {"Authorization": "Bearer "}, {"Authorization": "Bearer \xe9"}, {"X-API-Key": KEY}],
)  # fmt: skip
def test_requests_without_the_key_are_refused(guarded: Service, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/predict"),
        ("POST", "/predict/batch"),
        ("GET", "/sample"),
        ("GET", "/sample/truth"),
        ("GET", "/manifest"),
        ("GET", "/metrics"),
    ):
        status, found, body = guarded.answer(method, path, b"x" * 1_000_000 if method == "POST" else None, headers)
        assert (status, found["www-authenticate"]) == (401, "Bearer")
        assert "FOURFOLD" not in body.decode() and "e900" not in body.decode()


def test_requests_with_the_key_are_answered_and_health_needs_none(guarded: Service) -> None:
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


def test_an_old_and_a_new_key_are_both_accepted_and_blanks_around_them_are_none(pristine_export: Path) -> None:
    with serving(pristine_export, FOURFOLD_API_KEY=f"{KEY}, {KEY}-new\n") as service:
        for key, status in ((KEY, 200), (f"{KEY}-new", 200), (f"{KEY},{KEY}-new", 401), ("", 401)):
            assert service.request("GET", "/manifest", headers={"Authorization": f"Bearer {key}"})[0] == status


def test_a_parameter_that_does_not_exist_is_refused(guarded: Service) -> None:
    for method, path in (("POST", "/predict?treshold=0.5"), ("POST", "/predict/batch?a=1"), ("GET", "/sample?n=1")):
        headers = {**BEARER, "Content-Type": "multipart/form-data; boundary=b"} if "batch" in path else BEARER
        status, answer = guarded.request(method, path, IMAGE, headers)
        assert status == 422 and answer["error"].startswith(path.partition("?")[2].partition("=")[0])


def test_a_log_that_nobody_reads_holds_nothing_up(pristine_export: Path) -> None:
    words = [sys.executable, "-m", "Deployment.serve", str(pristine_export), "--port", "0", "--parallel", "1"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        host, _, port = process.stdout.readline().strip().rpartition("/")[2].partition(":")
        service = Service(process, host, int(port))
        for _ in range(1500):  # of some 160 bytes each, a pipe holds 64 KiB
            assert service.request("GET", "/health/live")[0] == 200
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()


def test_every_answer_has_the_headers_and_an_id(guarded: Service) -> None:
    for method, path, status in (
        ("GET", "/", 200),
        ("GET", "/no", 404),
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
        service.predict(png_bomb(10_000))  # of which Pillow warns
        assert [line["event"] for line in lines(tmp_path / "log", 3)] == ["request"] * 3
        service.request("GET", "/%C2%9B31m")  # which some terminals take for a colour
        assert lines(tmp_path / "log", 4)[3]["path"] == "/\x9b31m"
        assert (tmp_path / "log").read_text().isascii()
    assert (first["request_id"], first["path"], first["status"], first["level"]) == ("mine-1", "/predict", 200, "info")
    assert (second["request_id"], second["status"]) == (made, 422)
    assert re.fullmatch("[0-9a-f]{16}", made), "one that a log would have to escape is replaced"
    assert first["ms"] > 0 and "time" in first


def test_the_reason_of_a_500_is_in_the_log_only(export: Path, tmp_path: Path) -> None:
    fails_on_77(export)
    with serving(export, log=tmp_path / "log") as service:
        status, headers, body = service.answer("POST", "/predict", FATAL)
        assert service.predict(IMAGE)[0] == 200
        failed, fine = lines(tmp_path / "log", 2)
    assert status == 500
    assert json.loads(body) == {"error": "the service failed on this request; see its log"}
    assert headers["x-content-type-options"] == "nosniff"
    assert (failed["level"], failed["request_id"]) == ("error", headers["x-request-id"])
    assert "GatherElements" in str(failed["exception"])
    assert fine["status"] == 200


def test_a_full_queue_answers_503(pristine_export: Path) -> None:
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
        assert all((retry and "timed out" in error) or "failed" in error for retry, error in late)
        until(lambda: service.predict(IMAGE)[0] == 200)


def dawdle(service: Service, size: int, sent: int) -> socket.socket:
    """A client that announces a body of `size` bytes, sends some and then nothing."""
    client = socket.create_connection((service.host, service.port))
    client.sendall(f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * sent)
    return client


def test_a_body_that_does_not_arrive_gets_408(pristine_export: Path) -> None:
    with serving(pristine_export, "--seconds", 1) as service, dawdle(service, 1000, 10) as client:
        client.settimeout(15)
        started = time.monotonic()
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert 0.5 < time.monotonic() - started < 9


def test_an_offer_to_upgrade_is_refused_with_the_reason(guarded: Service) -> None:
    """uvicorn drops the body of such a request, as Java's client sends by default."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AA"}
    status, answer = guarded.request("POST", "/predict", IMAGE, BEARER | offer)
    assert (status, "HTTP/1.1" in answer["error"]) == (400, True)
    assert guarded.request("POST", "/predict", IMAGE, BEARER)[0] == 200


def test_an_idle_connection_stays_open_for_the_seconds_of_keep_alive(guarded: Service, pristine_export: Path) -> None:
    with serving(pristine_export, "--keep-alive", 1) as brief:
        connections = [HTTPConnection(each.host, each.port, timeout=20) for each in (brief, guarded)]
        for connection in connections:
            connection.request("GET", "/health/live")
            connection.getresponse().read()
        time.sleep(6)  # uvicorn's own default is 5
        closed, kept = (connection.sock for connection in connections)
        assert closed.recv(1) == b""
        connections[1].request("GET", "/health/live")
        assert connections[1].getresponse().status == 200
        assert connections[1].sock is kept


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


def test_requests_cut_off_by_the_shutdown_get_503() -> None:
    async def endless(*_: object) -> None:
        await asyncio.Event().wait()

    async def cut_off() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        front = Monitoring(endless)
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        task = asyncio.create_task(front(scope, Request(scope).receive, send))
        await asyncio.sleep(0)
        task.cancel()  # as uvicorn does after SHUTDOWN_SECONDS
        await task
        return sent

    start, body = asyncio.run(cut_off())
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"1")
    assert json.loads(body["body"]) == {"error": "the service is shutting down; try again"}
