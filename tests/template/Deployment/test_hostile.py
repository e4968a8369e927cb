"""Nothing that is sent brings the service down, or to a wrong answer.

The full share: python -m tests.benchmarks.bench_hostile
"""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies
from schemathesis.specs.openapi import checks as openapi

from Datasets.format.images import FORMATS as ALL
from tests.template.Deployment.hostile import READABLE, UNREADABLE, mutated
from tests.template.Deployment.made_export import SAMPLES, encoded
from tests.template.Deployment.running_service import Service, form, serving

FORMATS = ",".join(ALL)
IMAGE = encoded(SAMPLES["000.jpg"])
BATCH_TYPES = strategies.sampled_from(
    ["multipart/form-data; boundary=b", "multipart/form-data", 'Multipart/Form-Data;boundary="b"', "image/png", "", "/"]
)
PARTS = strategies.sampled_from(
    [b"--b", b"--b--", b"\r\n", b"\n", b'Content-Disposition: form-data; name="f"; filename="x"', b"Content-Type: x",
     b"Content-Disposition: form-data", b"Content-Transfer-Encoding: base64", b"filename*=utf-8''%ff", b": ",
     IMAGE, b"\0"]
)  # fmt: skip
RELAXED = hypothesis.settings(
    max_examples=80, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=True, database=None
)


@pytest.fixture(scope="module")
def service(pristine_export: Path) -> Iterator[Service]:
    with serving(pristine_export, "--max-bytes", 2_000_000, "--log-level", "warning", "--formats", FORMATS) as running:
        yield running
        assert running.process.poll() is None
        assert running.predict(IMAGE)[0] == 200


def is_harmless(answer: tuple[int, Any]) -> bool:
    """Whether an answer is a prediction, or one line that tells nothing of the machine."""
    status, body = answer
    if status == 200:
        return set(body) in ({"width", "height", "labels", "counts", "boxes"}, {"answers"})
    return status < 500 and set(body) == {"error"} and not re.search(r"\n|/\w+/|\.py|0x|Traceback", body["error"])


@pytest.mark.parametrize("name", READABLE)
def test_a_strange_image_is_answered(service: Service, name: str) -> None:
    status, answer = service.predict(READABLE[name])
    assert status == 200, answer
    assert is_harmless((status, answer))


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_hostile_body_is_refused_soon_and_at_no_great_cost(service: Service, name: str) -> None:
    before, started = service.memory(), time.monotonic()
    answer = service.predict(UNREADABLE[name])
    assert answer[0] == 422, answer
    assert is_harmless(answer)
    assert time.monotonic() - started < 10
    assert service.memory() - before < 300e6
    assert service.predict(IMAGE)[1]["labels"] == ["blue", "red"]


def test_damaged_files_of_every_format(service: Service) -> None:
    rng = Random(1)
    files = [mutated(rng) for _ in range(300)]
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(service.predict, files))
    assert [answer for answer in answers if not is_harmless(answer)] == []
    assert {status for status, _ in answers} == {200, 422}


@RELAXED
@hypothesis.given(
    strategies.binary(max_size=300) | strategies.binary(max_size=100).map(lambda tail: IMAGE[:400] + tail)
)
def test_any_body(service: Service, body: bytes) -> None:
    assert is_harmless(service.predict(body))


@RELAXED
@hypothesis.given(strategies.lists(PARTS | strategies.binary(max_size=20), max_size=12).map(b"".join), BATCH_TYPES)
def test_any_form(service: Service, body: bytes, content_type: str) -> None:
    for path in ("/predict", "/predict/batch"):
        assert is_harmless(service.request("POST", path, body, {"Content-Type": content_type}))


def test_a_batch_of_everything(service: Service) -> None:
    files = [file for file in (READABLE | UNREADABLE).values() if len(file) < 100_000]
    status, batch = service.request("POST", "/predict/batch", *form(*((str(i), file) for i, file in enumerate(files))))
    assert status == 200
    assert [answer["image"] for answer in batch["answers"]] == [str(i) for i in range(len(files))]
    assert {tuple(sorted(answer)) for answer in batch["answers"]} == {
        ("error", "image"),
        ("boxes", "counts", "height", "image", "labels", "width"),
    }


CHECKS = [
    schemathesis.checks.not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
    openapi.response_headers_conformance,
    openapi.unsupported_method,
    openapi.negative_data_rejection,
]


def test_the_service_keeps_to_its_own_document(service: Service) -> None:
    address = f"http://{service.host}:{service.port}"
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:

            @hypothesis.settings(RELAXED, max_examples=25)
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def keeps(case: schemathesis.Case) -> None:
                nonlocal asked
                case.call_and_validate(base_url=address, checks=CHECKS)
                asked += 1

            with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong where nothing is asked
                keeps()
    assert asked > 100


def test_slow_clients_and_clients_that_leave_keep_nobody_waiting(service: Service) -> None:
    request = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n"
    slow = [socket.create_connection((service.host, service.port)) for _ in range(200)]
    for number, client in enumerate(slow):
        client.sendall([b"", b"POST /pre", request, request + b"half"][number % 4])
    started = time.monotonic()
    assert service.predict(IMAGE)[0] == 200
    assert time.monotonic() - started < 8  # less than headers are waited for
    for client in slow:
        client.close()
    leavers = [socket.create_connection((service.host, service.port)) for _ in range(50)]
    for client in leavers:
        client.sendall(f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE)
        client.close()
    assert service.predict(IMAGE)[0] == 200
    assert json.loads(service.answer("GET", "/health/live")[2]) == {"status": "ok"}


@pytest.mark.parametrize(
    "text",
    [b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n",
     b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01",
     b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused(service: Service, text: bytes) -> None:
    with socket.create_connection((service.host, service.port), timeout=10) as client:
        try:
            client.sendall(text)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100)[:13] in (b"", b"HTTP/1.1 400 ")
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert service.predict(IMAGE)[0] == 200
